"""What a person reads in the tables and large numbers of the dashboards, through Grafana's code.

The scene: a machine whose run has a GPU that is lost and one that has stalled, seen by the run and
by `serve`; a run that has ended; and a machine whose sampler knows nothing of its GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.builders import NOW, check_golden
from tests.monitoring.backfill import Line, remembering, scraped
from tests.monitoring.dashboards import DASHBOARDS, as_sent, targets
from tests.monitoring.programs import Prometheus
from tests.monitoring.rendered import IS_THERE, question, read, readable
from virnucpro_exporter.metrics import build_registry
from virnucpro_exporter.snapshot import (
    CollectorHealth,
    GpuSnapshot,
    Latest,
    RunEnd,
    RunResult,
    RunSnapshot,
)

pytestmark = [
    pytest.mark.xdist_group("rendered"),
    pytest.mark.skipif(not IS_THERE, reason="needs Node.js and `npm ci` in tests/grafana"),
]

GOLDEN = Path(__file__).parents[1] / "golden"
SCRAPES = 9  # 15 seconds apart
BRIEFLY_SEEN = (NOW - 420.0, NOW - 405.0)  # when the end of a run was there to be seen
UIDS = [path.stem for path in DASHBOARDS]
ALL = {"instance": ".*", "run": ".*", "gpu": ".*"}
VARIABLES = {"scene": {**ALL, "job": "virnucpro.*"}, "nothing": {**ALL, "job": "none"}}
Answers = dict[tuple[str, str], list[tuple[dict[str, Any], list[str]]]]


def troubled(now: float) -> RunSnapshot:
    """GPU 0 has stalled in a file, GPU 3 is lost; the others have been busy since the start."""
    run = builders.stalled(4, now)
    lost = builders.lost_worker(4, now).workers[-1]
    workers = (*run.workers[:-1], lost)
    busy = [replace(w, busy_seconds=w.busy_seconds + now - NOW) for w in workers]
    return replace(run, workers=tuple(busy), start_timestamp=NOW - 600.0, files_failed=1)


def one_lost(now: float) -> GpuSnapshot:
    """GPU 3 does not answer."""
    gpus = builders.gpus_up(4, now)
    return replace(gpus, devices=(*gpus.devices[:-1], replace(gpus.devices[-1], up=False)))


def unknown(now: float) -> GpuSnapshot:
    """Eight GPUs, of which the sampler has heard nothing for five minutes."""
    gpus = builders.gpus_up(8, now)
    devices = tuple(replace(d, up=False, uuid=f"{d.uuid}-c", sample=None) for d in gpus.devices)
    health = CollectorHealth(
        success=False, duration_seconds=0.004, last_success_timestamp=NOW - 300.0
    )
    return replace(gpus, devices=devices, health=health)


def ended(now: float) -> RunSnapshot:
    """It was interrupted a minute ago."""
    end = RunEnd(NOW - 60.0, RunResult.INTERRUPTED, 130, "")
    run = replace(builders.finished(2, now), run_id="20231114-200000-1a2b", name="gut")
    return replace(run, start_timestamp=NOW - 7260.0, end=end)


def brief(now: float) -> RunSnapshot:
    """It has succeeded, and its exporter waits for a last scrape."""
    end = RunEnd(BRIEFLY_SEEN[0] - 5.0, RunResult.COMPLETED, 0, "")
    run = replace(builders.finished(2, now), run_id="20231114-221000-9f8e", files_failed=0)
    return replace(run, start_timestamp=NOW - 4000.0, end=end)


def scene() -> Iterator[Line]:
    """What five targets had to say."""
    for at in BRIEFLY_SEEN:
        target = {"job": "virnucpro", "instance": "gpu-4:9877"}
        yield from scraped(build_registry(Latest(brief(at)), process=False), target, at)
    for number in range(SCRAPES):
        at = NOW - 15.0 * (SCRAPES - 1 - number)
        run, gpus = Latest(troubled(at)), Latest(one_lost(at))
        past, blind = Latest((ended(at),)), Latest(unknown(at))
        here = {"job": "virnucpro", "instance": "gpu-1:9877"}
        yield from scraped(build_registry(run, gpus, process=False), here, at)
        node = {"job": "virnucpro-node", "instance": "gpu-1:9878"}
        yield from scraped(build_registry(None, gpus, process=False, runs=past), node, at)
        other = {"job": "virnucpro-node", "instance": "gpu-2:9878"}
        yield from scraped(build_registry(None, blind, process=False), other, at)
        yield "up", {"job": "virnucpro-node", "instance": "gpu-3:9878"}, 0.0, at
        alert = {"alertname": "VirnucproGpuStalled", "severity": "critical", "gpu": "0"}
        yield "ALERTS", {**alert, **here, "alertstate": "firing"}, 1.0, at
        alert = {"alertname": "VirnucproExporterDown", "severity": "warning"}
        gone = {"job": "virnucpro-node", "instance": "gpu-3:9878"}
        yield "ALERTS", {**alert, **gone, "alertstate": "firing"}, 1.0, at


def of_any_version(line: Line) -> Line:
    """The same, with other words for the versions that the tests run with."""
    name, labels, value, at = line
    versions = {"version": "1.2.3", "python_version": "3.12.1", "nvitop_version": "1.6.0"}
    return name, (labels | versions if name == "virnucpro_build_info" else labels), value, at


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Remembers the scene."""
    folder = tmp_path_factory.mktemp("rendered") / "prometheus"
    with remembering(folder, map(of_any_version, scene())) as started:
        yield started


