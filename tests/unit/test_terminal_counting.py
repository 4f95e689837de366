"""How far a count is, on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from virnucpro_exporter.terminal.counting import CountingProgress


def count(console: Console, *steps: tuple[float, int]) -> None:
    """Tell at these seconds that so many of 100 MB have been counted."""
    now = 0.0
    with CountingProgress(100_000_000, console, lambda: now) as progress:
        for second, done in steps:
            now = second
            progress.update(done)


@pytest.mark.parametrize(("seconds", "is_shown"), [(0.9, False), (1.1, True)])
def test_a_bar_after_a_second(seconds: float, *, is_shown: bool) -> None:
    """A terminal shows a bar as soon as the count takes over a second."""
    screen = io.StringIO()
    count(Console(file=screen, force_terminal=True, width=80), (seconds, 40_000_000))
    assert ("40.0/100.0 MB" in screen.getvalue()) is is_shown


def test_lines_without_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    """A log gets a line every half minute, and no bar."""
    caplog.set_level(logging.INFO)
    file = io.StringIO()
    steps = [(1.0, 10_000_000), (31.0, 40_000_000), (45.0, 50_000_000), (62.0, 90_000_000)]
    count(Console(file=file, force_terminal=False), *steps)
    assert caplog.messages == [
        "counting the input files: 40 of 100 MB",
        "counting the input files: 90 of 100 MB",
    ]
    assert file.getvalue() == ""
