"""Whole runs with the embedding processors, and what stops them before they begin."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from tests.models.tiny import write_fasta
from tests.run_program import results, run

FILES = 6


def fill(folder: Path, letters: str) -> Path:
    """Files of sequences; the same numbers and names for the same letters."""
    source = random.Random(5)
    for part in range(FILES):
        sequences = {
            f"read_{part}_chunk_{i}R2": "".join(source.choices(letters, k=source.randint(1, 120)))
            for i in range(30)
        }
        write_fasta(folder / f"output_{part}.fa", sequences)
    return folder


def test_results_do_not_depend_on_the_workers(esm2: Path, tmp_path: Path) -> None:
    """One worker and two leave the same bytes; what is lost comes back with the next run."""
    proteins = fill(tmp_path / "in", "ACDEFGHIKLMNPQRSTVWY")
    words: list[str | Path] = [proteins, "--processor", "esm2", "--model", esm2]
    words += ["--tokens-per-batch", "500"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(*words, output=one, workers=1).returncode == 0
    assert run(*words, output=two, workers=2).returncode == 0
    whole = results(one)
    assert sorted(whole) == [b"output_%d_ESM.pt" % part for part in range(FILES)]
    assert results(two) == whole
    (two / "output_3_ESM.pt").unlink()
    again = run(*words, output=two)
    assert f"1 files done, 0 failed, {FILES - 1} skipped" in again.stdout
    assert results(two) == whole
    other_batches = run(*words[:-1], "300", output=two)
    assert f"0 files done, 0 failed, {FILES} skipped" in other_batches.stdout


def test_dnabert_with_code_of_its_own(bert_with_code: Path, tmp_path: Path) -> None:
    """Code that comes with a model runs with --trust-remote-code, and never without."""
    nucleotides = fill(tmp_path / "in", "ACGT")
    words: list[str | Path] = [nucleotides, "--processor", "dnabert", "--model", bert_with_code]
    refused = run(*words, output=tmp_path / "out")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "contains its own Python code; add --trust-remote-code if you trust it" in refused.stderr
    done = run(*words, "--trust-remote-code", output=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    made = torch.load(tmp_path / "out" / "output_0_DNABERT_S.pt")
    assert made["nucleotide"][0] == made["data"][0]["label"] == "read_0_chunk_0R2"
    assert len(made["data"]) == 30


def test_wrong_files_fail_alone(esm2: Path, tmp_path: Path) -> None:
    """A file of nucleotides among proteins is named, and fails without a second attempt."""
    inputs = fill(tmp_path / "in", "ACDEFGHIKLMNPQRSTVWY")
    write_fasta(inputs / "reads.fa", {"read": "ACGT" * 500})
    done = run(inputs, "--processor", "esm2", "--model", esm2, output=tmp_path / "out")
    assert done.returncode == 1
    assert f"{FILES} files done, 1 failed, 0 skipped, 0 left; 0 retries" in done.stdout
    assert "reads.fa': This file cannot be processed: it contains nucleotides" in done.stderr


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face models."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache(hub: Path, name: str, source: Path) -> None:
    """Put a model into the cache, as a download does."""
    repository = hub / ("models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for path in source.iterdir():
        if path.is_file():
            (snapshot / path.name).symlink_to(path)


def test_models_are_found_in_the_cache(
    hub: Path, esm2: Path, bert_with_code: Path, tmp_path: Path
) -> None:
    """A name, and no name, mean models that were downloaded before; code comes along."""
    cache(hub, "facebook/esm2_t36_3B_UR50D", esm2)
    cache(hub, "somebody/bert", bert_with_code)
    proteins = fill(tmp_path / "proteins", "ACDEFGHIKLMNPQRSTVWY")
    assert run(proteins, "--processor", "esm2", output=tmp_path / "esm2").returncode == 0
    nucleotides = fill(tmp_path / "nucleotides", "ACGT")
    words = ["--processor", "dnabert", "--model", "somebody/bert", "--trust-remote-code"]
    done = run(nucleotides, *words, output=tmp_path / "dnabert")
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "esm2")) == len(results(tmp_path / "dnabert")) == FILES


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["esm2"],
            "'facebook/esm2_t36_3B_UR50D' is not on this machine; get it with `hf download",
        ),
        (["dnabert", "--model", "./models/x"], "'./models/x' is neither a folder nor a model name"),
        (["esm2", "--model", "{bert}"], "is of type 'bert'; esm2 needs one of type 'esm'"),
        (["esm2", "--model", "{bare}"], "has no weights in '{bare}'"),
        (["esm2", "--model", "{empty}"], "'{empty}/config.json' cannot be read"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_models_that_cannot_be_used(
    words: list[str], line: str, bert: Path, tmp_path: Path
) -> None:
    """Before any work, and without the network, one line says what is wrong."""
    places = {"bert": str(bert), "bare": str(tmp_path / "bare"), "empty": str(tmp_path / "empty")}
    (tmp_path / "bare").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"model_type": "esm"}))
    file = write_fasta(tmp_path / "in.fa", {"a": "MKV"})
    filled = [word.format(**places) for word in words]
    done = run(file, "--processor", *filled, output=tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert line.format(**places) in done.stderr
    assert not (tmp_path / "out").exists()
