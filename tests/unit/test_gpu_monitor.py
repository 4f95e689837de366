"""The GPU monitor on a source that is scripted, in virtual time."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.gpu_sources import FAST, SLOWEST, ScriptedSource, Watch
from virnucpro_exporter.gpu import monitor as monitor_module
from virnucpro_exporter.gpu.monitor import GPUMonitor, get_gpu_utilization
from virnucpro_exporter.gpu.sampler import REOPEN_AFTER
from virnucpro_exporter.gpu.sources import CORE, HEALTH, LINKS, SLOW, SourceError

NOTHING = {
    "compute_percent": None,
    "memory_percent": None,
    "temperature": None,
    "power_watts": None,
}


def test_an_unexpected_error_costs_only_its_gpu(watch_virtually: Watch, caplog: Any) -> None:
    """The GPU is down with the reason, counted and logged once, and up again when it is over."""
    source = ScriptedSource("a", "b")
    watched = watch_virtually(source)
    watched.until(lambda: watched.is_up(0, 1))
    source.wrong["a"] = KeyError("oops")
    watched.until(lambda: "KeyError: 'oops'" in watched.why(0))
    watched.until(lambda: dict(watched.device(0).errors).get("INTERNAL", 0) >= 3)
    assert watched.is_up(1)
    assert watched.board.health.failures >= 3
    logged = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(logged) == 1
    assert logged[0].exc_info
    del source.wrong["a"]
    watched.until(lambda: watched.is_up(0))


def test_an_unexpected_error_of_the_supervisor(watch_virtually: Watch) -> None:
    """It is shown as the reason, and the supervisor goes on."""
    source = ScriptedSource("a")
    source.opening = RuntimeError("oops")
    watched = watch_virtually(source)
    watched.until(lambda: "RuntimeError: oops" in watched.board.health.reason)
    assert watched.board.health.success is False
    source.opening = None
    watched.until(lambda: watched.is_up(0))
    assert watched.board.health.reason == ""


def test_a_healed_gpu_is_seen_within_half_a_minute(watch_virtually: Watch) -> None:
    """However long it was lost, and only what NVML said is counted meanwhile."""
    source = ScriptedSource("a", "b")
    watched = watch_virtually(source, reopen_after=REOPEN_AFTER)
    watched.until(lambda: watched.is_up(0, 1))
    source.uuids.remove("b")
    source.wrong["b"] = 15
    watched.until(lambda: not watched.is_up(1))
    opened = source.opened
    watched.until(lambda: source.opened > opened + 10)
    source.uuids.append("b")
    del source.wrong["b"]
    watched.until(lambda: watched.is_up(0, 1), seconds=30.0)
    assert set(dict(watched.device(1).errors)) == {"GPU_IS_LOST"}


def test_ids_stay_when_a_gpu_falls_off_the_bus(watch_virtually: Watch) -> None:
    """The one that is gone is down, the others keep their ids although their indices moved."""
    source = ScriptedSource("a", "b", "c")
    watched = watch_virtually(source)
    watched.until(lambda: watched.is_up(0, 1, 2))
    source.uuids.remove("a")
    watched.until(lambda: "no longer lists" in watched.why(0))
    watched.until(lambda: watched.is_up(1, 2))
    assert [watched.device(i).uuid for i in range(3)] == ["a", "b", "c"]
    source.uuids.append("a")
    watched.until(lambda: watched.is_up(0, 1, 2))


def test_the_fallback_and_back(watch_virtually: Watch) -> None:
    """While the first source cannot be used the second one is, and the first as soon as it can."""
    first, second = ScriptedSource("a", backend="first"), ScriptedSource("a", backend="second")
    first.opening = SourceError("no library")
    watched = watch_virtually(first, second)
    watched.until(lambda: watched.is_up(0))
    assert watched.board.backend == "second"
    first.opening = None
    watched.until(lambda: watched.board.backend == "first" and watched.is_up(0))
    assert second.opened < 0  # closed
    assert [d.gpu for d in watched.board.snapshot().devices] == ["0"]


def test_no_source_at_all_and_then_one(watch_virtually: Watch, caplog: Any) -> None:
    """The first source's reason is shown and said once; whatever appears later is found."""
    first, second = ScriptedSource("a"), ScriptedSource("a")
    first.opening, second.opening = SourceError("no driver"), SourceError("no program")
    with caplog.at_level(logging.INFO):
        watched = watch_virtually(first, second)
        watched.until(watched.board.first.is_set)
        watched.until(lambda: first.opened > 3)
        snapshot = watched.board.snapshot()
        assert (snapshot.backend, snapshot.health.reason) == ("none", "no driver")
        assert snapshot.health.success is False
        assert [r.message for r in caplog.records] == ["no GPU values: no driver"]
        first.opening = None
        watched.until(lambda: watched.is_up(0))
        assert caplog.records[-1].message == "watching 1 GPU through scripted"


def test_a_driver_that_goes_away(watch_virtually: Watch) -> None:
    """Values that nobody can confirm any more are dropped at once, with the reason."""
    source = ScriptedSource("a")
    watched = watch_virtually(source)
    watched.until(lambda: watched.is_up(0))
    source.wrong["a"], source.opening = 1, SourceError("the driver is not loaded")
    watched.until(lambda: watched.why(0) == "the driver is not loaded")
    assert watched.board.backend == "none"


