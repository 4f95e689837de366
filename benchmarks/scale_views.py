"""What the views of a run take, and how the figures of `benchmarks.scale` are printed."""

from __future__ import annotations

import functools
import io
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
from rich.console import Console

from tests import builders
from virnucpro_exporter.cluster.looks import pack
from virnucpro_exporter.cluster.nodes import NodeGpus
from virnucpro_exporter.csv_log.writer import MetricsLog
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.metrics.exposition import Format
from virnucpro_exporter.metrics.registry import build_registry
from virnucpro_exporter.remote.scrape import gpu_snapshot, read_scrape, run_snapshot
from virnucpro_exporter.terminal.views import Size, run_view
from virnucpro_exporter.web.pages import Pages

MIB = 1024 * 1024
# Each view is made so many times at a point, but no more when it has taken so long, in seconds.
TIMES, ENOUGH_SECONDS = 7, 5.0


class Views:
    """All that shows a run, measured at points of it."""

    def __init__(
        self, coordinator: WorkStealingCoordinator, nodes: Iterable[str], folder: Path
    ) -> None:
        self._coordinator = coordinator
        self._nodes = sorted(set(nodes))
        self._gpus = NodeGpus(clock=lambda: 0.0)  # what was said once stays fresh
        self._answer = pack(builders.NOW, builders.gpus_up(8))
        self._hear()
        sources = (coordinator, self._gpus)
        self._pages = Pages(build_registry(*sources), sources, max_age=float("inf"))
        self._log = MetricsLog(folder / "gpu_metrics.log")

    def _hear(self) -> None:
        for node in self._nodes:
            self._gpus.take(node, f"{node}/0", self._answer)
        self._gpus.latest()

    def _table(self, lines: int) -> None:
        run, size = self._coordinator.latest(), Size(160, lines)
        console = Console(file=io.StringIO(), width=160, height=lines, force_terminal=True)
        console.print(run_view(run, self._gpus.latest(), run.timestamp, size))

    def measure(self) -> None:
        """Print what each view takes now."""
        anew = self._coordinator.snapshot
        run = anew()
        show("snapshot", cpu(anew))
        for form in Format:
            scrape = functools.partial(self._pages.get, form, packed=True)
            first, again, same = cpu(scrape, times=1), cpu(scrape, before=anew), cpu(scrape)
            page = self._pages.get(form, packed=False)
            samples = sum(not line.startswith(b"#") for line in page.splitlines())
            sizes = f"{samples:,} samples, {len(page) / MIB:.1f} MiB, "
            sizes += f"{len(scrape()) / MIB:.2f} MiB with gzip"
            times = f"first {first:.0f} ms, the same again {same:.3f} ms; {sizes}"
            show(f"scrape, {form.name.lower()}", again, times)
        show("table of 50 lines", cpu(lambda: self._table(50)))
        show("table of all lines", cpu(lambda: self._table(len(run.workers) + 30)))
        text = self._pages.get(Format.TEXT, packed=False).decode()
        show("a page read by watch", cpu(lambda: _watch(text), times=3))
        gpus = self._gpus.latest()
        show("rows of the log", cpu(lambda: self._log.write(run, gpus, run.timestamp)))
        show("values of all GPUs taken in", cpu(self._hear))


def _watch(page: str) -> None:
    samples = read_scrape(page)
    run_snapshot(samples, samples, builders.NOW)
    gpu_snapshot(samples, builders.NOW)


def cpu(
    work: Callable[[], object], before: Callable[[], object] = lambda: None, times: int = TIMES
) -> float:
    """Median processor time of a piece of work, in ms; what comes `before` is not counted.

    With ten thousand GPUs some views take seconds: those are not made as often.
    """
    spent = []
    for _ in range(times):
        before()
        begin = time.thread_time()
        work()
        spent.append(time.thread_time() - begin)
        if sum(spent) > ENOUGH_SECONDS:
            break
    return 1000 * statistics.median(spent)


def show(what: str, value: float, more: str = "", unit: str = "ms") -> None:
    """Print one figure."""
    number = f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    print(f"  {what:<34} {number:>10} {unit:<8} {more}".rstrip(), flush=True)


def rss() -> float:
    """Memory of this process now, in MiB."""
    return float(psutil.Process().memory_info().rss) / MIB
