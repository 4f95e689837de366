"""The whole of VirNucPro in one processor, against its steps written out one by one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import vanilla
from tests.models.test_processors import Limited
from tests.models.tiny import write_fasta
from virnucpro_exporter.errors import ProcessorError, SequenceFileError
from virnucpro_exporter.processors import build, virnucpro
from virnucpro_exporter.processors.base import Processed
from virnucpro_exporter.processors.embedding import NotFiniteError
from virnucpro_exporter.sequences import OpenPart, Part, Shrunk
from virnucpro_exporter.workers import joining

WIDTH = 24 + 32


def genomes(lengths: tuple[int, ...] = (1700, 499, 30, 2, 620, 500, 501, 90)) -> dict[str, str]:
    """Sequences, some of which have open frames."""
    source = random.Random(11)
    return {
        f"contig_{number}": "".join(source.choices("ACGGCT", k=length))
        for number, length in enumerate(lengths)
    }


@pytest.fixture
def make(esm2: Path, alibi_bert: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a processor that is set up on a CPU slot."""
    path = vanilla.save_classifier(tmp_path / "model.pth", vanilla.trained(esm2, alibi_bert))

    def made(**options: Any) -> Any:
        models = {"dnabert": str(alibi_bert), "esm2": str(esm2)}
        spec = {"classifier": str(path), "models": models, "trust_remote_code": True, **options}
        processor = build({"kind": "virnucpro", **spec})
        processor.setup("cpu0")
        return processor

    return made


def rows_of(processor: Any, file: Path, folder: Path) -> list[list[str]]:
    folder.mkdir(exist_ok=True)
    output = folder / processor.output_names(file)[0]
    processor.process(file, output, lambda *_: None)
    return [line.split("\t") for line in output.read_text().splitlines()]


@pytest.mark.parametrize("size", [300, 500])
@pytest.mark.parametrize("window", [1, 7, 4096])
def test_rows_are_those_of_the_steps(
    make: Callable[..., Any],
    esm2: Path,
    alibi_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    window: int,
) -> None:
    """Ids and labels are the same, scores to 1e-5, in the order of the file, for any window."""
    monkeypatch.setattr(virnucpro, "WINDOW", window)
    file = write_fasta(tmp_path / "sample.fa", genomes())
    found = rows_of(make(chunk_size=size), file, tmp_path / "out")
    classifier = vanilla.trained(esm2, alibi_bert)
    expected = vanilla.predict(genomes(), size, esm2, alibi_bert, classifier)
    assert len(expected) > 10
    assert {row[1] for row in expected} == {"virus", "others"}
    assert [row[:2] for row in found] == [list(row[:2]) for row in expected]
    scores = torch.tensor([[float(a), float(b)] for _, _, a, b in found])
    wanted = torch.tensor([row[2:] for row in expected])
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-5)
    assert all(max(len(a), len(b)) <= len("0.12345678e-01") for _, _, a, b in found)


def test_small_files_go_through_the_models_together(
    make: Callable[..., Any], esm2: Path, alibi_bert: Path, tmp_path: Path
) -> None:
    """Each has its own rows and vectors, in its own order; one that is at fault fails alone."""
    processor, classifier = make(keep_vectors=True), vanilla.trained(esm2, alibi_bert)
    batches: list[int] = []
    means = processor._loaded.esm2._network.means

    def counted(batch: Any, **options: Any) -> Any:
        batches.append(len(batch))
        return means(batch, **options)

    processor._loaded.esm2._network.means = counted
    texts = [genomes((480, 90)), genomes((700,)), {"closed": "TAGTTAGCTAACTAGTTAGCTAA" * 4}]
    texts += [{"p": "MKVLEF"}, genomes((300, 40, 620))]
    files = [write_fasta(tmp_path / f"{i}.fa", found) for i, found in enumerate(texts)]
    processor.expect(files)
    seconds = 0.0
    for number, (file, text) in enumerate(zip(files, texts, strict=True)):
        folder = tmp_path / f"out{number}"
        if number == 3:
            with pytest.raises(SequenceFileError, match="amino acid"):
                rows_of(processor, file, folder)
            continue
        found = rows_of(processor, file, folder)
        expected = vanilla.predict(text, 500, esm2, alibi_bert, classifier) if number != 2 else []
        assert [row[:2] for row in found] == [list(row[:2]) for row in expected]
        for row, wanted in zip(found, expected, strict=True):
            assert [float(score) for score in row[2:]] == pytest.approx(wanted[2:], abs=1e-5)
        merged = [torch.load(path)["ids"] for path in folder.glob("*_merged_*.pt")]
        assert merged == ([[row[0] for row in expected]] if expected else [])
        seconds += processor._windows.lent
    assert len(batches) == 2  # the first three files, and the one after the fault
    assert seconds == pytest.approx(0, abs=1e-9)


