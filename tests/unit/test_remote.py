"""What `watch` rebuilds from a scrape: what its dashboard shows, by the names of the catalogue."""

from __future__ import annotations

import ast

from tests.contracts import ROOT

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
