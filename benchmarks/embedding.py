"""ESM-2 on one GPU: a run with all its views beside the processor alone, on the same files.

The model has the shape of the one with 650 million parameters and random weights. The proteins are
the open frames of the lambda phage, repeated to fill the files. `alone` is the processor in a
process of its own: no coordinator, no worker, no monitor, no endpoint. `run` is the program as a
user starts it; the endpoint is scraped and nvidia-smi is run every second. The two take turns.

Run, in the environment of `make test-models` or any with the extra `models` and a GPU:
    python -m benchmarks.embedding [--gpu 0] [--files 20] [--sequences 10000] [--rounds 3]
On a machine without a GPU, `--gpu cpu0 --shape tiny --files 4 --sequences 200` shows that it works.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro_exporter.csv_log.reader import read_log
from virnucpro_exporter.journal.history import read_history
from virnucpro_exporter.processors import build
from virnucpro_exporter.processors.translate import split_chunks, translate_frames
from virnucpro_exporter.sequences import read_sequences

PHAGE = Path(__file__).parents[1] / "examples" / "lambda_phage.fa"
ADDRESS = "127.0.0.1:19877"
CHUNK = 500
# Layers, hidden size, heads, size of the inner layer.
SHAPES = {"650M": (33, 1280, 20, 5120), "tiny": (2, 64, 4, 128)}
LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
QUERY = ["nvidia-smi", "--query-gpu=utilization.gpu,power.draw", "--format=csv,noheader,nounits"]


def save_model(folder: Path, shape: str) -> Path:
    """An ESM-2 of a shape, with random weights; runs in a process that may load PyTorch."""
    import transformers  # noqa: PLC0415 - not in the parent

    folder.mkdir()
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, "<null_1>", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    layers, hidden, heads, inner = SHAPES[shape]
    config = transformers.EsmConfig(
        vocab_size=len(vocabulary),
        mask_token_id=32,
        pad_token_id=1,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
    )
    transformers.EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def proteins() -> Iterator[bytes]:
    """The proteins of the phage's open frames, over and over."""
    (record,) = read_sequences(PHAGE)
    chunks = split_chunks(record.sequence.upper(), CHUNK)
    found = [protein for chunk in chunks for _, _, protein in translate_frames(chunk)]
    return itertools.cycle(found)


def write_files(folder: Path, files: int, sequences: int) -> list[Path]:
    """The input of every run."""
    folder.mkdir()
    source = proteins()
    paths = [folder / f"part_{number:03}.faa" for number in range(files)]
    for path in paths:
        with path.open("wb") as file:
            for number in range(sequences):
                file.write(b">chunk_%d\n%s\n" % (number, next(source)))
    return paths


@dataclass(frozen=True, slots=True)
class Alone:
    """What the processor alone takes: seconds for all files, and the part the model computed."""

    seconds: float
    computing: float


