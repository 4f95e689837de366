"""VirNucPro's last steps written out plainly, and a classifier pickled as its training does."""

from __future__ import annotations

import random
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.models.tiny import bert_means, esm2_means
from virnucpro_exporter.processors.translate import split_chunks, translate_frames


class MLPClassifier(nn.Module):  # type: ignore[misc]  # PyTorch is not installed where types are checked
    """The layers of VirNucPro's classifier, by its names for them."""

    def __init__(self, width: int, hidden: int, classes: int = 2) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, vectors: Any) -> Any:
        hidden = torch.relu(self.bn1(self.hidden_layer(vectors)))
        return self.output_layer(self.dropout(hidden))


def make_classifier(width: int, hidden: int = 16) -> Any:
    """One with random weights and statistics."""
    torch.manual_seed(4)
    made = MLPClassifier(width, hidden)
    made.bn1.running_mean = torch.randn(hidden)
    made.bn1.running_var = torch.rand(hidden) + 0.5
    with torch.no_grad():
        made.output_layer.weight.mul_(4)
    return made.eval()


def save_classifier(path: Path, made: Any, origin: str = "__main__") -> Path:
    """Pickle a module whole, as if its class were defined in a module of another name."""
    module = sys.modules.get(origin) or types.ModuleType(origin)
    there, before = origin in sys.modules, MLPClassifier.__module__
    sys.modules[origin] = module
    module.MLPClassifier = MLPClassifier  # type: ignore[attr-defined]  # so that pickle finds it
    MLPClassifier.__module__ = origin
    try:
        torch.save(made, path)
    finally:
        MLPClassifier.__module__ = before
        del module.MLPClassifier
        if not there:
            del sys.modules[origin]
    return path


def embed(fasta: dict[str, str], size: int, esm2: Path, bert: Path) -> tuple[list[str], Any]:
    """Chunk, translate, embed one by one, and merge: names, and a row of numbers for each.

    The chunks and frames are those of `translate`, which other tests compare with VirNucPro's.
    """
    frames = [
        (f"{name}_chunk_{number}{frame.decode()}", bases.decode(), protein.decode())
        for name, sequence in fasta.items()
        for number, chunk in enumerate(split_chunks(sequence.encode(), size), 1)
        for frame, bases, protein in translate_frames(chunk.upper())
    ]
    nucleotides = bert_means(bert, [bases for _, bases, _ in frames])
    proteins = esm2_means(esm2, [protein for _, _, protein in frames])
    merged = torch.cat((torch.stack(nucleotides), torch.stack(proteins)), dim=1)
    return [name for name, _, _ in frames], merged


def predict(
    fasta: dict[str, str], size: int, esm2: Path, bert: Path, made: Any
) -> list[tuple[str, str, float, float]]:
    """Name, label and the two scores of every open frame."""
    names, merged = embed(fasta, size, esm2, bert)
    with torch.no_grad():
        scores = made(merged).softmax(dim=1)
    labels = [{0: "others", 1: "virus"}[int(label)] for label in scores.argmax(dim=1)]
    first, second = scores.T.tolist()
    return list(zip(names, labels, first, second, strict=True))


def trained(esm2: Path, bert: Path) -> Any:
    """A classifier for tiny models, whose statistics are those of vectors, so that labels vary."""
    source = random.Random(6)
    sequences = {str(i): "".join(source.choices("ACGGCT", k=500)) for i in range(40)}
    _, vectors = embed(sequences, 500, esm2, bert)
    made = make_classifier(vectors.shape[1])
    with torch.no_grad():
        hidden = made.hidden_layer(vectors)
        made.bn1.running_mean, made.bn1.running_var = hidden.mean(dim=0), hidden.var(dim=0)
    return made
