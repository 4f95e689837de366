from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Exemplar, Sample

from tests import builders
from virnucpro_exporter.metrics import GpuCollector, HealthCollector, RunCollector, build_registry
from virnucpro_exporter.metrics.catalog import CATALOG, PROCESS_METRICS
from virnucpro_exporter.metrics.exposition import Format, render
from virnucpro_exporter.metrics.health import GpuHealth, RunHealth
from virnucpro_exporter.metrics.reference import reference
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, RunSnapshot

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SCENES: dict[str, tuple[RunSnapshot, GpuSnapshot]] = {
    "no_gpu": (builders.running(), builders.no_gpus()),
    "idle": (builders.idle(), builders.gpus_up()),
    "running": (builders.running(), builders.gpus_up()),
    "stalled": (builders.stalled(), builders.gpus_up()),
    "lost_gpu": (builders.lost_worker(), builders.gpu_lost()),
    "finished": (builders.finished(), builders.gpus_up()),
    "nodes": builders.of_nodes(builders.running(), builders.gpus_up()),
}
FORMATS = {Format.TEXT: "txt", Format.OPENMETRICS: "openmetrics"}
_openmetrics: Callable[[object], bytes] = openmetrics.generate_latest
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def families(run: RunSnapshot, gpus: GpuSnapshot) -> list[Family]:
    """Everything that follows from the two snapshots alone."""
    health = HealthCollector(
        {"gpu": GpuHealth(Latest(gpus)), "run": RunHealth(Latest(run), lambda: builders.NOW)}
    )
    collectors = (RunCollector(Latest(run)), GpuCollector(Latest(gpus)), health)
    return [family for collector in collectors for family in collector.collect()]


def values(run: RunSnapshot, gpus: GpuSnapshot) -> Values:
    """Every sample by its name and labels, prefix aside."""
    return {
        (s.name.removeprefix("virnucpro_"), tuple(sorted(s.labels.items()))): s.value
        for family in families(run, gpus)
        for s in family.samples
    }


def parsed(page: bytes, form: Format) -> list[Family]:
    """The page as prometheus_client's strict parsers read it."""
    return list((read_openmetrics if form is Format.OPENMETRICS else read_text)(page.decode()))


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("scene", SCENES)
def test_a_scrape_reads_as_agreed(scene: str, form: Format) -> None:
    """Each scene is exposed as its golden file shows; UPDATE_GOLDEN=1 writes them anew."""
    page = render(families(*SCENES[scene]), form)
    golden = GOLDEN / f"scrape_{scene}.{FORMATS[form]}"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_bytes(page)
    assert page == golden.read_bytes()
    assert parsed(page, form)


def test_the_collectors_serve_the_catalogue() -> None:
    """What a scrape can hold is the catalogue and the metrics of the process, nothing else."""
    run, gpus = SCENES["nodes"]
    served = {f.name: f for f in build_registry(Latest(run), Latest(gpus)).collect()}
    for metric in CATALOG:
        family = served.pop(metric.family)
        assert (family.documentation, family.type) == (metric.help, metric.kind)
        assert all(set(metric.labels) == set(s.labels) - {"le"} for s in family.samples)
        for label, allowed in metric.values.items():
            assert {s.labels[label] for s in family.samples} <= set(allowed)
    assert set(served) <= {name.removesuffix("_total") for name in PROCESS_METRICS}


@pytest.mark.parametrize("collector", [RunCollector, GpuCollector])
def test_collectors_tell_their_names_without_a_snapshot(
    collector: type[RunCollector | GpuCollector],
) -> None:
    """A registry can check for clashes before any source is ready."""

    def latest() -> None:
        raise AssertionError("describe() needs no snapshot")

    described = {f.name for f in collector(SimpleNamespace(latest=latest)).describe()}
    served = families(*SCENES["running"])
    assert described
    assert described <= {f.name for f in served}


def test_the_reference_is_current() -> None:
    """docs/metrics.md is what the catalogue generates."""
    assert (ROOT / "docs" / "metrics.md").read_text() == reference()


