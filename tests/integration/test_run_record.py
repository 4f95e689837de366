"""run.json: what a run leaves about itself beside its results."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

from tests.dask_runs import begun
from tests.run_program import READS, results, run, start, told, until

# Tells that a file has begun, and copies it when the test allows it.
WAITING = (
    'touch "$1.begun"; until [ -e "$1.go" ] || [ -e "${1%/*}/go" ]; do sleep 0.05; done; '
    'cp "$1" "$2"'
)
COPY = ["--", "cp", "{input}", "{output}"]


def record(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "run.json").read_text())
    return found


def inputs_of(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    for file in sorted(READS.iterdir())[-number:]:
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_record_has_all_files_and_is_left_alone_without_work(tmp_path: Path) -> None:
    """A resumed run's record has the files of all runs; one with nothing to do changes nothing."""
    inputs, output = inputs_of(tmp_path / "in", 2), tmp_path / "out"
    assert run(inputs, "--checksums", output=output).returncode == 0
    first = record(output)
    assert first["run"]["state"] == "completed"
    assert first["run"]["completed"] == 2
    assert first["options"]["processor"] == first["processor"]["kind"] == "translate"
    assert first["gpus"] == {"cpu0": "CPU", "cpu1": "CPU"}
    before = (output / "run.json").stat()
    assert run(inputs, "--checksums", output=output).returncode == 0
    after = (output / "run.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    inputs_of(inputs, 3)
    assert run(inputs, "--checksums", output=output).returncode == 0
    files = record(output)["files"]
    assert [file["path"] for file in files] == sorted(map(str, inputs.iterdir()))
    assert record(output)["run"]["skipped"] == 2
    for file in files:
        assert file["sha256"] == digest(file["path"])
        assert file["bytes"] == Path(file["path"]).stat().st_size
        for made in file["results"]:
            assert made["sha256"] == digest(output / made["name"])
    assert run(inputs, output=output).returncode == 0  # other options are another record
    assert not any("sha256" in file for file in record(output)["files"])


def test_record_of_an_interrupted_run(tmp_path: Path) -> None:
    """It says so and has what is done; while a run goes on, there is none."""
    inputs, output = inputs_of(tmp_path / "in", 4), tmp_path / "out"
    waiting = ["--", "sh", "-c", WAITING, "sh", "{input}", "{output}"]
    first = min(inputs.iterdir())
    Path(f"{first}.go").touch()
    assert run(first, *waiting, output=output).returncode == 0
    going = start(inputs, *waiting, output=output, workers=1)
    until(lambda: len(begun(inputs)) >= 2)
    (second,) = begun(inputs).keys() - {first.name}
    (inputs / f"{second}.go").touch()
    until(lambda: len(begun(inputs)) >= 3)
    until(lambda: len(results(output)) >= 2)  # the last one is moved while the next file begins
    assert not (output / "run.json").exists()
    going.send_signal(signal.SIGINT)
    told(going, "will finish")
    (inputs / "go").touch()
    going.communicate()
    found = record(output)
    assert found["run"]["state"] == "interrupted"
    assert found["run"]["exit_status"] == 130
    assert len(found["files"]) == found["run"]["completed"] == 3
    assert (output / "run.json").stat().st_mode & 0o777 == 0o600  # a command's arguments


def test_record_of_folders_and_of_what_is_gone(tmp_path: Path) -> None:
    """The files of a result that is a folder are listed; what was removed has no sum."""
    inputs, output = inputs_of(tmp_path / "in", 1), tmp_path / "out"
    folder = ["--", "sh", "-c", "mkdir -p {output}/a; cp {input} {output}/a/b; rm {input}"]
    assert run(inputs, "--checksums", *folder, output=output).returncode == 0
    (file,) = record(output)["files"]
    assert "sha256" not in file
    (made,) = file["results"]
    assert made["sha256"] == digest(output / made["name"])
    assert made["name"].endswith(".out/a/b")


def test_file_of_that_name_stays(tmp_path: Path) -> None:
    """A run.json of somebody else is not replaced, and one line says that there is no record."""
    inputs, output = inputs_of(tmp_path / "in", 1), tmp_path / "out"
    output.mkdir()
    (output / "run.json").write_text("mine")
    done = run(inputs, *COPY, output=output)
    assert done.returncode == 0
    assert "this run writes no record" in done.stderr
    assert (output / "run.json").read_text() == "mine"


def test_record_that_cannot_be_written(tmp_path: Path) -> None:
    """All results are there, one line says what is missing, and the same command mends it."""
    inputs, output = inputs_of(tmp_path / "in", 1), tmp_path / "out"
    blocked = output / ".virnucpro" / "run.json.new"
    blocked.mkdir(parents=True)
    done = run(inputs, *COPY, output=output)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "run.json: Is a directory; the same command writes it"
    )
    assert len(results(output)) == 1
    blocked.rmdir()
    assert run(inputs, *COPY, output=output).returncode == 0
    assert record(output)["run"]["skipped"] == 1


def test_record_is_no_input(tmp_path: Path) -> None:
    """Results that are given to another run, all by their names, are taken without the record."""
    inputs, output = inputs_of(tmp_path / "in", 1), tmp_path / "out"
    log = tmp_path / "metrics.log"
    assert run(inputs, "--metrics-log", log, *COPY, output=output).returncode == 0
    done = run(*sorted(output.iterdir())[1:], *COPY, output=tmp_path / "next")
    assert done.returncode == 0, done.stderr
    assert "1 files done" in done.stdout
    assert "run.json': the record of a run" in done.stderr
