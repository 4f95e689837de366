"""When failures end a run."""

from __future__ import annotations

import pytest

from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.execution.halting import Halting, HaltRule, alike, parse_halt


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("same", HaltRule(same=True)),
        ("never", HaltRule()),
        ("soon,fail=3", HaltRule(failed=3)),
        ("now,fail=1", HaltRule(is_now=True, failed=1)),
        ("soon,fail=10%", HaltRule(percent=10)),
    ],
)
def test_words_of_gnu_parallel_are_understood(words: str, rule: HaltRule) -> None:
    """Those that concern failures."""
    assert parse_halt(words) == rule


@pytest.mark.parametrize("words", ["", "soon", "now,fail=0", "soon,fail=101%", "later,fail=1"])
def test_other_words_are_refused(words: str) -> None:
    """With those that there are."""
    with pytest.raises(UsageError, match="must be same, never, soon,fail=N"):
        parse_halt(words)


def test_so_many_files_or_such_a_share_of_them() -> None:
    """Files that are given up count, and attempts do not."""
    number, share = Halting(parse_halt("soon,fail=2")), Halting(parse_halt("now,fail=50%"))
    for halting in (number, share):
        for _ in range(9):
            halting.fail("/a.fa", "0", "no")
        halting.give_up()
        assert halting.verdict(4, 1) is None
        halting.give_up()
    assert number.verdict(4, 1) == "--halt: 2 files failed"
    assert share.verdict(4, 1) == "--halt: 2 files of 4 failed"
    assert share.verdict(5, 1) is None


def test_the_same_error_on_file_after_file_is_enough() -> None:
    """Names and numbers of the files do not count as differences."""
    halting = Halting(parse_halt("same"))
    for number in range(6):
        assert halting.verdict(13, 2) is None
        path = f"/in/reads{number // 2}.fa"
        halting.fail(path, str(number % 2), f"cat: {path}.tmp: no such file, line {number}")
    assert halting.verdict(13, 2) == (
        "all files fail with the same error (cat: ....tmp: no such file, line #)"
    )


@pytest.mark.parametrize(
    "failures",
    [
        [("/a.fa", "0", "no")] * 6,  # one file
        [(f"/{n}.fa", "0", "CUDA error") for n in range(9)],  # one worker of two
        [(f"/{n}.fa", str(n % 2), f"error {'abcdefgh'[n]}") for n in range(8)],
        [(f"/{n}.fa", str(n % 2), "no") for n in range(5)],
    ],
)
def test_errors_of_one_file_or_worker_end_nothing(failures: list[tuple[str, str, str]]) -> None:
    """Nor do errors that differ, or few."""
    halting = Halting(parse_halt("same"))
    for failure in failures:
        halting.fail(*failure)
    assert halting.verdict(13, 2) is None


def test_a_result_shows_that_files_can_be_done() -> None:
    """Whatever else fails in the same way."""
    halting = Halting(parse_halt("same"))
    halting.succeed()
    for number in range(9):
        halting.fail(f"/{number}.fa", str(number % 2), "no")
    assert halting.verdict(13, 2) is None


def test_short_names_are_no_part_of_an_error() -> None:
    """A file called `a` does not take all letters a out."""
    assert alike("bad alignment 12 at 0xff", "/in/a") == "bad alignment # at #"
