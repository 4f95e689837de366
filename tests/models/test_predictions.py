"""Whole runs from FASTA to predictions, on tiny models."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import vanilla
from tests.models.test_classifier import Trap
from tests.models.tiny import write_fasta
from tests.run_program import results, run, start, until

SAMPLES = ("S001", "S002", "S003")
Words = list[str | Path]


def contigs(sample: str) -> dict[str, str]:
    """Contigs of the same names in every sample."""
    source = random.Random(sample)
    return {
        f"k141_{number}": "".join(source.choices("ACGGCT", k=source.randint(100, 2500)))
        for number in range(8)
    }


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, esm2: Path, bert: Path) -> Words:
    """Three samples whose files have one name, and the options of a run."""
    folder = tmp_path_factory.mktemp("in")
    for sample in SAMPLES:
        write_fasta(folder / sample / "final.contigs.fa", contigs(sample))
    path = vanilla.save_classifier(folder / "500_model.pth", vanilla.trained(esm2, bert))
    options: Words = ["--processor", "virnucpro", "--classifier", path]
    options += ["--dnabert-model", bert, "--esm2-model", esm2]
    return [*(folder / sample for sample in SAMPLES), *options]


@pytest.fixture(scope="module")
def whole(words: Words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one worker that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    done = run(*words, output=output, workers=1)
    assert done.returncode == 0, done.stderr
    return output


def table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_tables_are_those_of_the_steps(whole: Path, esm2: Path, bert: Path) -> None:
    """Per sample, VirNucPro's two tables: its columns, ids and order, scores to 1e-5."""
    classifier = vanilla.trained(esm2, bert)
    for sample in SAMPLES:
        expected = vanilla.predict(contigs(sample), 500, esm2, bert, classifier)
        heading, *rows = table(whole / f"{sample}_prediction_results.txt")
        assert heading == ["Sequence_ID", "Prediction", "score1", "score2"]
        assert [row[:2] for row in rows] == [list(row[:2]) for row in expected]
        for row, wanted in zip(rows, expected, strict=True):
            assert [float(score) for score in row[2:]] == pytest.approx(wanted[2:], abs=1e-5)
        best: dict[str, tuple[float, float]] = {}
        for name, _, others, virus in rows:
            before = best.get(name[:-2], (0.0, 0.0))
            best[name[:-2]] = max(before[0], float(others)), max(before[1], float(virus))
        heading, *rows = table(whole / f"{sample}_prediction_results_highestscore.csv")
        assert heading == ["Modified_ID", "Is_Virus"]
        assert rows == [[name, str(best[name][1] >= best[name][0])] for name in sorted(best)]
    predictions = table(whole / "predictions.tsv")[1:]
    assert {row[0] for row in predictions} == set(SAMPLES)
    assert {row[1] for row in predictions} <= set(contigs("S001"))
    chunks = {(row[0], row[1], row[2]) for row in predictions}
    rows = table(whole / "contigs.tsv")[1:]
    assert sum(int(row[2]) for row in rows) == len(chunks)
    assert sum(int(row[3]) for row in rows) == len(predictions)


def test_record_names_what_was_used(whole: Path, words: Words) -> None:
    """run.json has versions, options, models, GPUs, files and results."""
    record = json.loads((whole / "run.json").read_text())
    assert record["program"]["packages"].keys() == {"torch", "transformers", "safetensors", "numpy"}
    assert record["run"]["state"] == "completed"
    assert record["options"]["precision"] == "auto"
    assert len(record["processor"]["classifier_sha256"]) == 64
    assert all(
        len(file["sha256"]) == 64
        for model in ("dnabert", "esm2")
        for file in record["processor"]["models"][model]["files"]
    )
    assert len(record["files"]) == len(SAMPLES)
    assert all(file["gpu"] == "cpu0" and file["bytes"] > 0 for file in record["files"])
    assert {name["name"].encode() for name in record["results"]} == {
        name for name in results(whole) if name.endswith((b".txt", b".csv", b".tsv"))
    }
    assert record["run"]["exit_status"] == 0
    summed = run(*words, "--checksums", output=whole, workers=1)
    assert f"{len(SAMPLES)} skipped" in summed.stdout
    record = json.loads((whole / "run.json").read_text())
    assert all(len(file["sha256"]) == 64 for file in record["files"] + record["results"])


