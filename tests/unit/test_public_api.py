"""The names that users import."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console

import virnucpro_exporter
from tests.gpu_sources import ScriptedSource
from virnucpro_exporter import (
    GPUMonitor,
    LoadBalancingDashboard,
    MetricsServer,
    SequenceFile,
    WorkStealingCoordinator,
)
from virnucpro_exporter.metrics import GpuCollector, RunCollector


def test_every_public_name_can_be_imported() -> None:
    """Each name of `__all__` is found."""
    for name in virnucpro_exporter.__all__:
        assert getattr(virnucpro_exporter, name) is not None


def test_public_names_are_listed_before_they_are_used() -> None:
    """`dir()` and completion in a fresh interpreter know every public name."""
    script = "import virnucpro_exporter as v; print(sorted(set(v.__all__) - set(dir(v))))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_type_checkers_see_each_name_where_it_is_loaded_from() -> None:
    """The imports for type checkers and the table of lazy names agree."""
    tree = ast.parse(Path(virnucpro_exporter.__file__).read_text())
    seen = {
        alias.name: (node.module or "").removeprefix("virnucpro_exporter.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == virnucpro_exporter._WHERE
    assert set(seen) == set(virnucpro_exporter.__all__)


def test_objects_show_their_state() -> None:
    """`repr` in a notebook, before and after they are started."""
    run = WorkStealingCoordinator({"0": 1.0, "1": 2.5})
    run.submit([SequenceFile("a.fa", residues=1)])
    run.snapshot()
    gpus = GPUMonitor(source=ScriptedSource("a"))
    server = MetricsServer(run, gpus, listen=["localhost:0"])
    screen = LoadBalancingDashboard(
        run, gpus, log_file=None, console=Console(file=io.StringIO()), plain=True
    )
    of_run = "<WorkStealingCoordinator of 2 workers, starting: 1 file queued, 0 in process, "
    assert repr(run).startswith(of_run)
    assert repr(gpus) == "<GPUMonitor: not started>"
    assert repr(server) == "<MetricsServer: not serving>"
    assert repr(screen) == f"<LoadBalancingDashboard: not shown, of {run!r}>"
    assert repr(RunCollector(run)) == f"RunCollector({run!r})"
    with gpus, server, screen:
        gpus.wait()
        assert repr(GpuCollector(gpus)) == "GpuCollector(<GPUMonitor: 1 GPU, backend scripted>)"
        assert re.fullmatch(r"<MetricsServer: (http://\S+/metrics ?)+>", repr(server))
        assert repr(screen).startswith("<LoadBalancingDashboard: shown, of ")


def test_a_worker_starts_without_the_parts_of_its_parent() -> None:
    """Importing the worker's module loads neither Rich nor nvitop nor the metrics."""
    script = (
        "import sys, virnucpro_exporter.workers.main\n"
        "print(sorted({'rich', 'nvitop', 'prometheus_client', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
