"""The embedding processors on tiny models, on the CPU."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import bert_means, esm2_means, save_alibi_bert, write_fasta
from virnucpro_exporter.errors import ProcessorError, SequenceFileError
from virnucpro_exporter.processors import build, embedding
from virnucpro_exporter.processors.base import Processed
from virnucpro_exporter.processors.embedding import EmbeddingProcessor, NotFiniteError
from virnucpro_exporter.processors.packed import PackedBert, PackedEsm
from virnucpro_exporter.processors.transformer import Padded
from virnucpro_exporter.sequences import OpenPart, Part, Shrunk
from virnucpro_exporter.workers import joining

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
LENGTHS = [7, 300, 1, 64, 64, 12, 150, 2, 33, 5, 90, 64]


def random_sequences(letters: str, lengths: Sequence[int] = LENGTHS) -> dict[str, str]:
    source = random.Random(3)
    return {
        f"chunk_{i}F1": "".join(source.choices(letters, k=length))
        for i, length in enumerate(lengths)
    }


def processor(kind: str, folder: Path, tokens_per_batch: int = 200, **options: Any) -> Any:
    made = build(
        {"kind": kind, "model": str(folder), "tokens_per_batch": tokens_per_batch, **options}
    )
    assert isinstance(made, EmbeddingProcessor)
    made.setup("cpu0")
    return made


class Run:
    """What one file became."""

    def __init__(self, made: Any, tmp_path: Path, sequences: dict[str, str]) -> None:
        self.reports: list[tuple[int, int | None]] = []
        file = write_fasta(tmp_path / "part_1.fa", sequences)
        output = tmp_path / made.output_names(file)[0]
        self.processed: Processed = made.process(file, output, self._report)
        self.result = torch.load(output)

    def _report(self, sequences: int, residues: int | None = None) -> None:
        self.reports.append((sequences, residues))


def test_esm2_equals_one_sequence_at_a_time(esm2: Path, tmp_path: Path) -> None:
    """Every protein gets its own vector, in the order of the file, however batches are cut."""
    sequences = random_sequences(AMINO_ACIDS + "X")
    expected = torch.stack(esm2_means(esm2, list(sequences.values())))
    for tokens_per_batch in (1, 200, 100_000):
        result = Run(processor("esm2", esm2, tokens_per_batch), tmp_path, sequences).result
        assert set(result) == {"proteins", "data"}
        assert result["proteins"] == list(sequences)
        assert {(vector.dtype, vector.shape) for vector in result["data"]} == {
            (torch.float32, (32,))
        }
        torch.testing.assert_close(torch.stack(result["data"]), expected, rtol=0, atol=1e-5)


def test_vectors_share_no_memory(esm2: Path, tmp_path: Path) -> None:
    """Whoever keeps one vector of a file does not keep them all."""
    result = Run(processor("esm2", esm2), tmp_path, random_sequences(AMINO_ACIDS)).result
    assert {vector.untyped_storage().nbytes() for vector in result["data"]} == {32 * 4}


def test_dnabert_equals_one_sequence_at_a_time(bert: Path, tmp_path: Path) -> None:
    """The mean is over all tokens of a sequence, special ones included, and never over padding."""
    sequences = random_sequences("ACGT")
    expected = torch.stack(bert_means(bert, list(sequences.values())))
    result = Run(processor("dnabert", bert), tmp_path, sequences).result
    assert set(result) == {"nucleotide", "data"}
    assert result["nucleotide"] == list(sequences)
    assert [entry["label"] for entry in result["data"]] == list(sequences)
    means = [entry["mean_representation"] for entry in result["data"]]
    assert all(type(value) is float for value in means[0])
    torch.testing.assert_close(torch.tensor(means), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens_per_batch", [1, 200, 100_000])
def test_dnabert_s_computes_without_padding(
    alibi_bert: Path, tmp_path: Path, tokens_per_batch: int
) -> None:
    """A model of its layers gives what its own code gives for one sequence at a time."""
    sequences = random_sequences("ACGT")
    made = processor("dnabert", alibi_bert, tokens_per_batch, trust_remote_code=True)
    assert isinstance(made._model._network, PackedBert)
    result = Run(made, tmp_path, sequences).result
    expected = torch.stack(bert_means(alibi_bert, list(sequences.values())))
    torch.testing.assert_close(vectors_of(result), expected, rtol=0, atol=1e-5)


def test_code_that_computes_something_else_is_used(tmp_path: Path) -> None:
    """Layers of the same names are not enough: the model's own code says what is computed."""
    (tmp_path / "model").mkdir()
    folder = save_alibi_bert(tmp_path / "model", shift=0.5)
    made = processor("dnabert", folder, trust_remote_code=True)
    assert isinstance(made._model._network, Padded)
    sequences = random_sequences("ACGT")
    result = Run(made, tmp_path, sequences).result
    expected = torch.stack(bert_means(folder, list(sequences.values())))
    torch.testing.assert_close(vectors_of(result), expected, rtol=0, atol=1e-5)


