from __future__ import annotations

import threading

from virnucpro_exporter.files.looking import TOGETHER, look_at


def test_many_files_are_asked_about_at_the_same_time() -> None:
    """One question that takes long holds up no other part, and the answers keep their order."""
    meeting = threading.Barrier(3)
    count = 3 * TOGETHER

    def ask(number: int) -> int:
        if number % TOGETHER == 0:
            meeting.wait(timeout=60)  # until all three parts are being asked about
        return -number

    assert look_at(range(count), ask) == [-number for number in range(count)]


def test_few_files_need_no_thread() -> None:
    """Where there is little to ask, the caller asks itself."""
    callers = {
        thread.ident for thread in look_at(range(TOGETHER), lambda _: threading.current_thread())
    }
    assert callers == {threading.get_ident()}