@pytest.fixture(scope="module")
def answers(prometheus: Prometheus) -> Answers:
    """What is read in each panel of each dashboard: of the scene, and where no target is chosen."""
    asked = [(uid, name, panel) for uid in UIDS for name in VARIABLES for panel in readable(uid)]
    questions = [question(prometheus, panel, VARIABLES[name], at=NOW) for _, name, panel in asked]
    read_there: Answers = {}
    for (uid, name, panel), lines in zip(asked, read(questions), strict=True):
        read_there.setdefault((uid, name), []).append((panel, lines))
    return read_there


@pytest.mark.parametrize("uid", UIDS)
def test_a_person_reads_what_is_true(answers: Answers, uid: str) -> None:
    """Each cell of each table and each large number, with its colour, is that of the golden."""
    text = "\n".join(
        "\n".join([f"# {panel['title']}", *lines, ""]) for panel, lines in answers[uid, "scene"]
    )
    check_golden(GOLDEN / f"{uid}.txt", text)


@pytest.mark.parametrize("uid", UIDS)
def test_nothing_false_is_read_without_data(answers: Answers, uid: str) -> None:
    """Where no target is chosen no panel shows a number."""
    for panel, lines in answers[uid, "nothing"]:
        assert lines == [panel["fieldConfig"]["defaults"]["noValue"]], panel["title"]


@pytest.mark.parametrize("uid", UIDS)
def test_the_mark_of_an_end_survives_steps_of_15_minutes(prometheus: Prometheus, uid: str) -> None:
    """An end that was seen for 15 seconds is marked at its moment where points are far apart."""
    (mark,) = [t for t in targets() if t.dashboard == uid and t.panel == "Run ended"]
    expr = as_sent(mark, VARIABLES["scene"], 900.0 * 1000)
    times = {"start": str(NOW - 1800.0), "end": str(NOW), "step": "900"}
    found = prometheus.get("query_range", query=expr, **times)["result"]
    marked = {
        (series["metric"]["instance"], series["metric"]["result"], float(value))
        for series in found
        for _, value in series["values"]
    }
    assert ("gpu-4:9877", "completed", 1000.0 * (BRIEFLY_SEEN[0] - 5.0)) in marked
    assert ("gpu-1:9878", "interrupted", 1000.0 * (NOW - 60.0)) in marked
