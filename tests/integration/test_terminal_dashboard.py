import csv
import fcntl
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyte
import pytest

from tests.run_program import as_a_job
from virnucpro_exporter.csv_log.writer import HEADER

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "tests.integration.terminal_program"]
# The program asks its own terminal for the size, not the one in which the tests run.
_SIZES = ("COLUMNS", "LINES")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in _SIZES},
    "TERM": "xterm-256color",
    "PYTHONIOENCODING": "utf-8",
}
DEADLINE = 100.0
CLEARS = (b"\x1b[2J", b"\x1b[3J", b"\x1b[J", b"\x1b[0J", b"\x1b[?1049h", b"\x1bc")


UPDATE = re.compile(rb"(?=\r\x1b\[2K\x1b\[1A)")  # where an update begins
COLOR = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9;]*)?m")


class Terminal:
    """A program on a pseudo-terminal, and the screen a person would see."""

    def __init__(
        self, log: Path, columns: int, lines: int, words: Sequence[str] = (), **environment: str
    ) -> None:
        self._set_screen(columns, lines)
        self.written = b""
        self.master, slave = pty.openpty()
        self.slave = slave
        self.modes = termios.tcgetattr(slave)
        self._set_size(columns, lines)
        self.process = subprocess.Popen(
            [*PROGRAM, str(log), *words], cwd=ROOT, env=ENVIRONMENT | environment,
            stdin=slave, stdout=slave, stderr=slave,
            preexec_fn=as_a_job,  # noqa: PLW1509 - process_group needs Python 3.11
        )  # fmt: skip

    def _set_screen(self, columns: int, lines: int) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self.stream = pyte.ByteStream(self.screen)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """As a person drags the window's corner."""
        self._set_size(columns, lines)
        self.screen.resize(lines, columns)

    def read(self, seconds: float) -> None:
        """Feed the screen with what the program writes within these seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.master], [], [], left)[0]:
                data = os.read(self.master, 65536)
                self.written += data
                self.stream.feed(data)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Read on until the condition holds, or fail with the screen."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, "\n".join(self.screen.display)
            self.read(0.05)

    def replay(self) -> Iterator[bool]:
        """Whether the screen was whole after each update so far, from the first."""
        self._set_screen(self.screen.columns, self.screen.lines)
        first, *updates = UPDATE.split(self.written)
        self.stream.feed(first)
        for update in updates[:-1]:  # the last may not be complete
            self.stream.feed(update)
            yield self.has_whole_table()

    def has_whole_table(self) -> bool:
        """Exactly one heading, each GPU once below it, and no torn line among them."""
        lines = [line.rstrip() for line in self.screen.display]
        heads = [i for i, line in enumerate(lines) if line.startswith("GPU")]
        if len(heads) != 1:
            return False
        rows = lines[heads[0] + 1 : heads[0] + 5]
        return [row[:1] for row in rows] == list("0123") and all("busy" in row for row in rows)

    def close(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def is_hidden(terminal: Terminal) -> bool:
    hidden: bool = terminal.screen.cursor.hidden
    return hidden


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    shown = Terminal(tmp_path / "log.csv", 100, 30)
    yield shown
    shown.close()


@pytest.fixture(params=[(), ("streams",)], ids=["a pipeline", "the command line"])
def logging_terminal(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    shown = Terminal(tmp_path / "log.csv", 100, 30, request.param)
    yield shown
    shown.close()


def test_updates_do_not_flicker_and_log_lines_scroll_above(logging_terminal: Terminal) -> None:
    """The table stays whole, nothing clears the screen, and log lines pass above it."""
    terminal = logging_terminal
    terminal.wait_for(lambda: b"logged 20" in terminal.written)
    terminal.wait_for(terminal.has_whole_table)
    assert not any(code in terminal.written for code in CLEARS)
    whole = list(terminal.replay())
    assert len(whole) >= 20
    assert all(whole)
    lines = [line.rstrip() for line in terminal.screen.display]
    logged = [line for line in lines if line.startswith("logged")]
    assert logged
    assert lines.index(logged[-1]) < next(i for i, x in enumerate(lines) if x.startswith("GPU"))
    assert b"printed by" in terminal.written


def test_resizing_leaves_one_whole_table(terminal: Terminal) -> None:
    """From large to small and back, the screen shows the table once."""
    terminal.wait_for(terminal.has_whole_table)
    for columns, lines in ((200, 50), (60, 12), (200, 50)):
        cleared = terminal.written.count(b"\x1b[2J")
        terminal.resize(columns, lines)
        terminal.wait_for(lambda before=cleared: terminal.written.count(b"\x1b[2J") > before)  # type: ignore[misc]  # bound per turn
        terminal.wait_for(terminal.has_whole_table)


@pytest.mark.parametrize(
    ("number", "words", "status"),
    [
        (signal.SIGTERM, (), 143),
        (signal.SIGTERM, ("bare",), -signal.SIGTERM),
        (signal.SIGINT, (), -signal.SIGINT),
        (signal.SIGUSR1, (), 1),
    ],
    ids=["SIGTERM", "SIGTERM without a handler", "Ctrl-C", "an exception"],
)
def test_the_terminal_is_given_back(
    tmp_path: Path, number: signal.Signals, words: tuple[str, ...], status: int
) -> None:
    """However the program ends, the cursor shows again and the modes are what they were."""
    terminal = Terminal(tmp_path / "log.csv", 100, 30, words)
    try:
        terminal.wait_for(terminal.has_whole_table)
        assert is_hidden(terminal)
        assert not echoes(terminal)
        terminal.process.send_signal(number)
        terminal.wait_for(lambda: terminal.process.poll() is not None)
        terminal.wait_for(lambda: not is_hidden(terminal))
        assert termios.tcgetattr(terminal.slave) == terminal.modes
        assert terminal.process.returncode == status
    finally:
        terminal.close()


def test_ctrl_z_gives_the_cursor_back_and_fg_draws_again(terminal: Terminal) -> None:
    """While the program is stopped the shell has its cursor; then the table is there once."""
    terminal.wait_for(terminal.has_whole_table)
    assert is_hidden(terminal)
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.wait_for(lambda: stat_of(terminal.process.pid) == "T")
    terminal.wait_for(lambda: not is_hidden(terminal))
    assert termios.tcgetattr(terminal.slave) == terminal.modes
    cleared = terminal.written.count(b"\x1b[2J")
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait_for(lambda: terminal.written.count(b"\x1b[2J") > cleared)
    terminal.wait_for(terminal.has_whole_table)
    assert is_hidden(terminal)
    assert not echoes(terminal)


def echoes(terminal: Terminal) -> bool:
    """Whether the terminal shows the keys that are pressed."""
    return bool(termios.tcgetattr(terminal.slave)[3] & termios.ECHO)


def stat_of(pid: int) -> str:
    """The state of a process, as a letter."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_neither_colours_nor_unicode_where_they_are_not_wanted(tmp_path: Path) -> None:
    """NO_COLOR and a C locale leave a table in plain ASCII; otherwise both are there."""
    for environment in ({}, {"NO_COLOR": "1", "LC_ALL": "C"}):
        shown = Terminal(tmp_path / "log.csv", 100, 30, **environment)
        try:
            shown.wait_for(shown.has_whole_table)
        finally:
            shown.close()
        assert bool(COLOR.search(shown.written)) is not bool(environment)
        assert shown.written.isascii() is bool(environment)


