"""Whole runs of one file that all workers share: killed, drained and left alone."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.compressed import bgzip
from tests.run_program import processes_of, results, run, start, until
from tests.slow_translation import slow_results

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDS = 600
WORDS = ("--processor", "tests.run_processors:Names")


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    """Enough records for some seconds."""
    path = tmp_path / "in.fa"
    path.write_text("".join(f">r{n} x\n{'ACGT' * (n % 50)}\n" for n in range(RECORDS)))
    return path


def expected() -> dict[bytes, bytes]:
    """What one worker writes."""
    return {b"in.fa.out": b"".join(b"r%d\n" % n for n in range(RECORDS))}


def ask(output: Path, query: str) -> list[int]:
    """What the journal answers."""
    path = output / ".virnucpro" / "journal.sqlite"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as database:
        try:
            return [value for (value,) in database.execute(query)]
        except sqlite3.OperationalError:  # it is just being made
            return []


def parts(output: Path, state: str) -> list[int]:
    """The attempts of the parts in a state, as the journal knows them."""
    return ask(output, f"SELECT attempt FROM parts WHERE state = '{state}'")  # noqa: S608 - ours


def test_one_file_is_shared_by_all_workers(one_file: Path, tmp_path: Path) -> None:
    """Both workers do parts of it, the log says so, and the result is that of one worker."""
    output = tmp_path / "out"
    done = run(one_file, *WORDS, output=output)
    assert done.returncode == 0, done.stderr
    assert "gives" in done.stderr
    assert results(output) == expected()
    assert len(parts(output, "completed")) > 1
    (recorded,) = json.loads((output / "run.json").read_text())["files"]
    ranges = [(part["start"], part["stop"]) for part in recorded["parts"]]
    assert len(ranges) == len(parts(output, "completed"))
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert {part["gpu"] for part in recorded["parts"]} == {"cpu0", "cpu1"}
    assert not list((output / ".virnucpro" / "attempts").iterdir())
    Path(f"{one_file}.go").touch()
    whole = run(one_file, *WORDS, "--split", "never", output=tmp_path / "whole")
    assert results(tmp_path / "whole") == expected()
    assert "gives" not in whole.stderr


def test_a_killed_run_goes_on_within_a_file(one_file: Path, tmp_path: Path) -> None:
    """Parts that are done are not done again."""
    output = tmp_path / "out"
    with start(one_file, *WORDS, output=output) as process:
        until(lambda: parts(output, "completed"))
        process.kill()
        process.communicate()
        until(lambda: not processes_of(output))
    before = parts(output, "completed")
    Path(f"{one_file}.go").touch()
    resumed = run(one_file, *WORDS, output=output)
    assert resumed.returncode == 0, resumed.stderr
    assert set(before) <= set(parts(output, "completed"))
    assert results(output) == expected()


@pytest.mark.parametrize("where", [(), ("--dask-local=2",)])
def test_a_drain_ends_parts_at_the_next_record(
    one_file: Path, tmp_path: Path, where: tuple[str, ...]
) -> None:
    """What is done by then is kept, nothing is cut off, and the next run does the rest alone."""
    one_file.write_text(one_file.read_text() * 3)
    output = tmp_path / "out"
    with start(one_file, *WORDS, *where, output=output) as process:
        until(lambda: len(parts(output, "processing")) == 2 and parts(output, "queued") == [])
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, told
    # A part may just have ended of itself, and its rest waits already.
    assert told.count("ends its part of") == told.count("for the next run")
    assert 1 <= told.count("for the next run") <= 2
    before = parts(output, "completed")
    assert len(before) >= 2
    assert parts(output, "queued")
    assert (
        2 <= sum(ask(output, "SELECT sequences FROM parts WHERE state = 'completed'")) < 3 * RECORDS
    )
    assert results(output) == {}
    Path(f"{one_file}.go").touch()
    resumed = run(one_file, *WORDS, output=output)  # on one machine, wherever it was begun
    assert resumed.returncode == 0, resumed.stderr
    assert set(before) <= set(parts(output, "completed"))
    assert sum(ask(output, "SELECT sequences FROM parts")) == 3 * RECORDS
    assert ask(output, "SELECT attempt FROM attempts") == []
    assert results(output) == {b"in.fa.out": expected()[b"in.fa.out"] * 3}


def fasta(sequences: list[str]) -> bytes:
    """With lines of 80 letters."""
    wrapped = ("\n".join(s[i : i + 80] for i in range(0, len(s), 80)) for s in sequences)
    return "".join(f">r{n} x\n{text}\n" for n, text in enumerate(wrapped)).encode()


def fastq(sequences: list[str], width: int) -> bytes:
    """With lines of so many letters, and qualities that look like headers."""
    out = []
    for n, sequence in enumerate(sequences):
        quality = ("@I+" * len(sequence))[: len(sequence)]
        for mark, text in ((f"@r{n} x", sequence), ("+", quality)):
            out += [mark, *(text[i : i + width] for i in range(0, len(text), width))]
    return "\n".join([*out, ""]).encode()


KINDS: dict[str, Callable[[list[str]], bytes]] = {
    "plain.fa": fasta,
    "crlf.fq": lambda sequences: fastq(sequences, 3000).replace(b"\n", b"\r\n"),
    "lines.fq": lambda sequences: fastq(sequences, 70),
    "bgzip.fa.gz": lambda sequences: bgzip(fasta(sequences)),
    "gzip.fq.gz": lambda sequences: gzip.compress(fastq(sequences, 3000), 1),
    "zstd.fa.zst": lambda sequences: zstd.compress(fasta(sequences)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind_are_shared(kind: str, tmp_path: Path) -> None:
    """Both workers do parts of it, and the result is that of one worker."""
    rng = random.Random(4)
    path = tmp_path / kind
    path.write_bytes(KINDS[kind](["".join(rng.choices("ACGT", k=3000)) for _ in range(400)]))
    output = tmp_path / "out"
    done = run(path, *WORDS, output=output)
    assert done.returncode == 0, done.stderr
    assert results(output) == {f"{kind}.out".encode(): b"".join(b"r%d\n" % n for n in range(400))}
    assert busy(output) == {"cpu0", "cpu1"}


def busy(output: Path) -> set[str]:
    """The workers that have done parts."""
    with closing(sqlite3.connect(output / ".virnucpro" / "journal.sqlite")) as database:
        return {gpu for (gpu,) in database.execute("SELECT gpu FROM parts")}


def test_what_reports_no_progress_is_shared(one_file: Path, tmp_path: Path) -> None:
    """Where nothing is known of a worker's speed, it sees itself what it can give away."""
    output = tmp_path / "out"
    done = run(one_file, "--processor", "tests.run_processors:SilentNames", output=output)
    assert done.returncode == 0, done.stderr
    assert results(output) == expected()
    assert busy(output) == {"cpu0", "cpu1"}


