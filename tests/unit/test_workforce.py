"""Who does the work of a run."""

from __future__ import annotations

from dataclasses import replace
from importlib import util
from typing import Any

import pytest

from tests import builders
from virnucpro_exporter.app.cluster_node import choose
from virnucpro_exporter.app.devices import expected_speeds
from virnucpro_exporter.app.run import run
from virnucpro_exporter.cluster.gpu_watch import observers, pause
from virnucpro_exporter.cluster.letters import About, Place
from virnucpro_exporter.cluster.link import Link
from virnucpro_exporter.config import Devices, run_config
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.snapshot import GpuDevice

GPUS = [GpuDevice("0", uuid="GPU-aa", name="A100"), GpuDevice("1", uuid="GPU-bb", name="H100")]


def test_dask_that_is_missing_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without the extra, the options say what to install."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "a.fa").write_text(">a\nACGT\n")
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    named = {"inputs": (str(folder / "a.fa"),), "output": str(folder / "out")}
    config = run_config({**named, "web": False, "dask": "tcp://x:1"})
    with pytest.raises(UsageError, match=r"pip install '\.\[dask\]'"):
        run(config)


@pytest.mark.parametrize(
    ("visible", "gpu"),
    [
        ("1", "1"),
        ("GPU-bb", "1"),
        ("GPU-a", "0"),
        ("1,0", "1"),
        ("GPU-bb,GPU-aa", "1"),
        ("0, 1", "0"),
        ("0,7", "0"),
    ],
)
def test_a_dask_worker_has_the_first_gpu_it_shows(visible: str, gpu: str) -> None:
    """An index, a uuid or its beginning, or a list as dask-cuda rotates it; pinned by the uuid."""
    place = choose(visible, GPUS)
    assert (place.device, place.trouble) == (gpu, "")
    assert (place.name, place.pin) == {"0": ("A100", "GPU-aa"), "1": ("H100", "GPU-bb")}[gpu]


def test_the_only_gpu_need_not_be_named() -> None:
    """Where a node has one GPU, that is it."""
    assert choose(None, GPUS[:1]) == Place("0", "A100", "GPU-aa", shown=("0",))


@pytest.mark.parametrize("visible", [None, "1,1", "2", "2,0", "GPU-"])
def test_a_dask_worker_without_a_gpu_of_its_own_is_not_used(visible: str | None) -> None:
    """Several, or none of those that are there: the reason says what to do."""
    assert "start one worker per GPU" in choose(visible, GPUS).trouble


@pytest.mark.parametrize(
    ("views", "asked"),
    [
        (["012", "012", "012"], [0]),
        (["0", "1", "2"], [0, 1, 2]),
        (["0", "012", "2", "3"], [0, 1, 3]),
        (["", "", "1"], [0, 2]),
        ([], []),
    ],
)
def test_as_few_are_asked_as_see_all_gpus(views: list[str], asked: list[int]) -> None:
    """One worker of a node, or each where each sees another GPU; a node without any is asked."""
    places = (Place(None, "CPU", "", sees=tuple(view)) for view in views)
    links = [Link("tcp://x:1", "n") for _ in views]
    for link, place in zip(links, places, strict=True):
        link.about = About("n", place)
    assert [links.index(link) for link in observers(links)] == asked


@pytest.mark.parametrize(("observers", "seconds"), [(1, 1.0), (64, 1.0), (65, 2.0), (1250, 3.0)])
def test_many_workers_are_asked_less_often(observers: int, seconds: float) -> None:
    """The process of the run has other things to do, too."""
    assert pause(observers) == seconds


def test_an_unknown_model_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many GPUs there are of it, and what the configuration says of it is taken."""
    weigh = expected_speeds(Devices(gpu_weights={"Y2": 1.5}))
    assert [weigh(name) for name in ("Maker X1", "Maker X1", "Maker Y2", "CPU")] == [1, 1, 1.5, 1]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "unknown GPU model 'Maker X1'"
    ]


@pytest.mark.parametrize(
    ("changes", "is_used"),
    [
        ({}, True),
        ({"utilization_ratio": 0.0}, False),
        ({"utilization_ratio": None}, False),
        ({"foreign_processes": 1}, False),
        ({"foreign_processes": None}, False),
    ],
)
def test_a_gpu_is_a_sign_of_life_where_it_computes_for_the_run_alone(
    changes: dict[str, Any], is_used: bool
) -> None:
    """What others do on a GPU, or what nobody knows, says nothing about its worker."""
    gpus = builders.gpus_up(1)
    (device,) = gpus.devices
    assert device.sample is not None
    device = replace(device, sample=replace(device.sample, **changes))
    seen = replace(gpus, devices=(device,))
    assert seen.is_busy_for_run("0") is is_used
    assert not seen.is_busy_for_run("1")
    assert not builders.gpu_lost(1).is_busy_for_run("0")
