"""Commands, run for real but without a pool."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors import build
from virnucpro_exporter.processors.command import CommandError, CommandProcessor


def ignore(sequences: int, residues: int | None = None) -> None:
    """Take progress reports."""


def test_placeholders_are_replaced_once_and_without_a_shell(tmp_path: Path) -> None:
    """A path that looks like a placeholder or shell syntax arrives as it is."""
    processor = CommandProcessor(
        ["sh", "-c", 'echo "$1" "$2" > "$3"', "sh", "{input}", "{gpu}", "{output}"]
    )
    processor.setup("0")
    file = Path("a {gpu} $(x).fa")
    output = tmp_path / processor.output_names(file)[0]
    processor.process(file, output, ignore)
    assert output.read_text() == "a {gpu} $(x).fa 0\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo first >&2; echo worst >&2; exit 3", "the command ended with status 3: worst"),
        ("kill -9 $$", "the command ended with Killed"),
        ("true", "the command succeeded but wrote no {output}"),
    ],
)
def test_a_failing_command_is_one_line(tmp_path: Path, script: str, message: str) -> None:
    """The status and the last line of standard error, or the missing output, say what happened."""
    processor = CommandProcessor(["sh", "-c", script, "{output}"])
    processor.setup("0")
    with pytest.raises(CommandError, match=f"^{message}$"):
        processor.process(Path("f"), tmp_path / "f.out", ignore)


def test_a_missing_command_is_known_before_any_work() -> None:
    """The check names the program that does not exist."""
    with pytest.raises(ProcessorError, match="command not found: no-such-program"):
        CommandProcessor(["no-such-program"]).check()


def test_python_targets_are_loaded_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function becomes a processor; what cannot be imported is one clear line."""
    for name in ("__main__", "__mp_main__"):  # put back after the script took these names
        monkeypatch.setitem(sys.modules, name, sys.modules["__main__"])
    processor = build({"kind": "python", "target": "shutil:copyfileobj"})
    assert list(processor.output_names(Path("a.fa"))) == ["a.fa.out"]
    script = tmp_path / "script.py"
    script.write_text("def count(file, output, progress):\n    return 7\n")
    mine = build({"kind": "python", "target": "__mp_main__:count", "main": str(script)})
    assert mine.process(Path("a"), Path("b"), ignore).sequences == 7
    for target in ("no_such_module:x", "os:no_such_name", "os"):
        with pytest.raises(ProcessorError, match=r"os|no_such"):
            build({"kind": "python", "target": target})
