"""What every source of GPU values must do, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

from tests.nvidia_smi_stub import FIELDS, FakeNvidiaSmi
from tests.nvml_stub.stub import NvmlStub
from virnucpro_exporter.gpu import state
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.nvidia_smi import NvidiaSmiSource
from virnucpro_exporter.gpu.nvml import NvmlSource
from virnucpro_exporter.gpu.simulated import Activity, SimulatedSource
from virnucpro_exporter.gpu.sources import CORE, SLOW, GpuSource, Reading, query_of
from virnucpro_exporter.snapshot import GpuDevice


class World(Protocol):
    """Three GPUs that a test can break."""

    source: GpuSource

    def lose(self, gpu: int) -> None:
        """From now on this GPU is lost."""

    def heal(self, gpu: int) -> None:
        """From now on it is not."""


class Nvml:
    """The real nvitop on the stand-in for the library."""

    def __init__(self, stub: NvmlStub) -> None:
        self.source: GpuSource = NvmlSource()
        self._stub = stub
        stub.set(count=3)

    def lose(self, gpu: int) -> None:
        self._stub.set(**{f"g{gpu}_lost": 15})

    def heal(self, gpu: int) -> None:
        self._stub.set(**{f"g{gpu}_lost": None})


class NvidiaSmi:
    """The stand-in for the program."""

    def __init__(self, folder: Path) -> None:
        self._smi = FakeNvidiaSmi(folder, count=3)
        self._healthy = list(self._smi.gpus)
        self.source: GpuSource = NvidiaSmiSource(str(self._smi.program), timeout=60.0, max_age=0.0)

    def lose(self, gpu: int) -> None:
        self._smi.gpus[gpu] = dict.fromkeys(FIELDS, "[GPU is lost]")
        self._smi.say()

    def heal(self, gpu: int) -> None:
        self._smi.gpus[gpu] = self._healthy[gpu]
        self._smi.say()


class Simulated:
    """Virtual GPUs."""

    def __init__(self) -> None:
        self._lost: set[str] = set()
        names = ["NVIDIA GeForce RTX 3090"] * 3
        self.source: GpuSource = SimulatedSource(
            names,
            lambda gpu: Activity(compute=0.5, power=0.5, memory=0.5, is_lost=gpu in self._lost),
        )

    def lose(self, gpu: int) -> None:
        self._lost.add(str(gpu))

    def heal(self, gpu: int) -> None:
        self._lost.remove(str(gpu))


@pytest.fixture(params=["nvml", "nvidia-smi", "simulated"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    worlds: dict[str, Callable[[], World]] = {
        "nvml": lambda: Nvml(request.getfixturevalue("nvml_here")),
        "nvidia-smi": lambda: NvidiaSmi(tmp_path),
        "simulated": Simulated,
    }
    made = worlds[request.param]()
    yield made
    made.source.close()


def look(source: GpuSource, uuid: str) -> GpuDevice:
    """What is shown of a GPU after one look at it."""
    found = next(f for f in source.open() if f.uuid == uuid)
    held = state.identified(state.GpuState(found), found)
    return state.device("0", state.absorb(held, source.read(uuid, CORE), 0.0, 0.0), 0.0, 1.0)


def test_it_lists_gpus_by_index_and_uuid(world: World) -> None:
    """Every GPU has its index, a uuid of its own, a name and a bus id."""
    found = world.source.open()
    assert [f.gpu for f in found] == ["0", "1", "2"]
    assert len({f.uuid for f in found}) == 3
    assert all(f.name.startswith("NVIDIA") and f.pci_bus_id and not f.code for f in found)


def test_it_lists_the_same_gpus_again(world: World) -> None:
    """Opening anew, and after a close, changes no identity."""
    first = world.source.open()
    assert world.source.open() == first
    world.source.close()
    world.source.close()
    assert world.source.open() == first


def test_values_are_in_base_units(world: World) -> None:
    """Ratios, bytes, degrees and watts, in the types of a sample."""
    uuid = world.source.open()[0].uuid
    values = world.source.read(uuid, CORE).values
    assert 0.01 < values["utilization_ratio"] <= 1.0
    assert isinstance(values["memory_used_bytes"], int)
    assert 2**30 < values["memory_used_bytes"] < values["memory_size_bytes"] < 2**40
    assert 10.0 < values["temperature_celsius"] < 100.0
    assert 20.0 < values["power_watts"] < 1000.0


def test_every_question_has_an_answer_or_a_reason(world: World) -> None:
    """What is asked is a value or a fault, never both or neither, and nothing else is told."""
    uuid = world.source.open()[0].uuid
    for queries in (CORE, SLOW, CORE + SLOW, CORE[:1], SLOW[-1:], ()):
        reading = world.source.read(uuid, queries)
        answered = {query_of(name) for name in reading.values}
        assert answered | set(reading.faults) == set(queries)
        assert not answered & set(reading.faults)


def test_values_that_a_gpu_gives_survive_the_checks(world: World) -> None:
    """What a healthy GPU says is shown whole."""
    device = look(world.source, world.source.open()[0].uuid)
    assert device.up
    assert device.reasons == ()


def test_a_uuid_that_nobody_has(world: World) -> None:
    """It answers a fault for every question, and raises nothing."""
    world.source.open()
    reading = world.source.read("GPU-nobody", CORE)
    assert reading.values == {}
    assert set(reading.faults) == set(CORE)


def test_a_lost_gpu_has_no_values_and_costs_the_others_nothing(world: World) -> None:
    """It is down while it is lost, and back afterwards."""
    uuids = [f.uuid for f in world.source.open()]
    world.lose(1)
    held = state.GpuState(world.source.open()[0])
    lost = state.absorb(held, world.source.read(uuids[1], CORE), 0.0, 0.0)
    shown = state.device("1", lost, 0.0, 1.0)
    assert not shown.up
    assert shown.sample is None
    assert lost.wants_reopen
    assert look(world.source, uuids[0]).up
    assert look(world.source, uuids[2]).up
    world.heal(1)
    assert look(world.source, uuids[1]).up


def test_many_threads_may_read(world: World) -> None:
    """All of them at once, each GPU from more than one."""
    uuids = [f.uuid for f in world.source.open()]

    def read(number: int) -> Reading:
        return world.source.read(uuids[number % 3], CORE)

    with ThreadPoolExecutor(6) as pool:
        readings = list(pool.map(read, range(12)))
    assert all(set(reading.values) >= set(CORE) for reading in readings)


def test_through_the_monitor(world: World) -> None:
    """The four values of each of the GPUs arrive, and the source is named."""
    with GPUMonitor(20.0, world.source) as monitor:
        monitor.wait(60)
        for gpu in range(3):
            values = monitor.get_gpu_utilization(gpu)
            assert all(value is not None for value in values.values())
        assert monitor.latest().backend == world.source.backend
