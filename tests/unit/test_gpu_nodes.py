"""The GPUs of many nodes, whose clocks do not agree."""

from __future__ import annotations

from virnucpro_exporter.cluster.looks import pack
from virnucpro_exporter.cluster.nodes import MAX_AGE, NodeGpus
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot, Node

NOW = 1_000_000.0


class Watch:
    """Node GPUs on a clock that the test moves."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.gpus = NodeGpus(lambda: 50.0 + self.passed, lambda: NOW + self.passed)

    def hear(self, worker: str, ahead: float, age: float = 1.0, *ids: str) -> None:
        node = worker.partition("/")[0]
        there = NOW + self.passed + ahead
        sample = GpuSample(there - age, utilization_ratio=0.5, foreign_processes=2)
        devices = tuple(GpuDevice(i, uuid=f"GPU-{node}{i}", up=True, sample=sample) for i in ids)
        self.gpus.take(node, worker, pack(there, GpuSnapshot(there - age, "nvitop", devices)))


def test_ages_do_not_depend_on_the_clocks_of_nodes() -> None:
    """A value is as old as its node says, whether its clock is ahead or behind."""
    watch = Watch()
    watch.hear("a", 7200.0, 1.5, "0")
    watch.hear("b", -7200.0, 1.5, "0", "1")
    snapshot = watch.gpus.latest()
    found = [(device.node, device.gpu) for device in snapshot.devices]
    assert found == [("a", "a/0"), ("b", "b/0"), ("b", "b/1")]
    assert {d.sample.timestamp for d in snapshot.devices if d.sample} == {NOW - 1.5}
    assert {d.sample.foreign_processes for d in snapshot.devices if d.sample} == {None}
    assert (snapshot.backend, snapshot.health.success) == ("nvitop", True)
    assert snapshot.health.last_success_timestamp == NOW


def test_a_node_that_is_silent_is_down_and_told() -> None:
    """Its GPUs have no values any more; the others keep theirs."""
    watch = Watch()
    watch.hear("a", 0.0, 1.0, "0")
    watch.passed = MAX_AGE - 1.0
    watch.hear("b", 0.0, 1.0, "0")
    assert watch.gpus.latest() is watch.gpus.latest()
    watch.passed = MAX_AGE
    snapshot = watch.gpus.latest()
    assert [(d.gpu, d.up, d.sample is None) for d in snapshot.devices] == [
        ("a/0", False, True),
        ("b/0", True, False),
    ]
    assert dict(snapshot.devices[0].reasons)[""] == "node a does not answer"
    assert not snapshot.health.success
    assert snapshot.health.reason == "nodes that do not answer: a"


def test_a_worker_that_is_silent_is_no_loss_where_another_sees_its_gpus() -> None:
    """Only a GPU of which nobody tells any more is down."""
    watch = Watch()
    watch.hear("a/0", 0.0, 1.0, "0", "1")
    watch.hear("a/1", 0.0, 1.0, "2")
    watch.passed = MAX_AGE
    watch.hear("a/2", 0.0, 1.0, "0", "1")
    watch.hear("a/1", 0.0, 1.0, "2")
    assert {device.up for device in watch.gpus.latest().devices} == {True}
    assert watch.gpus.latest().health.success
    watch.passed += MAX_AGE
    watch.hear("a/2", 0.0, 1.0, "0", "1")
    snapshot = watch.gpus.latest()
    assert [device.up for device in snapshot.devices] == [True, True, False]
    assert snapshot.health.reason == "nodes that do not answer: a"


def test_a_node_that_has_left_is_no_failure_of_the_watch() -> None:
    """Its GPUs are down; when it returns, they are up again."""
    watch = Watch()
    watch.hear("a", 0.0, 1.0, "0")
    watch.gpus.leave("a", in_order=False)
    snapshot = watch.gpus.latest()
    assert [device.up for device in snapshot.devices] == [False]
    assert snapshot.health.success
    watch.hear("a", 0.0, 1.0, "0")
    assert [device.up for device in watch.gpus.latest().devices] == [True]


def test_the_gpus_of_a_node_that_leaves_in_order_are_no_longer_those_of_the_run() -> None:
    """Nothing is down, so that nothing is paged for."""
    watch = Watch()
    watch.hear("a", 0.0, 1.0, "0")
    watch.hear("b", 0.0, 1.0, "0")
    watch.gpus.leave("a", in_order=True)
    snapshot = watch.gpus.latest()
    assert [(device.gpu, device.up) for device in snapshot.devices] == [("b/0", True)]
    assert snapshot.health.success


def test_every_worker_adds_the_gpus_that_it_sees() -> None:
    """Each GPU is there once, in the order of the numbers, as long as any worker sees it."""
    watch = Watch()
    watch.hear("a/10", 0.0, 1.0, "10")
    watch.hear("a/2", 0.0, 1.0, "2", "10")
    watch.hear("a/3", 0.0, 1.0, "3")

    def up() -> list[tuple[str, bool]]:
        return [(device.gpu, device.up) for device in watch.gpus.latest().devices]

    assert up() == [("a/2", True), ("a/3", True), ("a/10", True)]
    watch.gpus.leave("a/10", in_order=False)
    assert up() == [("a/2", True), ("a/3", True), ("a/10", True)]
    watch.gpus.leave("a/2", in_order=False)
    assert up() == [("a/2", False), ("a/3", True), ("a/10", False)]
    assert watch.gpus.latest().health.success


def test_values_of_a_gpu_that_two_see_are_those_of_one() -> None:
    """Errors are counted by each for itself; a count that alternates would look like a restart."""
    watch = Watch()
    for _ in range(2):
        for worker, age in (("a/0", 1.0), ("a/1", 2.0)):
            watch.hear(worker, 0.0, age, "0", "1")
            first, _ = watch.gpus.latest().devices
            assert first.sample is not None
            assert first.sample.timestamp == NOW - 1.0


def test_nodes_stay_known_when_they_leave() -> None:
    """Each is there once, where it was last; also after the run."""
    gpus = NodeGpus()
    for node, host in (("b", "10.0.0.2"), ("a", "10.0.0.1"), ("b", "fd00::2")):
        gpus.join(node, host)
    gpus.leave("a", in_order=False)
    gpus.close()
    assert gpus.nodes.latest() == (Node("a", "10.0.0.1"), Node("b", "fd00::2"))


def test_nothing_is_known_of_gpus_after_the_run() -> None:
    """Those that nobody watches are absent; they are not down."""
    watch = Watch()
    watch.hear("a", 0.0, 1.0, "0")
    watch.gpus.close()
    assert watch.gpus.latest().devices == ()
    assert watch.gpus.latest().health.success is None
