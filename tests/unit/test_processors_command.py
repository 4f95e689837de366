"""Commands, run for real but without a pool."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors import build
from virnucpro_exporter.processors.command import CommandError, CommandProcessor
from virnucpro_exporter.processors.progress_file import TAIL_BYTES, ProgressFile


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


@pytest.mark.parametrize("word", ["{inptu}", "--out={Output}", "{inputs}"])
def test_a_misspelt_placeholder_is_refused(word: str) -> None:
    """The message names the placeholder that is near."""
    with pytest.raises(ProcessorError, match=r"did you mean \{(input|output)\}\?"):
        CommandProcessor(["true", word]).check()


@pytest.mark.parametrize("word", ["{print}", "{print $1}", "${inputs}", "{}", "{1}"])
def test_braces_of_other_languages_are_left_alone(word: str) -> None:
    """Programs in awk and shell may stand in a command."""
    CommandProcessor(["true", word]).check()


def test_no_path_looks_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths that begin with a dash are given with their folder, within an argument too."""
    monkeypatch.chdir(tmp_path)
    Path("-n.fa").write_text(">a\nACGT\n")
    Path("-o").mkdir()
    script = ["sh", "-c", 'cp "$1" "$2" && echo "$3" "$4" >> "$2"', "sh"]
    processor = CommandProcessor([*script, "{input}", "{output}", "--in={input}", "{progress}"])
    processor.setup("0")
    processor.process(Path("-n.fa"), Path("-o/-n.fa.out"), ignore)
    expected = ">a\nACGT\n--in=./-n.fa ./-o/.virnucpro_progress\n"
    assert Path("-o/-n.fa.out").read_text() == expected
    assert [path.name for path in Path("-o").iterdir()] == ["-n.fa.out"]


@pytest.mark.parametrize(
    ("written", "done"),
    [
        (b"", 0),
        (b"12", 0),  # perhaps the beginning of a longer number
        (b"12\n34", 12),
        (b" 12 \r\n", 12),
        (b"7\n12\n9\n", 12),
        (b"3\nnot a number\n-5\n1e3\n4.5\n\n\xff\x00\n0x10\n4 5\n", 3),
        (b"5\n999999\n" + b"9" * 400 + b"\n", 5),
        (b"8\n" + b"9" * TAIL_BYTES + b"\n4\n", 4),
        (b"\n".join(b"%d" % number for number in range(30000)) + b"\n", 29999),
    ],
)
def test_progress_is_the_highest_whole_number_on_a_line(
    tmp_path: Path, written: bytes, done: int
) -> None:
    """Garbage, half lines, and numbers that the input cannot hold are not progress."""
    file = ProgressFile(tmp_path, input_bytes=30)
    assert not file.read()
    file.path.write_bytes(written)
    assert file.read() == (done > 0)
    assert file.done == done
    assert not file.read()


def test_progress_never_goes_back_and_its_last_line_counts(tmp_path: Path) -> None:
    """A file that is written anew is read anew; at the end a line needs no line break."""
    file = ProgressFile(tmp_path, input_bytes=30)
    for written, grown, done in ((b"10\n", True, 10), (b"9\n", False, 10), (b"11\n", True, 11)):
        file.path.write_bytes(written)
        assert (file.read(), file.done) == (grown, done)
    file.path.write_bytes(b"12")
    assert not file.read()
    assert file.read(at_end=True)
    assert file.done == 12


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe or a folder in the place of the progress file holds up nothing."""
    file = ProgressFile(tmp_path, input_bytes=30)
    os.mkfifo(file.path)
    assert not file.read()
    file.path.unlink()
    file.path.mkdir()
    assert not file.read()


def test_a_command_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By placeholder or variable, while it runs and at its end; nothing is left of the channel."""
    monkeypatch.setattr("virnucpro_exporter.processors.command.LOOK_SECONDS", 0.01)
    script = """
        exec 3>> "$1"
        sleep 1000 & # a program that keeps the file open
        echo 3 >&3
        while [ ! -e "$2" ]; do sleep 0.01; done
        echo 5 >> "$VIRNUCPRO_PROGRESS"
    """
    processor = CommandProcessor(["sh", "-c", script, "sh", "{progress}", str(tmp_path / "go")])
    processor.setup("0")
    file = tmp_path / "f.fa"
    file.write_text(">a\nACGT\n")
    reports: list[int] = []

    def progress(sequences: int, residues: int | None = None) -> None:
        assert residues is None
        reports.append(sequences)
        (tmp_path / "go").touch()

    folder = tmp_path / "7"
    processor.process(file, folder / "output", progress)
    assert reports == [3, 5]
    assert not folder.exists()


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
    (tmp_path / "f").touch()
    with pytest.raises(CommandError, match=f"^{message}$"):
        processor.process(tmp_path / "f", tmp_path / "f.out", ignore)


def test_an_input_that_is_gone_is_no_fault_of_the_command(tmp_path: Path) -> None:
    """What a program says of a missing file differs from program to program."""
    processor = CommandProcessor(["cat", "{input}"])
    processor.setup("0")
    with pytest.raises(FileNotFoundError):
        processor.process(tmp_path / "gone.fa", tmp_path / "output", ignore)


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