# Like `seqkit fx2tab -n -H`, a moment for each part and record; a test may hold the last one up.
TABLE = """
import os, sys, time
with open(sys.argv[1]) as file, open(sys.argv[2], "w") as table:
    table.write("name\\n")
    for line in file:
        if line.startswith(">"):
            time.sleep(0.005)
            table.write(line.split()[0][1:] + "\\n")
        while line.startswith(">r599") and os.path.exists(os.environ.get("HOLD", "")):
            time.sleep(0.01)
"""
COMMAND = ("--output-suffix", ".tsv", "--", sys.executable, "-c", TABLE, "{input}", "{output}")


def test_a_command_does_parts_of_a_file(one_file: Path, tmp_path: Path) -> None:
    """Parts are no larger than was asked for; the table is that of one worker, with one header."""
    output = tmp_path / "out"
    size = one_file.stat().st_size
    done = run(one_file, "--split", f"{size // 5}", "--join", "header", *COMMAND, output=output)
    assert done.returncode == 0, done.stderr
    names = b"".join(b"r%d\n" % n for n in range(RECORDS))
    assert results(output) == {b"in.fa.tsv": b"name\n" + names}
    assert len(parts(output, "completed")) >= 5
    assert busy(output) == {"cpu0", "cpu1"}
    whole = run(one_file, *COMMAND, output=tmp_path / "whole")
    assert "gives" not in whole.stderr
    assert results(tmp_path / "whole") == results(output)