def test_case_does_not_matter_and_odd_letters_count_one(esm2: Path, tmp_path: Path) -> None:
    """Lower case means the same residues; an unknown letter is one token, wherever it stands."""
    made = processor("esm2", esm2)
    run = Run(made, tmp_path, {"upper": "MKV", "lower": "mkv", "odd": "MJJ*"})
    upper, lower, odd = run.result["data"]
    assert torch.equal(upper, lower)
    assert [list(tokens) for tokens in made._model.encode([b"MJJ*"])] == [[0, 20, 3, 3, 3, 2]]
    assert odd.isfinite().all()


def test_long_proteins_are_cut(esm2: Path, tmp_path: Path) -> None:
    """No more than 1,024 residues are embedded; the progress counts those of the file."""
    whole = "".join(random.Random(4).choices(AMINO_ACIDS, k=1100))
    run = Run(processor("esm2", esm2, 4000), tmp_path, {"long": whole, "cut": whole[:1024]})
    long, cut = run.result["data"]
    assert torch.equal(long, cut)
    assert run.processed == Processed(2, 1100 + 1024)


def test_progress_follows_every_batch(
    esm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is reported, across windows, up to the numbers of the whole file."""
    monkeypatch.setattr(embedding, "WINDOW", 5)
    sequences = random_sequences(AMINO_ACIDS)
    whole = Run(processor("esm2", esm2, 1), tmp_path, sequences)
    assert [count for count, _ in whole.reports] == list(range(1, len(sequences) + 1))
    assert whole.reports[-1] == (len(sequences), sum(LENGTHS))
    assert whole.processed == Processed(*whole.reports[-1])
    assert whole.result["proteins"] == list(sequences)
    expected = torch.stack(esm2_means(esm2, list(sequences.values())))
    torch.testing.assert_close(torch.stack(whole.result["data"]), expected, rtol=0, atol=1e-5)


class Limited:
    """Runs out of the GPU's memory as soon as a batch has too many tokens."""

    is_exact = True

    def __init__(self, network: Any, tokens: int) -> None:
        self._network = network
        self._tokens = tokens
        self.failures = 0

    def means(self, batch: Sequence[Any], *, is_exact: bool = False) -> Any:
        if sum(map(len, batch)) > self._tokens:
            self.failures += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return self._network.means(batch, is_exact=is_exact)


def test_too_large_batches_are_halved(esm2: Path, tmp_path: Path) -> None:
    """Without memory for a batch, half of it goes next, and the next files begin with less."""
    sequences = random_sequences(AMINO_ACIDS)
    made = processor("esm2", esm2, 2000)
    limited = made._model._network = Limited(made._model._network, 700)
    result = Run(made, tmp_path, sequences).result
    first_file = limited.failures
    expected = torch.stack(esm2_means(esm2, list(sequences.values())))
    torch.testing.assert_close(torch.stack(result["data"]), expected, rtol=0, atol=1e-5)
    assert first_file >= 1
    Run(made, tmp_path, sequences)
    assert limited.failures == first_file


def test_sequence_that_does_not_fit_alone_fails(esm2: Path, tmp_path: Path) -> None:
    """An attempt fails when even one sequence is too large, and says why."""
    made = processor("esm2", esm2)
    made._model._network = Limited(made._model._network, 100)
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        Run(made, tmp_path, random_sequences(AMINO_ACIDS))


@pytest.mark.parametrize(
    ("sequences", "fault"),
    [
        ({"a": "MKV", "b": ""}, "sequence 'b' is empty"),
        ({"a": "MKV", "a second": "MKV"}, "two sequences are named 'a'"),
        ({"a": "ACGT" * 100, "b": "NNNN" * 200}, "it contains nucleotides"),
    ],
)
def test_esm2_refuses(esm2: Path, tmp_path: Path, sequences: dict[str, str], fault: str) -> None:
    """What has no vector, or no name of its own, or is no protein, fails the file for good."""
    with pytest.raises(SequenceFileError, match=fault):
        Run(processor("esm2", esm2), tmp_path, sequences)


def test_esm2_takes_short_proteins_of_any_letters(esm2: Path, tmp_path: Path) -> None:
    """A few residues that could be bases are proteins."""
    assert Run(processor("esm2", esm2), tmp_path, {"a": "GATTACA"}).processed == Processed(1, 7)


@pytest.mark.parametrize(
    ("sequences", "fault"),
    [
        ({"a": "ACGT", "b": "MKVLE"}, "sequence 'b' is a protein"),
        ({"a": "ACGT" * 150}, "sequence 'a' has 602 tokens; the model takes at most 600"),
    ],
)
def test_dnabert_refuses(bert: Path, tmp_path: Path, sequences: dict[str, str], fault: str) -> None:
    """Proteins, and what is longer than the model can take, fail the file for good."""
    with pytest.raises(SequenceFileError, match=fault):
        Run(processor("dnabert", bert), tmp_path, sequences)


def test_own_code_of_a_model_runs(bert_with_code: Path, bert: Path, tmp_path: Path) -> None:
    """With the user's word, the code that comes with a model is run, without its kernel."""
    made = processor("dnabert", bert_with_code, trust_remote_code=True)
    result = Run(made, tmp_path, {"a": "ACGT"}).result
    (plain,) = bert_means(bert, ["ACGT"])
    found = torch.tensor(result["data"][0]["mean_representation"])
    torch.testing.assert_close(found, plain + 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "model"), [("esm2", "esm2"), ("dnabert", "bert"), ("dnabert", "alibi_bert")]
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_near(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, model: str, precision: str
) -> None:
    """Numbers of two bytes change the vectors by little, and by something; the file has float32."""
    options: Any = {"trust_remote_code": True} if model == "alibi_bert" else {}
    sequences = random_sequences({"esm2": AMINO_ACIDS, "dnabert": "ACGT"}[kind])
    exact, rounded = (
        vectors_of(
            Run(
                processor(kind, request.getfixturevalue(model), precision=name, **options),
                tmp_path,
                sequences,
            ).result
        )
        for name in ("fp32", precision)
    )
    assert rounded.dtype is torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0, atol=0.1)