def test_workers_and_kills_change_nothing(whole: Path, words: Words, tmp_path: Path) -> None:
    """Two workers that are killed, and four that go on from there, leave the same bytes."""
    output = tmp_path / "out"
    first = start(*words, output=output, workers=2)
    until(lambda: first.poll() is not None or list(output.glob(".*.rows")))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    again = run(*words, output=output, workers=4)
    assert again.returncode == 0, again.stderr
    assert results(output) == results(whole)


def test_sample_sheet_joins_files(words: Words, tmp_path: Path) -> None:
    """Files of one sample have one table; a sample that is not whole has none, and is named."""
    folders = [Path(word) for word in words[:3]]
    one = write_fasta(tmp_path / "x" / "lane1.fa", {"a": contigs("S001")["k141_0"] * 2})
    two = write_fasta(tmp_path / "x" / "lane2.fa", {"b": contigs("S002")["k141_0"] * 2})
    bad = write_fasta(tmp_path / "x" / "bad.fa", {"p": "MKVLEF"})
    sheet = tmp_path / "sheet.tsv"
    rows = [("X", one), ("X", two), ("Y", folders[0] / "final.contigs.fa"), ("Y", bad)]
    sheet.write_text("sample\tfile\n" + "".join(f"{name}\t{path}\n" for name, path in rows))
    output = tmp_path / "out"
    done = run("--sample-sheet", sheet, *words[3:], output=output)
    assert done.returncode == 1
    assert f"no tables for 'Y': '{bad}' is not finished" in done.stderr
    assert not list(output.glob("Y_*"))
    found = table(output / "X_prediction_results.txt")[1:]
    assert {row[0].split("_")[0] for row in found} <= {"a", "b"}
    assert {row[0] for row in table(output / "predictions.tsv")[1:]} == {"X"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda words: [*words[:3], "--processor", "virnucpro"], "give VirNucPro's classifier"),
        (lambda words: [*words, "--chunk-size", "300"], "is for chunks of 500 bases"),
        (lambda words: [*words, "--model", "x"], "use --dnabert-model and --esm2-model"),
        (lambda words: [*words, "--sample-sheet", "x"], "remove the others"),
        (lambda words: [words[0], "--classifier", "x"], "--classifier is for --processor"),
    ],
)
def test_options_that_do_not_fit(
    words: Words, tmp_path: Path, change: Callable[[Words], Words], line: str
) -> None:
    """One line, before any work."""
    done = run(*change(words), output=tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert line in done.stderr


def test_classifier_that_would_run_code(words: Words, tmp_path: Path) -> None:
    """It is refused in one line, and nothing of it is run."""
    trap = tmp_path / "trap"
    path = vanilla.save_classifier(tmp_path / "500_model.pth", Trap(trap))
    done = run(*words, "--classifier", path, output=tmp_path / "out")
    assert done.returncode == 2
    assert "is not a VirNucPro classifier and was not loaded (it refers to" in done.stderr
    assert not trap.exists()
    assert "Traceback" not in done.stderr


def test_resume_must_agree(words: Words, whole: Path, tmp_path: Path) -> None:
    """Another precision or classifier would mix results; the same one elsewhere does not."""
    other = run(*words, "--precision", "bf16", output=whole)
    assert other.returncode == 2
    assert "precision 'bf16'" in other.stderr
    moved = tmp_path / "copy.pth"
    moved.write_bytes(Path(words[words.index("--classifier") + 1]).read_bytes())
    same = run(*words, "--classifier", moved, output=whole, workers=1)
    assert same.returncode == 0, same.stderr
