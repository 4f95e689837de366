"""How whole runs end: the exit status, and one clear line for each thing that is wrong."""

from __future__ import annotations

import gzip
import signal
from pathlib import Path

import pytest

from tests.run_program import (
    DEADLINE,
    PROGRAM,
    READS,
    arguments,
    call,
    processes_of,
    results,
    run,
    start,
    told,
    until,
)

GOOD = b">good\nACGTACGTACGT\n"


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_bad_files_fail_alone(tmp_path: Path) -> None:
    """Files that cannot be read are listed, each with its reason; the others are done."""
    bad = {
        "empty.fa": b"",
        "truncated.fa.gz": gzip.compress(GOOD * 1000, mtime=0)[:-12],
        "binary.fa": bytes(range(256)) * 20,
        "text.fa": b"some words\n" + GOOD,
    }
    inputs = write(tmp_path / "in", {**bad, "good1.fa": GOOD, "good2.fa": GOOD})
    done = run(inputs, output=tmp_path / "out")
    assert done.returncode == 1
    assert "2 files done, 4 failed, 0 skipped, 0 left" in done.stdout
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert sorted(line.split("'")[1] for line in failed) == sorted(str(inputs / b) for b in bad)
    assert len(results(tmp_path / "out")) == 2 * 3


def faults(tmp_path: Path) -> dict[str, tuple[list[str | Path], str]]:
    """Command lines that cannot work, and what the one line about them says."""
    config = tmp_path / "run.yaml"
    config.write_text("gpu_weights:\n  RTX 4090: fast\n")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("max_attemps: 2\n")
    twins = [tmp_path / "a" / "x.fa", tmp_path / "b" / "x.fa"]
    for twin in twins:
        twin.parent.mkdir(exist_ok=True)
        twin.write_bytes(GOOD)
    return {
        "no match": ([tmp_path / "none*.fa"], "matches no sequence file"),
        "twins": ([*twins], "would both write"),
        "key": ([READS, "--config", unknown], "max_attemps: there is no such option"),
        "path": ([READS, "--config", config], "gpu_weights.RTX 4090: must be"),
        "no program": ([READS, "--", "no-such-program", "{input}"], "not found: no-such-program"),
        "both": (
            [READS, "--processor", "translate", "--", "cat", "{input}"],
            "a command after `--` and --processor translate",
        ),
        "module": (
            [READS, "--processor", "no_such.module:f"],
            "no module 'no_such.module'",
        ),
        "name": ([READS, "--processor", "tests.run_processors:gone"], "has no 'gone'"),
        "setup": ([READS, "--processor", "tests.run_processors:Broken"], "no model for cpu"),
    }


FAULTS = ("no match", "twins", "key", "path", "no program", "both", "module", "name", "setup")


@pytest.mark.parametrize("fault", FAULTS)
def test_run_that_cannot_work_ends_with_status_2(tmp_path: Path, fault: str) -> None:
    """What is wrong is told once, in one line of the program's own."""
    words, expected = faults(tmp_path)[fault]
    done = run(*words, output=tmp_path / "out")
    own = [line for line in done.stderr.splitlines() if line.startswith("virnucpro-exporter: ")]
    assert done.returncode == 2
    assert len(own) == 1
    assert expected in own[0]


def test_output_folder_belongs_to_one_run(tmp_path: Path) -> None:
    """A second run is refused while the status can be read; two signals end the first at once."""
    inputs, output = write(tmp_path / "in", {"a.fa": GOOD, "b.fa": GOOD}), tmp_path / "out"
    words: list[str | Path] = [inputs, "--processor", "tests.run_processors:waiting"]
    with start(*words, output=output) as process:
        until(lambda: len(list(inputs.glob("*.begun"))) == 2)
        second = run(*words, output=output)
        assert second.returncode == 2
        assert f"in use by another run (process {process.pid})" in second.stderr
        status = call([*PROGRAM, "status", output])
        assert "running (active)" in status.stdout
        assert status.returncode == 10
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode in {128 + signal.SIGTERM, 128 + signal.SIGINT}
    assert "0 files done, 0 failed, 0 skipped, 2 left" in out
    assert "Traceback" not in errors
    assert not results(output)
    assert not processes_of(output)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    """Files in process are finished, the others wait for the next run."""
    inputs = write(tmp_path / "in", {f"{i}.fa": GOOD for i in range(6)})
    output = tmp_path / "out"
    words: list[str | Path] = [inputs, "--processor", "tests.run_processors:waiting"]
    with start(*words, output=output) as process:
        until(lambda: len(list(inputs.glob("*.begun"))) == 2)
        process.send_signal(number)
        name = signal.Signals(number).name
        *_, line = told(process, name)
        again = "press Ctrl-C again" if number == signal.SIGINT else "send SIGTERM again to stop"
        assert f" WARNING {name}: 2 files in process will finish" in line
        assert f"; {again}" in line
        assert "; the same command resumes\n" in line
        (inputs / "go").touch()
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    finished = len(results(output))
    assert 2 <= finished < 6
    left = "1 file" if finished == 5 else f"{6 - finished} files"
    assert errors.endswith(f"virnucpro-exporter: {left} left; the same command resumes\n")
    resumed = call(arguments(*words, output=output))
    assert resumed.returncode == 0
    assert f"{finished} skipped" in resumed.stdout
    assert len(results(output)) == 6


def test_vanished_output_folder_is_told_in_one_line(tmp_path: Path) -> None:
    """A run whose output folder is moved away ends, and says what is missing."""
    inputs, output = write(tmp_path / "in", {f"{i}.fa": GOOD for i in range(8)}), tmp_path / "out"
    with start(inputs, "--processor", "tests.run_processors:waiting", output=output) as process:
        until(lambda: len(list(inputs.glob("*.begun"))) == 2)
        output.rename(tmp_path / "elsewhere")
        (inputs / "go").touch()
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("virnucpro-exporter: ")
    assert str(output) in errors.splitlines()[-1]
