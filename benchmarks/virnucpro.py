"""Tokens per second of the models on one thread of a CPU, against VirNucPro's way, in the same run.

VirNucPro sorts the proteins of a file by length and pads batches of at most 2,048 tokens; here that
rule feeds the same weights through transformers' own module. Nucleotides go through its DNABERT-S
one by one; here through a smaller model of the same layers. Beside both are the processors as they
are. Only real tokens count, and processor time, so that a busy machine changes little. The last
rows are small files that a worker is handed together or one by one, and the time that the processor
virnucpro spends outside its models.

    .venv-models/bin/python -m benchmarks.virnucpro
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from tests.models.tiny import SPECIAL_TOKENS, save_alibi_bert, write_fasta
from tests.models.vanilla import make_classifier, save_classifier
from virnucpro_exporter.processors import build
from virnucpro_exporter.processors.translate import split_chunks, translate_frames
from virnucpro_exporter.sequences import read_sequences

PHAGE = Path(__file__).parents[1] / "examples" / "lambda_phage.fa"
LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
TOKENS_PER_BATCH = 2048  # VirNucPro's
GOAL = 1.2
GOAL_OUTSIDE = 0.05


def save_model(folder: Path) -> Path:
    """An ESM-2 of the shape of `esm2_t6_8M_UR50D`, with random weights."""
    folder.mkdir()
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, "<null_1>", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.EsmConfig(
        vocab_size=len(vocabulary),
        mask_token_id=32,
        pad_token_id=1,
        num_hidden_layers=6,
        hidden_size=320,
        num_attention_heads=20,
        intermediate_size=1280,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
    )
    torch.manual_seed(0)
    transformers.EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def pieces(source: random.Random, shortest: int, longest: int) -> Iterator[bytes]:
    """Stretches of the phage of random lengths."""
    (record,) = read_sequences(PHAGE)
    genome = record.sequence.upper()
    while True:
        length = source.randint(shortest, longest)
        start = source.randrange(len(genome) - length)
        yield genome[start : start + length]


def proteins(sequences: Iterator[bytes], size: int, tokens: int) -> list[bytes]:
    """Proteins of open frames, until there are so many tokens."""
    found: list[bytes] = []
    frames = (
        protein
        for sequence in sequences
        for chunk in split_chunks(sequence, size)
        for _, _, protein in translate_frames(chunk)
    )
    while tokens > 0:
        found.append(next(frames))
        tokens -= len(found[-1]) + 2
    return found


def batches_of_virnucpro(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of the proteins of each batch: shortest first, as many as fit when padded."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and (lengths[index] + 1) * (len(batch) + 1) > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(index)
    yield batch


class Padded:
    """VirNucPro's way: tokens, batches, one mean for each protein."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.EsmModel.from_pretrained(folder, add_pooling_layer=False)
        self._model = model.eval()

    def __call__(self, sequences: Sequence[bytes]) -> Any:
        """Vectors, in the order of VirNucPro."""
        vectors = []
        for batch in batches_of_virnucpro([len(sequence) for sequence in sequences]):
            texts = [sequences[index].decode() for index in batch]
            with torch.inference_mode():
                inputs = self._tokenizer(texts, return_tensors="pt", padding=True)
                hidden = self._model(**inputs)[0]
                vectors += [
                    row[1 : len(text) + 1].mean(0) for row, text in zip(hidden, texts, strict=True)
                ]
        return vectors