def test_parts_put_together_are_the_whole(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of parts, joined, are those of the file; vectors are numbered through all parts."""
    monkeypatch.setattr(virnucpro, "VECTORS_PER_FILE", 4)
    processor, every = make(keep_vectors=True), list(genomes().items())
    file = write_fasta(tmp_path / "whole.fa", dict(every))
    expected = rows_of(processor, file, tmp_path / "out")
    (name,) = processor.output_names(file)
    parts = []
    for number, half in enumerate((every[:4], every[4:5], every[5:])):
        (tmp_path / str(number)).mkdir()
        parts.append(tmp_path / str(number) / name)
        part = write_fasta(tmp_path / f"{number}.fa", dict(half))
        processor.process(part, parts[-1], lambda *_: None)
    (tmp_path / "joined").mkdir()
    joined = tmp_path / "joined" / name
    processor.join(parts, joined)
    found = [line.split("\t") for line in joined.read_text().splitlines()]
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    base = name.removeprefix(".").removesuffix(".rows")
    ids: list[str] = []
    for number in range(1, len(list(joined.parent.glob("*.pt"))) + 1):
        ids += torch.load(joined.parent / f"{base}_merged_{number}.pt")["ids"]
    assert ids == [row[0] for row in expected]


def test_part_that_shrinks_is_joined_with_the_rest(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that gives a share of its file away writes the rows before it, another the rest."""
    monkeypatch.setattr(virnucpro, "WINDOW", 2)
    every = genomes((700,) * 60)
    file = write_fasta(tmp_path / "large.fa", every)
    processor = make()
    expected = rows_of(processor, file, tmp_path / "out")
    (name,) = processor.output_names(file)
    first = OpenPart(Part(file))
    cuts: list[Shrunk] = []

    def shrink(*_: int | None) -> None:
        if not cuts:
            cut = first.shrink(0.5)
            assert cut is not None
            cuts.append(cut)

    parts = [tmp_path / part / name for part in ("first", "second")]
    for part in parts:
        part.parent.mkdir()
    done = processor.process(first, parts[0], shrink)
    rest = processor.process(OpenPart(Part(file, cuts[0].at)), parts[1], lambda *_: None)
    assert 0 < rest.sequences < len(every)
    assert done.sequences + rest.sequences == len(every)
    joining.join(processor, file, [part.parent for part in parts], tmp_path)
    found = [line.split("\t") for line in (tmp_path / name).read_text().splitlines()]
    assert [row[:2] for row in found] == [row[:2] for row in expected]


def test_progress_and_counts(make: Callable[..., Any], tmp_path: Path) -> None:
    """Progress grows up to the numbers of the whole file, also where no frame is open."""
    processor, every = make(tokens_per_batch=200), genomes()
    reports: list[tuple[int, int]] = []
    file = write_fasta(tmp_path / "sample.fa", every)
    done = processor.process(file, tmp_path / "rows", lambda *report: reports.append(report))
    assert done == Processed(len(every), sum(map(len, every.values())))
    assert reports == sorted(reports)
    assert len(reports) > 3
    assert reports[-1] == (done.sequences, done.residues)
    closed = write_fasta(tmp_path / "closed.fa", {"a": "TAGTTAGCTAACTAGTTAGCTAA" * 4})
    assert processor.process(closed, tmp_path / "rows", lambda *_: None) == Processed(1, 92)
    assert (tmp_path / "rows").read_bytes() == b""


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_input_is_done(make: Callable[..., Any], tmp_path: Path, text: str) -> None:
    """An assembly without contigs has no predictions, and is no failure."""
    file = tmp_path / "empty.fa"
    file.write_text(text)
    output = tmp_path / "rows"
    assert make().process(file, output, lambda *_: None) == Processed(0, 0)
    assert output.read_bytes() == b""


def test_lack_of_memory_changes_nothing(make: Callable[..., Any], tmp_path: Path) -> None:
    """With room for small batches only, labels are the same and scores to 1e-5."""
    file = write_fasta(tmp_path / "sample.fa", genomes())
    expected = rows_of(make(), file, tmp_path / "out")
    short = make()
    limits = []
    for model, tokens in ((short._loaded.dnabert, 510), (short._loaded.esm2, 200)):
        limits.append(Limited(model._network, tokens))
        model._network = limits[-1]
    found = rows_of(short, file, tmp_path / "out")
    assert all(limit.failures for limit in limits)
    assert short.shortages == sum(limit.failures for limit in limits)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert float(row[3]) == pytest.approx(float(wanted[3]), abs=1e-5)


def test_vectors_are_kept_on_request(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in VirNucPro's form, ten thousand to a file, nucleotides first."""
    monkeypatch.setattr(virnucpro, "VECTORS_PER_FILE", 10)
    monkeypatch.setattr(virnucpro, "WINDOW", 7)
    file = write_fasta(tmp_path / "sample.fa", genomes())
    rows = rows_of(make(keep_vectors=True), file, tmp_path / "out")
    found = sorted((tmp_path / "out").glob("*_merged_*.pt"))
    merged = [torch.load(path) for path in found]
    assert max(part["data"].shape[0] for part in merged) == 10
    assert sum(len(part["ids"]) for part in merged) == len(rows)
    assert {name for part in merged for name in part["ids"]} == {row[0] for row in rows}
    assert {part["data"].shape[1] for part in merged} == {WIDTH}


def test_scores_that_are_not_finite_fail_the_attempt(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    """Whether vectors or scores: another GPU may do better; the frame is named."""
    file = write_fasta(tmp_path / "sample.fa", genomes())
    processor = make()
    scores = processor._loaded.classifier.scores
    processor._loaded.classifier.scores = lambda vectors: scores(vectors) / 0 * 0
    with pytest.raises(NotFiniteError, match="not finite: sequence 'contig_0_chunk_"):
        processor.process(file, tmp_path / "rows", lambda *_: None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (">r1\nACGT\n>r1\nACGT\n", "two sequences are named 'r1'.*paired reads names"),
        (">p\nMKVLEF\n", "amino acid"),
    ],
)
def test_content_at_fault_is_refused(
    make: Callable[..., Any], tmp_path: Path, text: str, fault: str
) -> None:
    """Mates of one name, and proteins, fail a file for good, with what to do."""
    file = tmp_path / "in.fa"
    file.write_text(text)
    with pytest.raises(SequenceFileError, match=fault):
        make().process(file, tmp_path / "rows", lambda *_: None)


def test_classifier_of_other_models_is_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    """Its width must be that of both vectors together."""
    other = vanilla.save_classifier(tmp_path / "other.pth", vanilla.make_classifier(3328))
    with pytest.raises(ProcessorError, match=r"takes vectors of 3328 numbers.*give 24 \+ 32"):
        make(classifier=str(other))