def test_results_of_parts_stay_where_the_user_wants_that(one_file: Path, tmp_path: Path) -> None:
    """They are numbered in the order of the file, and together hold all of it."""
    output = tmp_path / "out"
    size = one_file.stat().st_size
    words = ("--split", f"{size // 2}", "--join", "none")
    done = run(one_file, *words, "--", "cp", "{input}", "{output}", output=output, workers=1)
    assert done.returncode == 0, done.stderr
    found = results(output)
    assert sorted(found) == [b"in.fa_1.out", b"in.fa_2.out"]
    assert b"".join(found[name] for name in sorted(found)) == one_file.read_bytes()


def test_a_killed_run_of_a_command_goes_on_within_the_file(
    one_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that a command has done are not done again, and no copy of a part stays."""
    output, hold = tmp_path / "out", tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("HOLD", str(hold))
    size = one_file.stat().st_size
    words = ("--split", f"{size // 8}", "--join", "header", *COMMAND)
    with start(one_file, *words, output=output) as process:
        until(lambda: parts(output, "completed") and parts(output, "processing"))
        process.kill()
        process.communicate()
        until(lambda: not processes_of(output))
    hold.unlink()
    before = parts(output, "completed")
    shutil.copytree(output, tmp_path / "anew")
    anew = run(one_file, *COMMAND, output=tmp_path / "anew")  # of whole files: what is done goes
    assert anew.returncode == 0, anew.stderr
    assert not parts(tmp_path / "anew", "completed")
    resumed = run(one_file, *words, output=output)
    assert resumed.returncode == 0, resumed.stderr
    assert results(output) == results(tmp_path / "anew")
    assert set(before) <= set(parts(output, "completed"))
    names = b"".join(b"r%d\n" % n for n in range(RECORDS))
    assert results(output) == {b"in.fa.tsv": b"name\n" + names}
    assert not list((output / ".virnucpro" / "attempts").iterdir())


@pytest.mark.parametrize("size", [300, 500])
def test_parts_of_all_kinds_are_translated_as_virnucpro_does(size: int, tmp_path: Path) -> None:
    """Two workers do several parts of each kind of file, and write the bytes of the slow way."""
    rng = random.Random(size)
    lengths = [*range(40), *(rng.randrange(100, 1500) for _ in range(300))]
    sequences = [
        "".join(rng.choices("ACGTNacgt", [9, 9, 9, 9, 1, 1, 1, 1, 1], k=n)) for n in lengths
    ]
    names = [f"{kind.partition('.')[0]}" for kind in KINDS]
    for kind, text in KINDS.items():
        (tmp_path / kind).write_bytes(text(sequences))
    output = tmp_path / "out"
    words = ("--chunk-size", f"{size}", "--split", "60K")
    done = run(*(tmp_path / kind for kind in KINDS), *words, output=output)
    assert done.returncode == 0, done.stderr
    expected = slow_results(((f"r{n}", text) for n, text in enumerate(sequences)), size)
    found = {os.fsdecode(name): text.decode() for name, text in results(output).items()}
    assert found == {f"{name}_{end}": text for name in names for end, text in expected.items()}
    assert len(parts(output, "completed")) >= 2 * len(KINDS)
    assert busy(output) == {"cpu0", "cpu1"}