def vectors_of(result: dict[str, Any]) -> Any:
    """The vectors of a file of either kind."""
    if "proteins" in result:
        return torch.stack(result["data"])
    return torch.tensor([entry["mean_representation"] for entry in result["data"]])


@pytest.mark.parametrize("kind", ["esm2", "dnabert"])
def test_vectors_that_overflow_are_made_again_in_float32(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """What is not finite in two bytes, and finite in four, is no fault of the GPU."""
    folder = request.getfixturevalue({"esm2": "esm2", "dnabert": "bert"}[kind])
    sequences = random_sequences({"esm2": AMINO_ACIDS, "dnabert": "ACGT"}[kind])
    expected = vectors_of(Run(processor(kind, folder), tmp_path, sequences).result)
    made = processor(kind, folder, precision="fp16")
    healthy = made._model._network.means

    def means(batch: Sequence[Any], *, is_exact: bool = False) -> Any:
        return healthy(batch, is_exact=is_exact) / (1.0 if is_exact else 0.0)

    made._model._network.means = means
    found = vectors_of(Run(made, tmp_path, sequences).result)
    # The weights of the packed path are rounded all the same.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 if kind == "esm2" else 1e-5)


@pytest.mark.parametrize("prefix", ["", "esm."])
@pytest.mark.parametrize("legacy", [None, False, True])
def test_weights_come_from_any_format(
    esm2: Path, tmp_path: Path, prefix: str, legacy: bool | None
) -> None:
    """Models are in safetensors or pickles of two formats, with heads or without."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - comes with transformers

    folder = tmp_path / "model"
    folder.mkdir()
    for path in esm2.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    weights = {prefix + name: t for name, t in load_file(esm2 / "model.safetensors").items()}
    if legacy is None:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    sequences = random_sequences(AMINO_ACIDS)
    made, plain = processor("esm2", folder), processor("esm2", esm2)
    assert isinstance(made._model._network, PackedEsm)
    expected = Run(plain, tmp_path, sequences).result
    found = Run(made, tmp_path, sequences).result
    assert torch.equal(torch.stack(found["data"]), torch.stack(expected["data"]))


def test_incomplete_model_is_refused(esm2: Path, tmp_path: Path) -> None:
    """Weights that are missing are never made up."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - comes with transformers

    weights = load_file(esm2 / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    del weights[name]
    folder = tmp_path / "model"
    folder.mkdir()
    for path in esm2.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ProcessorError, match=f"lacks weights, such as '{name}'"):
        processor("esm2", folder)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["esm2", "dnabert"])