def alone(paths: Sequence[Path], model: Path, gpu: str, output: Path) -> Alone:
    """Process all files in this process, with nothing around the processor."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if gpu.startswith("cpu") else gpu
    processor: Any = build({"kind": "esm2", "model": str(model), "tokens_per_batch": 8192})
    processor.setup(gpu)
    computing = 0.0
    vectors = processor._model.vectors  # noqa: SLF001 - it is timed from within

    def timed(*arguments: Any) -> Any:
        nonlocal computing
        begin = time.perf_counter()
        made = vectors(*arguments)  # waits until the GPU has made them
        computing += time.perf_counter() - begin
        return made

    processor._model.vectors = timed  # noqa: SLF001 - likewise
    output.mkdir()
    begin = time.perf_counter()
    for path in paths:
        processor.process(path, output / path.name, lambda *_: None)
    return Alone(time.perf_counter() - begin, computing)


@dataclass(frozen=True, slots=True)
class Run:
    """What a whole run took; utilisation in percent, power in watts, NaN where unknown."""

    seconds: float
    waiting: float
    ours: float
    smi: float
    power: float


def run(folder: Path, model: Path, gpu: str, output: Path) -> Run:
    """Run the program on all files, run nvidia-smi and scrape meanwhile."""
    command = [
        sys.executable,
        "-m",
        "virnucpro_exporter",
        "run",
        str(folder),
        "--processor",
        "esm2",
    ]
    command += ["--model", str(model), "--output", str(output), "--linger", "0", "--fresh"]
    command += ["--gpus", "cpu:1" if gpu.startswith("cpu") else gpu, "--no-dashboard"]
    command += ["--metrics-log-interval", "1", "--web-listen-address", ADDRESS]
    readings = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        while program.poll() is None:
            readings.append((time.time(), *ask_smi(gpu)))
            scrape()
            time.sleep(1)
    if program.returncode:
        sys.exit(f"the run ended with status {program.returncode}")
    spans = sorted(read_history(output, time.time()).attempts, key=lambda span: span.started)
    begin, end = spans[0].started, spans[-1].ended
    busy = sum(span.ended - span.started for span in spans)
    within = [reading for reading in readings if begin <= reading[0] <= end]
    (series,) = read_log(output / "gpu_metrics.log").gpus.values()
    seen = zip(series.times, series.compute, strict=True)
    return Run(
        seconds=busy,
        waiting=(end - begin - busy) / (end - begin),
        ours=mean([value for moment, value in seen if begin <= moment <= end]),
        smi=mean([reading[1] for reading in within]),
        power=mean([reading[2] for reading in within]),
    )


def ask_smi(gpu: str) -> tuple[float, float]:
    """Utilisation and power of the GPU, as reported by nvidia-smi."""
    if gpu.startswith("cpu"):
        return float("nan"), float("nan")
    answer = subprocess.check_output([*QUERY, "-i", gpu], text=True)
    utilisation, power = answer.split(",")
    return float(utilisation), float(power)


def scrape() -> None:
    """Fetch the metrics, where the endpoint is up already."""
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}/metrics", timeout=5) as page:
            page.read()
    except OSError:
        return


def mean(values: Sequence[float]) -> float:
    """The mean, or NaN of nothing."""
    return statistics.fmean(values) if values else float("nan")


def main() -> None:
    """Measure, and print a table for docs/gpu-validation.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu", default="0")
    parser.add_argument("--shape", choices=SHAPES, default="650M")
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--sequences", type=int, default=10_000, help="in each file")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    total = options.files * options.sequences
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        paths = write_files(place / "in", options.files, options.sequences)
        with ProcessPoolExecutor(1, context) as pool:
            model = pool.submit(save_model, place / "model", options.shape).result()
        bare: list[Alone] = []
        runs: list[Run] = []
        for number in range(options.rounds):
            with ProcessPoolExecutor(1, context) as pool:  # its GPU memory goes with it
                output = place / f"alone_{number}"
                bare.append(pool.submit(alone, paths, model, options.gpu, output).result())
            runs.append(run(place / "in", model, options.gpu, place / f"run_{number}"))
    seconds = statistics.median(found.seconds for found in runs)
    power = statistics.median(found.power for found in runs)
    cost = statistics.median(r.seconds / a.seconds - 1 for r, a in zip(runs, bare, strict=True))
    idle = statistics.median(1 - found.computing / found.seconds for found in bare)
    ours = statistics.median(found.ours for found in runs)
    smi = statistics.median(found.smi for found in runs)
    waiting = statistics.median(found.waiting for found in runs)
    work = f"{options.shape}, {options.files} x {options.sequences:,} proteins"
    rows = [
        (f"sequences/s ({work})", f"{total / seconds:,.0f}"),
        ("utilisation, ours", f"{ours:.0f} %"),
        ("utilisation, nvidia-smi", f"{smi:.0f} %"),
        ("energy per 1,000 sequences", f"{power * seconds / total * 1000:,.0f} J"),
        ("GPU waits for the next file", f"{waiting:.2%}"),
        ("GPU waits within a file (reading, writing)", f"{idle:.2%}"),
        ("cost of the run's coordination and monitoring", f"{cost:+.2%}"),
    ]
    print("| what | median of the rounds |\n|---|---|")
    for what, value in rows:
        print(f"| {what} | {'unknown' if 'nan' in value else value} |")


if __name__ == "__main__":
    main()
