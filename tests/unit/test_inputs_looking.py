from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator
from typing import cast

from virnucpro_exporter.files.looking import TOGETHER, answers_about, look_at


def idle() -> float:
    """The processor time of a thread that only waits."""
    return 0.0


def waiting() -> Callable[[], float]:
    """A clock that goes on with each look, beside a processor that does not."""
    return itertools.count().__next__


def test_many_files_are_asked_about_at_the_same_time_where_answers_take_long() -> None:
    """One question that takes long holds up no other part, and the answers keep their order."""
    meeting = threading.Barrier(3)
    files = [0] * 8 + list(range(3 * TOGETHER))

    def ask(number: int) -> int:
        if number % TOGETHER == 1:
            meeting.wait(timeout=60)  # until all three parts are being asked about
        return -number

    assert look_at(files, ask, waiting(), idle) == [-number for number in files]


def test_files_that_are_near_need_no_thread() -> None:
    """Where no answer is waited for, threads would only hold each other up."""
    answers = look_at(range(500), lambda _: threading.current_thread(), idle, idle)
    assert {thread.ident for thread in answers} == {threading.get_ident()}


def test_nobody_is_asked_in_vain_once_the_caller_has_heard_enough() -> None:
    """Parts that were not begun are left."""
    asked: list[int] = []
    answers = answers_about(range(10**6), asked.append, waiting(), idle)
    next(answers)
    next(answers)
    cast("Generator[list[None]]", answers).close()
    assert len(asked) < 10**5