def test_vectors_that_are_not_finite_fail_the_attempt(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, wrong: float
) -> None:
    """The attempt fails, not the file for good, and no result is left; the sequence is named."""
    made = processor(kind, request.getfixturevalue({"esm2": "esm2", "dnabert": "bert"}[kind]))
    healthy = made._model._network.means

    def means(batch: Sequence[Any], *, is_exact: bool = False) -> Any:
        vectors = healthy(batch, is_exact=is_exact).clone()
        vectors[[len(tokens) == 14 for tokens in batch], 3] = wrong
        return vectors

    made._model._network.means = means
    letters = {"esm2": AMINO_ACIDS, "dnabert": "ACGT"}[kind]
    with pytest.raises(NotFiniteError, match="not finite: sequence 'chunk_5F1'; check the GPU"):
        Run(made, tmp_path, random_sequences(letters))
    assert not list(tmp_path.glob("*.pt"))


def test_gpu_that_pytorch_cannot_use_is_an_error(
    esm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of a GPU never falls back to the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = build({"kind": "esm2", "model": str(esm2), "tokens_per_batch": 100})
    with pytest.raises(ProcessorError, match="cannot use GPU 0"):
        made.setup("0")


@pytest.mark.parametrize("kind", ["esm2", "dnabert"])
def test_parts_joined_are_the_whole(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part leaves arrays; joined, they are the file that one worker writes, to 1e-5."""
    monkeypatch.setattr(embedding, "WINDOW", 3)
    made = processor(kind, request.getfixturevalue({"esm2": "esm2", "dnabert": "bert"}[kind]))
    sequences = random_sequences({"esm2": AMINO_ACIDS, "dnabert": "ACGT"}[kind], LENGTHS * 3)
    expected = Run(made, tmp_path, sequences).result
    file = tmp_path / "part_1.fa"
    (name,) = made.output_names(file)
    first = OpenPart(Part(file))
    cuts: list[Shrunk] = []

    def shrink(*_: int | None) -> None:
        if not cuts:
            cut = first.shrink(0.8)
            assert cut is not None
            cuts.append(cut)

    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    counts = [made.process(first, folders[0] / name, shrink).sequences]
    middle = (cuts[0].at + file.stat().st_size) // 2
    for folder, part in zip(
        folders[1:], (Part(file, cuts[0].at, middle), Part(file, middle)), strict=True
    ):
        counts.append(made.process(OpenPart(part), folder / name, lambda *_: None).sequences)
    assert all(counts)
    assert sum(counts) == len(sequences)
    (tmp_path / "joined").mkdir()
    joining.join(made, file, folders, tmp_path / "joined")
    found = torch.load(tmp_path / "joined" / name)
    names = {"esm2": "proteins", "dnabert": "nucleotide"}[kind]
    assert found[names] == list(sequences)
    torch.testing.assert_close(vectors_of(found), vectors_of(expected), rtol=0, atol=1e-5)
    # A part that was the whole file after all, and one that was not: the same bytes.
    whole = OpenPart(Part(file))
    made.process(whole, tmp_path / name, lambda *_: None)
    assert whole.shrink(1.0) is None
    made.process(OpenPart(Part(file, 0, 10**9)), folders[0] / name, lambda *_: None)
    made.join([folders[0] / name], tmp_path / "joined" / name)
    assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_names_are_looked_at_across_parts(esm2: Path, tmp_path: Path) -> None:
    """Two parts that have a sequence of one name cannot be joined."""
    made = processor("esm2", esm2)
    file = write_fasta(tmp_path / "a.fa", {"a": "MKV", "b": "MKV", "a twin": "MKV"})
    size = file.stat().st_size
    parts = [tmp_path / "first", tmp_path / "second"]
    made.process(OpenPart(Part(file, 0, 10)), parts[0], lambda *_: None)
    made.process(OpenPart(Part(file, 10, size)), parts[1], lambda *_: None)
    with pytest.raises(SequenceFileError, match="two sequences are named 'a'"):
        made.join(parts, tmp_path / "joined")


@pytest.mark.parametrize("kind", ["esm2", "dnabert"])
def test_small_files_go_through_the_model_together(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Each gets its own vectors, and faults stay with the file that has them."""
    folder = request.getfixturevalue({"esm2": "esm2", "dnabert": "bert"}[kind])
    means = {"esm2": esm2_means, "dnabert": bert_means}[kind]
    made = processor(kind, folder, 4000)
    batches: list[int] = []
    network = made._model._network.means

    def counted(batch: Sequence[Any], **options: Any) -> Any:
        batches.append(len(batch))
        vectors = network(batch, **options).clone()
        vectors[[len(tokens) == 99 for tokens in batch], 0] = float("nan")
        return vectors

    made._model._network.means = counted
    letters = {"esm2": AMINO_ACIDS, "dnabert": "ACGT"}[kind]
    sequences = [random_sequences(letters, lengths) for lengths in ([5, 9], [97], [3, 60, 7], [8])]
    sequences.insert(2, {"empty": ""})
    files = [write_fasta(tmp_path / f"{i}.fa", found) for i, found in enumerate(sequences)]
    files = [files[0], files[1], files[3], files[2], files[4]]
    texts = [sequences[0], sequences[1], sequences[3], sequences[2], sequences[4]]
    made.expect(files)
    for number, (file, text) in enumerate(zip(files, texts, strict=True)):
        output = tmp_path / made.output_names(file)[0]
        if number in (1, 3):
            with pytest.raises(NotFiniteError if number == 1 else SequenceFileError):
                made.process(file, output, lambda *_: None)
            continue
        made.process(file, output, lambda *_: None)
        expected = torch.stack(means(folder, list(text.values())))
        torch.testing.assert_close(vectors_of(torch.load(output)), expected, rtol=0, atol=1e-5)
    assert batches == [6, 1]