def test_a_source_that_fails_as_a_whole(watch_virtually: Watch) -> None:
    """Its reason is that of every GPU."""
    source = ScriptedSource("a", "b")
    watched = watch_virtually(source, reopen_after=SLOWEST)
    watched.until(lambda: watched.is_up(0, 1))
    source.wrong = dict.fromkeys("ab", SourceError("nvidia-smi failed (15): GPU is lost"))
    watched.until(lambda: "(15)" in watched.why(0) and "(15)" in watched.why(1))
    source.wrong.clear()
    watched.until(lambda: watched.is_up(0, 1))


def test_gpus_that_go_down_and_come_back_are_logged_once(
    watch_virtually: Watch, caplog: Any
) -> None:
    """An operator reads when and why."""
    source = ScriptedSource("a", "b")
    with caplog.at_level(logging.INFO):
        watched = watch_virtually(source, reopen_after=SLOWEST)
        watched.until(lambda: watched.is_up(0, 1))
        source.wrong["b"] = 999
        watched.until(lambda: "down" in caplog.text)
        watched.until(lambda: dict(watched.device(1).errors)["UNKNOWN"] > 20)
        del source.wrong["b"]
        watched.until(lambda: "up again" in caplog.text)
    messages = [r.message for r in caplog.records]
    assert messages == [
        "watching 2 GPUs through scripted",
        "GPU 1 is down: UNKNOWN",
        "GPU 1 is up again",
    ]


def test_slow_values_are_asked_apart_and_every_other_time(watch_virtually: Watch) -> None:
    """The four usual values never wait for the slow ones, which are asked every other second.

    Those of the health are asked every tenth, so that calls that take long are few.
    """
    source = ScriptedSource("a")
    watched = watch_virtually(source, extra=LINKS)
    watched.until(lambda: len(source.reads) > 19)
    between = [*(4 * [CORE, CORE, SLOW]), CORE]
    asked = [queries for _, queries in source.reads[:19]]
    # The links are left alone for a while after the answer that there are none.
    assert asked == [CORE, SLOW, (*HEALTH, *LINKS), *between, CORE, SLOW, HEALTH]


def test_xid_errors_are_counted_by_code_and_kept(watch_virtually: Watch) -> None:
    """With the moment of the last, also while the GPU itself is lost."""
    source = ScriptedSource("a", "b")
    watched = watch_virtually(source)
    watched.until(lambda: watched.is_up(0, 1))
    source.came["b"] = (13, 79)
    source.wrong["b"] = 15
    watched.until(lambda: watched.device(1).xids and not watched.device(1).up)
    first = watched.device(1).xids[1]
    source.came["b"] = (79,)
    watched.until(lambda: len(watched.device(1).xids) == 2 and watched.device(1).xids[1].count == 2)
    assert [(seen.xid, seen.count) for seen in watched.device(1).xids] == [(13, 1), (79, 2)]
    assert watched.device(1).xids[1].last_timestamp > first.last_timestamp > 1e9
    assert watched.device(0).xids == ()


def test_the_snapshot_is_the_same_object_until_something_changes(watch_virtually: Watch) -> None:
    """Whoever renders it can tell that nothing is new."""
    source = ScriptedSource("a")
    watched = watch_virtually(source)
    watched.until(lambda: watched.is_up(0))
    watched.sampler.stop()
    board = watched.board
    assert board.snapshot() is board.snapshot()
    board.max_age = -1.0
    board._made = None
    assert not board.snapshot().devices[0].up


def test_the_four_values() -> None:
    """Percent, degrees and watts of a GPU, by its id or uuid; None for one that is not there."""
    with GPUMonitor(SLOWEST, ScriptedSource("a", "b")) as monitor:
        monitor.wait(60)
        expected = {
            "compute_percent": 37.0,
            "memory_percent": 25.0,
            "temperature": 61.0,
            "power_watts": 312.0,
        }
        assert monitor.get_gpu_utilization(1) == pytest.approx(expected)
        assert monitor.get_gpu_utilization("a") == pytest.approx(expected)
        assert monitor.get_gpu_utilization(7) == NOTHING


def test_a_gpu_that_hangs_delays_a_caller_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time for the first sample is over, nobody waits for it again."""
    monkeypatch.setattr(monitor_module, "FIRST_SAMPLE_TIMEOUT", 0.1)
    source = ScriptedSource("stuck")
    source.stuck.clear()
    with GPUMonitor(SLOWEST, source) as monitor:
        assert monitor.get_gpu_utilization(0) == NOTHING
        waits: list[float] = []
        monkeypatch.setattr(monitor._sampler.board.first, "wait", waits.append)
        assert monitor.get_gpu_utilization(0) == NOTHING
        assert waits == [0.0]
        source.stuck.set()


def test_first_use_from_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is opened once, by one monitor."""
    source = ScriptedSource("a")
    monkeypatch.setattr(monitor_module, "FIRST_SAMPLE_TIMEOUT", 60.0)
    monkeypatch.setattr(monitor_module, "GPUMonitor", lambda: GPUMonitor(SLOWEST, source))
    monkeypatch.setattr(monitor_module, "_shared", {})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(get_gpu_utilization, [0] * 64))
    assert source.opened == 1
    assert {answer["temperature"] for answer in answers} == {61.0}
    assert list(monitor_module._shared) == [os.getpid()]
    monitor_module._shared[os.getpid()].stop()


def test_stopped_stays_stopped() -> None:
    """A monitor that was stopped closes its source and starts no more threads."""
    source = ScriptedSource("a")
    monitor = GPUMonitor(FAST, source)
    monitor.wait(60)
    monitor.stop()
    assert source.opened == -1
    monitor.start()
    assert source.opened == -1


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan")])
def test_an_interval_that_makes_no_sense(interval: float) -> None:
    """It is refused at once."""
    with pytest.raises(ValueError, match="above 0 seconds"):
        GPUMonitor(interval)
