"""What is shown of texts that strangers may have written."""

from __future__ import annotations

import io
import logging
import re
import sys
import unicodedata
from pathlib import Path

import pytest

from virnucpro_exporter import streams
from virnucpro_exporter.text import clean, clean_lines

PACKAGE = Path(__file__).parents[2] / "virnucpro_exporter"
ACTING = "\x1b[2J\x1b]0;x\x07\r\n\x00\x7f\x85\x9b31m\u202eabc\u2066\u2028\u2029\u200f\udcff\ufeff"


PERSIAN = "\u0646\u0645\u0648\u0646\u0647\u200c\u0647\u0627"


@pytest.mark.parametrize(
    "name", ["样.fa", "école", "Größe", PERSIAN, "👩\u200d🔬", "a\u00a0b", "e\u0301", "한"]
)
def test_letters_stay_what_they_are(name: str) -> None:
    """Of any script, with the joiners and spaces that belong to it."""
    assert clean(name) == clean_lines(name) == name


def test_nothing_acts_on_a_terminal() -> None:
    """Controls, ends of lines, directions and broken bytes are shown as what they are."""
    shown = clean(ACTING)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert shown.startswith(r"\x1b[2J\x1b]0;x\x07\r\n\x00\x7f\x85\x9b31m\u202eabc\u2066\u2028")
    assert clean("a\udcff") == r"a\xff"
    assert clean("样\x1b", ascii_only=True) == r"?\x1b"
    assert clean_lines("a\tb\n\x1b[1mc\r\n") == "a\tb\n\\x1b[1mc\\r\n"


def output(encoding: str = "utf-8") -> tuple[streams.Output, io.BytesIO]:
    """A standard stream as the program has it, and what arrives behind it."""
    behind = io.BytesIO()
    return streams.Output(behind, encoding), behind


def test_standard_streams_clean_whatever_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody thought of it; only a screen draws with control characters."""
    stream, behind = output()
    monkeypatch.setattr(sys, "stderr", stream)
    sys.stderr.write(f"a {ACTING}\n")
    streams.say(f"b {ACTING}")
    stream.flush()
    text = behind.getvalue().decode()
    assert b"\x1b" not in behind.getvalue()
    assert text.count("\n") == 3  # one of them is printed, and not taken from a name
    streams.screen(error=True).write("\x1b[1m")
    stream.flush()
    assert behind.getvalue().endswith(b"\x1b[1m")


def test_letters_that_a_terminal_does_not_have_are_no_error() -> None:
    """They are shown by their number."""
    stream, behind = output("latin-1")
    stream.write("école 样\n")
    stream.flush()
    assert behind.getvalue() == b"\xe9cole \\u6837\n"


def test_a_log_record_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with an end of line cannot forge a record."""
    stream, behind = output()
    root = logging.getLogger()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    try:
        streams.start_logging("info", "%(message)s")
        logging.getLogger("virnucpro_exporter.x").warning(
            "lost %s", "a\n2026-01-01 all is well\x1b"
        )
    finally:
        root.setLevel(level)
    stream.flush()
    assert behind.getvalue() == b"lost a\\n2026-01-01 all is well\\x1b\n"


@pytest.mark.parametrize(
    "way_around", [r"basicConfig\(", r"StreamHandler\(", r"Console\(\)", r"Console\(stderr"]
)
def test_no_module_goes_around_the_streams(way_around: str) -> None:
    """Log handlers are made in one place, and tables say that they draw."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(way_around, path.read_text())
    }
    assert found <= {"streams.py"}