def test_a_terminal_without_a_cursor_gets_plain_lines(tmp_path: Path) -> None:
    """TERM=dumb shows the run, too, and without control sequences."""
    shown = Terminal(tmp_path / "log.csv", 100, 30, TERM="dumb")
    try:
        shown.wait_for(lambda: b"8/26 files (25%)" in shown.written)
    finally:
        shown.close()
    assert b"\x1b" not in shown.written


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    """A pipe gets log lines with the same facts, and no control sequence."""
    process = subprocess.Popen(
        [*PROGRAM, str(tmp_path / "log.csv")], cwd=ROOT, env=ENVIRONMENT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    seen = b""
    while b"4 of 4 GPUs busy" not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    process.kill()
    process.communicate()
    assert b"\x1b" not in seen


def test_the_log_is_whole_after_a_kill(tmp_path: Path) -> None:
    """SIGKILL at random moments leaves whole lines under one header."""
    path = tmp_path / "log.csv"
    for _ in range(3):
        grown = path.stat().st_size if path.exists() else 0
        process = subprocess.Popen(
            [*PROGRAM, str(path)], cwd=ROOT, env=ENVIRONMENT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + DEADLINE
        while not path.exists() or path.stat().st_size <= grown:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.2))
        process.kill()
        process.wait()
        text = path.read_text()
        assert text.endswith("\n")
        assert text.count(HEADER) == 1
        rows = list(csv.DictReader(text.splitlines()))
        assert len(rows) % 4 == 0
        assert all(float(row["compute_percent"]) == 97 for row in rows)
