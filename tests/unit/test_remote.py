"""What `watch` rebuilds from a scrape: what its dashboard shows, by the names of the catalogue."""

from __future__ import annotations

import ast
from dataclasses import replace

from tests import builders
from tests.contracts import ROOT
from virnucpro_exporter.metrics.collectors import RunCollector
from virnucpro_exporter.remote.scrape import Samples, run_snapshot
from virnucpro_exporter.snapshot import Latest, RunEnd, RunResult, RunSnapshot, RunState

SCRAPE = ast.parse((ROOT / "remote" / "scrape.py").read_text(encoding="utf-8"))
VIEWS = ("dashboard", "machines", "views", "worker_table", "gpus_table", "plain")
SNAPSHOTS = ("RunSnapshot", "WorkerSnapshot", "GpuSnapshot", "GpuDevice", "GpuSample")


def test_no_metric_is_named_by_hand() -> None:
    """Each name comes from the catalogue, so that one that changes there changes here."""
    texts = [n.value for n in ast.walk(SCRAPE) if isinstance(n, ast.Constant)]
    named = [t for t in texts if isinstance(t, str) and t.startswith("virnucpro_")]
    assert named == []
    asked = [n for n in ast.walk(SCRAPE) if isinstance(n, ast.Call) and _is_question(n)]
    assert len(asked) > 20
    assert not [n.lineno for n in asked if isinstance(n.args[0], ast.Constant)]


def _is_question(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    return name in {"get", "all", "count", "whole"} and bool(call.args)


def test_only_what_a_view_reads_is_rebuilt() -> None:
    """A field that no view of `watch` reads is not worth a question to the scrape."""
    readers = [*(ROOT / "terminal" / f"{name}.py" for name in VIEWS), ROOT / "remote" / "client.py"]
    readers += [*(ROOT / "snapshot").glob("*.py"), *(ROOT / "overview").glob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in readers]
    read = {n.attr for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    made = [n for n in ast.walk(SCRAPE) if isinstance(n, ast.Call)]
    rebuilt = {
        keyword.arg
        for call in made
        if isinstance(call.func, ast.Name) and call.func.id in SNAPSHOTS
        for keyword in call.keywords
    }
    assert rebuilt
    assert rebuilt <= read


def scraped(run: RunSnapshot, now: float = builders.NOW) -> RunSnapshot:
    """What `watch` makes of the metrics of a run."""
    families = RunCollector(Latest(run)).collect()
    samples = Samples((s.name, s.labels, s.value) for family in families for s in family.samples)
    return run_snapshot(samples, None, now)


def test_a_run_that_serve_remembers_took_until_its_end() -> None:
    """Whatever it told last, it is over: it has no estimate, and its time stands still."""
    end = RunEnd(builders.NOW, RunResult.VANISHED)
    run = replace(builders.running(), end=end)
    seen = scraped(run, builders.NOW + 3600.0)
    assert (seen.state, seen.eta_seconds, seen.elapsed_seconds) == (RunState.FAILED, None, 60.0)
    left = run.files_queued + run.files_processing
    assert seen.state_label == f"killed with {left} left"


def test_parts_are_seen_from_afar() -> None:
    """`watch` tells who does which range, and how many parts there are, as the run itself does."""
    run = builders.shared(3)
    seen = scraped(run)
    assert [w.current_part for w in seen.workers] == [w.current_part for w in run.workers]
    assert [w.current_ratio for w in seen.workers] == [w.current_ratio for w in run.workers]
    assert [w.parts_completed for w in seen.workers] == [w.parts_completed for w in run.workers]
    assert (seen.parts_completed, seen.parts_total) == (run.parts_completed, run.parts_total)
    assert scraped(builders.running(2)).workers[0].current_part is None
