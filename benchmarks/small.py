"""The processor of `benchmarks.start`: a module of its own, as workers import all that it needs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from virnucpro_exporter.processors.base import Processed, ProgressCallback


class Small:
    """Leaves one small output, and notes when the first file came."""

    def __init__(self) -> None:
        self._is_first = True

    def output_names(self, file: Path) -> Sequence[str]:
        """One."""
        return (f"{file.name}.out",)

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Write it."""
        del file, progress
        if self._is_first:
            self._is_first = False
            Path(os.environ["FIRST"], str(os.getpid())).write_text(repr(time.time()))
        with open(output, "w", encoding="utf-8") as written:  # noqa: PTH123 - as the peer does
            written.write("1\n")
        return Processed(1, 100)
