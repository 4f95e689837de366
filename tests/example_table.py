"""Writes the picture of the live table: `python -m tests.example_table > docs/table.svg`."""

from __future__ import annotations

import html
import io
import os
import re
import sys
import time
from dataclasses import replace

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from tests import builders
from virnucpro_exporter.terminal.views import Size, ViewOptions, run_view

SIZE = Size(118, 22)
# A reader of the picture fetches nothing from another host.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def words(picture: str) -> list[str]:
    """The words of such a picture, in order; how they are drawn varies between versions of Rich."""
    texts = re.findall(r"<text [^>]*>(.*?)</text>", picture)
    return html.unescape(" ".join(texts)).split()


def example() -> str:
    """Eight GPUs in mid-run, one of which has stalled, as an SVG."""
    run, gpus = builders.stalled(8), builders.gpus_up(8)
    workers = tuple(replace(w, current_ratio=(n * 3 % 10) / 9) for n, w in enumerate(run.workers))
    view = run_view(
        replace(run, workers=workers, start_timestamp=builders.NOW - 1500.0),
        gpus,
        builders.NOW,
        SIZE,
        ViewOptions(endpoint="http://localhost:9877/metrics"),
    )
    console = Console(
        file=io.StringIO(),
        record=True,
        width=SIZE.width,
        height=SIZE.height,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(view)
    title = "virnucpro-exporter run READS/ --output RESULTS"
    return console.export_svg(title=title, code_format=FORMAT, unique_id="table")


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    sys.stdout.write(example())