def test_a_lost_gpu_keeps_its_name_and_loses_its_values() -> None:
    """A GPU that does not answer is down, not idle; its errors are counted."""
    found = values(*SCENES["lost_gpu"])
    of_lost = {name for name, labels in found if ("gpu", "1") in labels and name.startswith("gpu_")}
    errors = {"gpu_errors_total", "gpu_xid_errors_total", "gpu_xid_last_timestamp_seconds"}
    assert of_lost == {"gpu_up", "gpu_info", *errors}
    assert found["gpu_up", (("gpu", "1"),)] == 0
    assert found["worker_up", (("gpu", "1"),)] == 0
    assert ("throughput_sequences_per_second", (("gpu", "1"),)) not in found


def test_what_is_unknown_is_absent() -> None:
    """Before the first progress there is no rate, no estimate and no time of progress."""
    names = {name for name, _ in values(builders.idle(), builders.no_gpus())}
    assert not names & {
        "run_estimated_completion_timestamp_seconds",
        "throughput_sequences_per_second",
        "worker_last_progress_timestamp_seconds",
        "gpu_up",
        "collector_duration_seconds_gpu",
    }


@pytest.mark.parametrize(("gpus", "pairs"), [(1, 0), (2, 2), (16, 240), (17, 17)])
def test_steals_exist_from_the_start(gpus: int, pairs: int) -> None:
    """Up to 16 GPUs every pair of victim and thief is there at 0, beyond that every thief."""
    run = builders.running(gpus)
    counts = [
        v for (name, _), v in values(run, builders.no_gpus()).items() if name == "steals_total"
    ]
    assert len(counts) == pairs
    assert sum(counts) == len(run.steals)


@pytest.mark.parametrize(
    "name",
    [
        'a"b\n\\c.fa',
        os.fsdecode(b"reads_\xff\xfe.fa"),
        os.fsdecode(b"\xff" * 99),
        "Escherichia.fa" * 40,
        "\u03bb.fa",
    ],
)
def test_no_file_name_breaks_the_exposition(name: str) -> None:
    """Quotes, newlines, backslashes, bytes that are no text and endless names can be parsed."""
    histogram = builders.durations(3.0, name=name)
    worker = replace(builders.worker(0), durations=histogram, name=name, gpu="0")
    run = replace(builders.running(1), workers=(worker,), run_id=name, processor=name)
    for form in Format:
        page = render(families(run, builders.gpus_up()), form)
        assert parsed(page, form)
        assert page.count(b"\nvirnucpro_run_info{") == 1


def test_exemplars_name_files_in_openmetrics_alone() -> None:
    """The duration buckets point at the latest file, in the format that has exemplars."""
    found = families(*SCENES["running"])
    assert b'# {file="reads_00.fa"} 8.0 ' in render(found, Format.OPENMETRICS)
    assert b"reads_00.fa" not in render(found, Format.TEXT)


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_NAME = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
_LABELS = st.dictionaries(_NAME, _TEXT, max_size=3)
_EXEMPLARS = st.none() | st.builds(
    Exemplar, st.dictionaries(_NAME, _TEXT, min_size=1, max_size=2), st.floats(), st.floats(0, 2e9)
)


@st.composite
def _families(draw: st.DrawFn) -> list[Family]:
    shared = draw(st.lists(_LABELS, min_size=1, max_size=4))
    made = []
    for name in draw(st.lists(_NAME, max_size=4, unique=True)):
        kind = draw(st.sampled_from(["counter", "gauge", "histogram"]))
        suffix = {"counter": "_total", "gauge": "", "histogram": "_bucket"}[kind]
        family = Family(name, draw(_TEXT), kind)
        exemplars = st.none() if kind == "gauge" else _EXEMPLARS
        family.samples = [
            Sample(
                name + suffix,
                draw(st.sampled_from(shared)),
                draw(st.floats() | st.integers(-(10**9), 10**9)),
                None,
                exemplar,
            )
            for exemplar in draw(st.lists(exemplars, max_size=4))
        ]
        made.append(family)
    return made


@given(_families())
def test_the_renderer_writes_what_prometheus_client_writes(made: list[Family]) -> None:
    """For any families both formats are the same, byte for byte."""
    registry = SimpleNamespace(collect=lambda: made)
    assert render(made, Format.TEXT) == generate_latest(registry)
    assert render(made, Format.OPENMETRICS) == _openmetrics(registry)
