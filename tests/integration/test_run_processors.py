"""Whole runs with a user's own commands and code."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.run_program import READS, ROOT, processes_of, results, run
from virnucpro_exporter import run_files

ODD_NAMES = [
    b"two words.fa",
    b'it\'s "quoted".fa',
    b"line\nbreak.fa",
    b"latin-\xe9.fa",
    b"-n.fa",
    b"{output}.fa",
    b"$HOME;*.fa",
]


def fill(folder: Path, *names: bytes) -> Path:
    folder.mkdir()
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(b">" + name.replace(b"\n", b" ") + b"\nACGT\n")
    return folder


def test_command_sees_odd_names_as_they_are(tmp_path: Path) -> None:
    """No shell, no encoding and no placeholder within a name changes what a command is given."""
    inputs = fill(tmp_path / "in", *ODD_NAMES)
    done = run(inputs, "--", "cp", "--", "{input}", "{output}", output=tmp_path / "out")
    assert done.returncode == 0
    expected = {os.fsencode(p.name) + b".out": p.read_bytes() for p in inputs.iterdir()}
    assert len(expected) == len(ODD_NAMES)
    assert results(tmp_path / "out") == expected


def test_odd_names_of_failed_files_stay_on_their_line(tmp_path: Path) -> None:
    """A failed file whose name has a line break or no encoding takes one line of the list."""
    inputs = fill(tmp_path / "in", *ODD_NAMES)
    fail = "echo out of luck >&2; exit 3"
    command = ["--max-attempts", "1", "--halt", "never", "--", "sh", "-c", fail]
    done = run(inputs, *command, output=tmp_path / "out")
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert done.returncode == 1
    assert len(failed) == len(ODD_NAMES)
    assert all("status 3: out of luck" in line for line in failed)


def test_file_that_kills_workers_fails_alone(tmp_path: Path) -> None:
    """A file is given up once it has killed as many workers as it has attempts."""
    inputs = fill(tmp_path / "in", b"poison.fa", *(b"%d.fa" % i for i in range(8)))
    words = ["--processor", "tests.run_processors:poisoned", "--max-attempts", "2"]
    done = run(inputs, *words, output=tmp_path / "out")
    assert done.returncode == 1
    assert "8 files done, 1 failed" in done.stdout
    assert f"failed: {str(inputs / 'poison.fa')!r}: " in done.stderr
    assert "exited with status 7" in done.stderr
    assert sorted(results(tmp_path / "out")) == [b"%d.fa.out" % i for i in range(8)]


def test_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """After the time limit a command is killed with all it started, and its file fails."""
    inputs = fill(tmp_path / "in", b"slow.fa", b"quick.fa")
    script = 'case "$1" in *slow*) sleep 1000 & wait;; esac; cp "$1" "$2"'
    limits = ["--file-timeout", "0.5", "--max-attempts", "1"]
    command = ["--", "sh", "-c", script, "sh", "{input}", "{output}"]
    done = run(inputs, *limits, *command, output=tmp_path / "out")
    assert done.returncode == 1
    assert "1 files done, 1 failed" in done.stdout
    assert "slow.fa" in done.stderr.splitlines()[-1]
    assert list(results(tmp_path / "out")) == [b"quick.fa.out"]
    assert not processes_of(inputs)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    """A dry run shows each slot with its files, and leaves the output folder alone."""
    output = tmp_path / "out"
    done = run(READS, "--dry-run", output=output)
    assert done.returncode == 0
    *told, shared = done.stdout.splitlines()
    assert shared == "12 of 12 files can be shared by idle workers"
    rows = [line.split() for line in told[1:]]
    assert [row[0] for row in rows] == ["cpu0", "cpu1"]
    assert sum(int(row[2]) for row in rows) == len(list(READS.iterdir()))
    assert not output.exists()
    failed = run("none*.fa", "--dry-run", output=output)
    assert failed.returncode == 2
    assert not failed.stdout


def test_options_win_over_the_file(tmp_path: Path) -> None:
    """The YAML file sets what no option sets, and nothing else."""
    config = tmp_path / "run.yaml"
    config.write_text(
        f"inputs: ['{fill(tmp_path / 'in', b'a.fa')}']\n"
        "command: [cp, '{input}', '{output}']\n"
        f"output: '{tmp_path / 'not-this'}'\noutput_suffix: .yaml\nweb: true\n"
    )
    both: list[str | Path] = ["--config", config]
    assert run(*both, output=tmp_path / "file").returncode == 0
    assert list(results(tmp_path / "file")) == [b"a.fa.yaml"]
    assert run(*both, "--output-suffix", ".flag", output=tmp_path / "flag").returncode == 0
    assert list(results(tmp_path / "flag")) == [b"a.fa.flag"]
    assert not (tmp_path / "not-this").exists()


@pytest.mark.parametrize(("language", "name"), [("sh", "lengths.sh"), ("python", "lengths.py")])
def test_progress_of_a_command_as_the_manual_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str, name: str
) -> None:
    """The script reports every sequence, the result is right, and nothing else is left."""
    manual = (ROOT / "docs" / "processors.md").read_text()
    scripts = re.findall(rf"```{language}\n(.*?)```", manual, re.DOTALL)
    (script,) = (text for text in scripts if name in text.splitlines()[0])
    (line,) = re.findall(
        rf"^\$ virnucpro-exporter run examples/reads .* -- (.*{name}.*)$", manual, re.MULTILINE
    )
    command = [sys.executable if word == "python3" else word for word in shlex.split(line)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(script)
    reads = tmp_path / "reads.fa"
    reads.write_text("".join(f">{number}\n{'ACGT' * number}\n" for number in range(1, 40)))
    done = run_files([str(reads)], str(tmp_path / "out"), "command", command=command, gpus="cpu:1")
    assert done.workers[0].sequences_processed == 39
    lengths = "".join(f"{4 * number}\n" for number in range(1, 40)).encode()
    assert results(tmp_path / "out") == {b"reads.fa.out": lengths}


def test_counts_that_cannot_be_fail_the_attempt_with_one_line(tmp_path: Path) -> None:
    """What a user's class gives for a number of sequences is checked before it is shown."""
    inputs = fill(tmp_path / "in", b"a.fa")
    words = ["--processor", "tests.run_processors:uncounted", "--max-attempts", "1"]
    done = run(inputs, *words, output=tmp_path / "out")
    assert done.returncode == 1
    assert (
        "The processor is at fault: it reports nan sequences; return a whole number" in done.stderr
    )