class OneByOne:
    """VirNucPro's way with nucleotides."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
        sys.modules[type(model).__module__].flash_attn_qkvpacked_func = None  # type: ignore[attr-defined]  # it is there
        self._model = model.eval()

    def __call__(self, sequences: Sequence[bytes]) -> Any:
        """Vectors, in the order of the file."""
        with torch.inference_mode():
            ids = (self._tokenizer(s.decode(), return_tensors="pt")["input_ids"] for s in sequences)
            return [self._model(found)[0][0].mean(0) for found in ids]


class Ours:
    """The model of a processor."""

    def __init__(self, kind: str, folder: Path) -> None:
        made: Any = build({"kind": kind, "model": str(folder), "trust_remote_code": True})
        made.setup("cpu0")
        self._model = made._model  # noqa: SLF001 - it is timed without reading and writing
        self.encode: Callable[[Sequence[bytes]], Sequence[Sequence[int]]] = self._model.encode

    def __call__(self, sequences: Sequence[bytes]) -> Any:
        """Vectors, in the order of the file."""
        return self._model.vectors(self.encode(sequences), lambda _: None)


def save_nucleotide_model(folder: Path) -> Path:
    """A BERT with the layers of DNABERT-S and a quarter of its size, and tokens of many bases."""
    folder.mkdir()
    save_alibi_bert(
        folder,
        vocab_size=4096,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1536,
    )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))  # noqa: S106 - no password
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=4096, special_tokens=special, show_progress=False
    )
    texts = (next(pieces(random.Random(seed), 500, 501)).decode() for seed in range(300))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **SPECIAL_TOKENS
    ).save_pretrained(folder)
    return folder


def nucleotides(sequences: Iterator[bytes], size: int, number: int) -> list[bytes]:
    """So many open frames."""
    frames = (
        bases
        for sequence in sequences
        for chunk in split_chunks(sequence, size)
        for _, bases, _ in translate_frames(chunk)
    )
    return list(itertools.islice(frames, number))


def together(model: Path, folder: Path, files: int, rounds: int) -> tuple[float, float]:
    """Seconds of esm2 for files of one read, handed over one by one and 16 at a time."""
    source = pieces(random.Random(5), 75, 150)
    paths = []
    for number in range(files):
        found = proteins(source, 300, 1)
        paths.append(
            write_fasta(folder / f"{number}.fa", {f"r{number}": text.decode() for text in found})
        )
    made: Any = build({"kind": "esm2", "model": str(model)})
    made.setup("cpu0")
    times: dict[int, list[float]] = {1: [], 16: []}
    for held in [1, 16] * (rounds + 1):
        begin = time.process_time()
        for start in range(0, files, held):
            batch = paths[start : start + held]
            made.expect(batch)
            for path in batch:
                made.process(path, folder / "out", lambda *_: None)
        times[held].append(time.process_time() - begin)
    return statistics.median(times[1][1:]), statistics.median(times[16][1:])


def seconds(work: Callable[[Sequence[bytes]], Any], files: Sequence[Sequence[bytes]]) -> float:
    """Processor time for some files."""
    begin = time.process_time()
    for file in files:
        work(file)
    return time.process_time() - begin


def outside(model: Path, folder: Path, tokens: int) -> float:
    """The share of the time of the processor virnucpro that it spends outside its models."""
    (folder / "bert").mkdir()
    bert = save_alibi_bert(folder / "bert")
    classifier = save_classifier(folder / "500_model.pth", make_classifier(24 + 320))
    models = {"dnabert": str(bert), "esm2": str(model)}
    spec = {"classifier": str(classifier), "models": models, "trust_remote_code": True}
    made: Any = build({"kind": "virnucpro", **spec})
    made.setup("cpu0")
    inside = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal inside
            begin = time.perf_counter()
            found = function(*arguments)
            inside += time.perf_counter() - begin
            return found

        return call

    loaded = made._loaded  # noqa: SLF001 - its models are timed from within
    for part in (loaded.dnabert, loaded.esm2):
        part.vectors = timed(part.vectors)
    loaded.classifier.scores = timed(loaded.classifier.scores)
    contigs = pieces(random.Random(3), 300, 3000)
    names = itertools.count()
    sequences: dict[str, str] = {}
    for contig in itertools.islice(contigs, tokens // 700):
        sequences[f"contig_{next(names)}"] = contig.decode()
    file = write_fasta(folder / "contigs.fa", sequences)
    begin = time.perf_counter()
    made.process(file, folder / "rows", lambda *_: None)
    return 1 - inside / (time.perf_counter() - begin)


def compare(
    what: str,
    theirs: Callable[[Sequence[bytes]], Any],
    ours: Ours,
    files: Sequence[Sequence[bytes]],
    rounds: int,
) -> None:
    """Print the row of a set."""
    real = sum(len(tokens) for file in files for tokens in ours.encode(file))
    pairs = [(seconds(theirs, files), seconds(ours, files)) for _ in range(rounds + 1)][1:]
    ratio = statistics.median(first / second for first, second in pairs)
    rule, own = (real / statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    mark = "" if ratio >= GOAL else " MISSED"
    print(
        f"| {what} | {rule:,.0f} tokens/s | {own:,.0f} tokens/s | {ratio:.2f}{mark} |", flush=True
    )


def main() -> None:
    """Measure, and print a table for docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=16_000, help="of each set")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    source, tokens, rounds = random.Random(1), options.tokens, options.rounds
    contigs = proteins(pieces(source, 300, 3000), 500, tokens)
    reads = proteins(pieces(source, 75, 150), 300, tokens)
    small = [contigs[start : start + 10] for start in range(0, len(contigs), 10)]
    sets = {"chunks of 500": [contigs], "reads of 75 to 150": [reads], "files of 10 chunks": small}
    print("| set | VirNucPro's rule | this program | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_model(folder / "model")
        padded, ours = Padded(model), Ours("esm2", model)
        for what, files in sets.items():
            compare(what, padded, ours, files, rounds)
        bert = save_nucleotide_model(folder / "nucleotides")
        one_by_one, ours = OneByOne(bert), Ours("dnabert", bert)
        frames = [nucleotides(pieces(source, 300, 3000), 500, tokens // 200)]
        compare("nucleotides of chunks of 500", one_by_one, ours, frames, rounds)
        frames = [nucleotides(pieces(source, 75, 150), 300, tokens // 60)]
        compare("nucleotides of reads", one_by_one, ours, frames, rounds)
        alone, joint = together(model, folder / "small", 160, rounds)
        print(
            f"| files of one read, one by one and 16 at a time | {160 / alone:,.0f} files/s |"
            f" {160 / joint:,.0f} files/s | {alone / joint:.2f} |"
        )
        share = outside(model, folder, 3 * tokens)
        mark = "" if share < GOAL_OUTSIDE else " MISSED"
        print(f"| time of virnucpro outside its models | | {share:.1%} | {mark} |")


if __name__ == "__main__":
    main()
