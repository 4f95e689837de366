"""Measures how fast sequence files are estimated, counted and translated, on one core.

Run `python benchmarks/counting.py [MEGABYTES]`. Rates are in MB of text a second of processor time,
the best of three, with files in the page cache. pyfastx, where installed, counts the same files for
comparison; it accepts truncated gzip and malformed FASTQ in silence, so the package has a parser of
its own.
"""

from __future__ import annotations

import gzip
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from virnucpro_exporter.files.counting import count, estimate
from virnucpro_exporter.processors.translate import TranslateProcessor

try:
    import pyfastx
except ImportError:
    pyfastx = None

ROUNDS = 3
TRANSLATED_BYTES = 10_000_000


def fastest(action: Callable[[], object]) -> float:
    """Seconds of processor time of the fastest of three runs."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return min(seconds)


def write_records(path: Path, marker: str, length: int, width: int, size: int) -> None:
    """Write `size` bytes or a little more of records of one length, cut from a random genome."""
    rng = random.Random(length)
    genome = "".join(rng.choices("ACGT", k=2 * length + 1_000_000))
    qualities = "".join(rng.choices("ADFI:,#", k=len(genome)))
    written = number = 0
    with path.open("w", encoding="ascii") as file:
        while written < size:
            start = rng.randrange(len(genome) - length)
            lines = [genome[i : i + width] for i in range(start, start + length - width + 1, width)]
            number += 1
            text = f"{marker}read_{number} length={length}\n" + "\n".join(lines) + "\n"
            if marker == "@":
                text += "+\n" + qualities[start : start + length] + "\n"
            written += file.write(text)


def measure(path: Path, text_bytes: int) -> None:
    """Print one row of the table."""
    counted, estimated = count(path), estimate(path)
    megabytes = text_bytes / 1e6
    rival = "-"
    if pyfastx is not None:
        rival = (
            f"{megabytes / fastest(lambda: sum(len(r[1]) for r in pyfastx.Fastx(str(path)))):.0f}"
        )
    print(
        f"{path.name:<18}{megabytes / fastest(lambda: count(path)):>14,.0f}{rival:>14}"
        f"{fastest(lambda: estimate(path)) * 1e3:>16.1f}"
        f"{100 * (estimated.residues / counted.residues - 1):>+16.3f}"
    )


def measure_translate(source: Path, folder: Path) -> None:
    """Print how fast the start of a file is translated."""
    path = folder / "translated.fa"
    with source.open("rb") as file:
        path.write_bytes(file.read(TRANSLATED_BYTES))
    processor = TranslateProcessor()
    output = folder / processor.output_names(path)[0]

    def translate() -> None:
        processor.process(path, output, lambda _sequences, _residues=None: None)

    print(f"translate {source.name}: {TRANSLATED_BYTES / 1e6 / fastest(translate):.0f} MB/s")


def main() -> None:
    """Measure everything on files of the size given on the command line, 100 MB by default."""
    size = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 100_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(
            f"{'file':<18}{'count MB/s':>14}{'pyfastx MB/s':>14}{'estimate ms':>16}{'error %':>16}"
        )
        for file_name, marker, length, width in (
            ("genomes.fa", ">", 1_200_000, 60),
            ("contigs.fa", ">", 3_000, 60),
            ("reads.fa", ">", 150, 150),
            ("reads.fq", "@", 150, 150),
        ):
            path = folder / file_name
            write_records(path, marker, length, width, size)
            text_bytes = path.stat().st_size
            measure(path, text_bytes)
            packed = folder / f"{file_name}.gz"
            packed.write_bytes(gzip.compress(path.read_bytes(), compresslevel=6))
            measure(packed, text_bytes)
        measure_translate(folder / "contigs.fa", folder)
        measure_translate(folder / "reads.fa", folder)


if __name__ == "__main__":
    main()
