"""What becomes of a GPU's answers: the pure core of the monitor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_exporter.gpu import state
from virnucpro_exporter.gpu.sources import CORE, SLOW, Found, Reading, code_name, query_of
from virnucpro_exporter.snapshot import GpuDevice

FOUND = Found("0", "GPU-a", "NVIDIA H100")
GOOD: dict[str, Any] = {
    "utilization_ratio": 0.37,
    "memory_used_bytes": 20,
    "memory_size_bytes": 80,
    "temperature_celsius": 61.0,
    "power_watts": 312.0,
}
EXTRA: dict[str, Any] = {
    "power_limit_watts": 700.0,
    "energy_joules": 5e3,
    "sm_clock_hertz": 1.98e9,
    "throttle_reasons": frozenset({"sw_power_cap"}),
    "foreign_processes": 2,
}
CODES = {1, 2, 3, 4, 8, 10, 11, 13, 15, 16, 42, 999}


def without(query: str, code: int) -> Reading:
    """All four values but one, whose query answered a code."""
    return Reading({n: v for n, v in GOOD.items() if query_of(n) != query}, {query: code})


def up(now: float = 0.0) -> state.GpuState:
    """A GPU that has answered everything."""
    fresh = state.identified(state.GpuState(FOUND), FOUND)
    return state.absorb(fresh, Reading({**GOOD, **EXTRA}), now, 1000.0 + now)


def show(held: state.GpuState, now: float, max_age: float = 3.0) -> GpuDevice:
    return state.device("0", held, now, max_age)


@pytest.mark.parametrize("query", CORE)
@pytest.mark.parametrize(
    ("code", "name", "counted", "pause"),
    [
        (3, "NOT_SUPPORTED", 0, 600),
        (4, "NO_PERMISSION", 1, 60),
        (13, "FUNCTION_NOT_FOUND", 1, 60),
        (10, "TIMEOUT", 1, 0),
        (999, "UNKNOWN", 1, 0),
        (42, "CODE_42", 1, 0),
    ],
)
def test_a_code_of_one_value(query: str, code: int, name: str, counted: int, pause: float) -> None:
    """The value is absent with its reason, counted, and asked again when its time has come."""
    held = state.absorb(up(), without(query, code), 1.0, 1001.0)
    device = show(held, 1.0)
    assert device.up
    assert device.sample is not None
    assert getattr(device.sample, query) is None
    assert dict(device.reasons) == {query: name}
    assert dict(device.errors).get(name, 0) == counted
    assert (query in state.due(held, CORE, 1.0 + pause - 0.1)) == (pause == 0)
    assert query in state.due(held, CORE, 1.0 + pause)
    healed = state.absorb(held, Reading(GOOD), 2.0, 1002.0)
    assert show(healed, 2.0).reasons == ()


@pytest.mark.parametrize("code", [15, 16, 8, 11, 1, 2])
def test_a_code_of_the_whole_gpu(code: int) -> None:
    """No value stays, also of those read before or along with it; a new initialisation is due."""
    held = state.absorb(up(), without("power_watts", code), 1.0, 1001.0)
    device = show(held, 1.0)
    assert not device.up
    assert device.sample is None
    assert device.reasons == (("", code_name(code)),)
    assert device.errors == ((code_name(code), 1),)
    assert held.wants_reopen


def test_a_lost_gpu_is_probed_more_and_more_rarely() -> None:
    """From 1 s to 30 s, and every second again after it has answered once."""
    held, now, pauses = up(), 0.0, []
    for _ in range(7):
        held = state.absorb(held, without("power_watts", 15), now, now)
        pauses.append(held.probe_at - now)
        assert state.due(held, CORE, held.probe_at - 0.1) == ()
        now = held.probe_at
        assert state.due(held, CORE, now) == CORE
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    healed = state.absorb(held, Reading(GOOD), now, now)
    assert show(healed, now).up
    assert not healed.wants_reopen
    assert state.absorb(healed, without("power_watts", 15), now, now).probe_delay == 1.0


@pytest.mark.parametrize(
    ("codes", "is_up"),
    [
        ((3, 3, 3, 3), True),  # it answers, and has none of them
        ((4, 4, 13, 3), False),  # nothing works
        ((10, 10, 10, 10), False),
        ((3, 3, 3, 999), False),
        ((10, 4, 999, 13), False),
    ],
)
def test_no_core_value_at_all(codes: tuple[int, ...], *, is_up: bool) -> None:
    """A GPU is up without values only if it says that it has none."""
    fresh = state.identified(state.GpuState(FOUND), FOUND)
    held = state.absorb(fresh, Reading(faults=dict(zip(CORE, codes, strict=True))), 1.0, 1.0)
    assert show(held, 1.0).up is is_up


def test_permission_for_slow_values_only() -> None:
    """A GPU that refuses the four values is up as long as another value works."""
    refused = Reading(faults=dict.fromkeys(CORE, 4))
    held = state.absorb(up(), refused, 1.0, 1.0)
    assert show(held, 1.0).up
    alone = state.absorb(state.GpuState(FOUND), refused, 1.0, 1.0)
    alone = state.absorb(alone, Reading(EXTRA), 1.0, 1.0)
    assert show(alone, 1.0).up


def test_a_gpu_that_supports_nothing_is_still_asked() -> None:
    """Otherwise nobody would see that it hangs."""
    held = state.absorb(up(), Reading(faults=dict.fromkeys(CORE, 3)), 1.0, 1.0)
    assert state.due(held, CORE, 2.0) == CORE[:1]


@pytest.mark.parametrize(
    ("wrong", "lost"),
    [
        ({"utilization_ratio": 1.01}, {"utilization_ratio"}),
        ({"temperature_celsius": 151.0}, {"temperature_celsius"}),
        ({"temperature_celsius": -1.0}, {"temperature_celsius"}),
        ({"power_watts": 5001.0}, {"power_watts"}),
        ({"power_watts": 2**32 / 1e3}, {"power_watts"}),  # NVML's "not available"
        ({"memory_used_bytes": 81}, {"memory_used_bytes", "memory_size_bytes"}),
        ({"memory_size_bytes": 0}, {"memory_used_bytes", "memory_size_bytes"}),
        (
            {"memory_used_bytes": 2**64 - 1, "memory_size_bytes": 2**64 - 1},
            {"memory_used_bytes", "memory_size_bytes"},
        ),
    ],
)
def test_implausible_values_are_not_shown(wrong: dict[str, Any], lost: set[str]) -> None:
    """A value out of its range is absent with a reason, and the others stay."""
    device = show(state.absorb(up(), Reading({**GOOD, **wrong}), 1.0, 1.0), 1.0)
    assert device.sample is not None
    assert {name for name in GOOD if getattr(device.sample, name) is None} == lost
    assert "implausible" in dict(device.reasons)[query_of(next(iter(lost)))]


def test_hidden_processes_are_unknown_and_not_none() -> None:
    """Where nobody can tell whose the processes are, their number is absent."""
    device = show(state.absorb(up(), Reading({"foreign_processes": None}), 1.0, 1.0), 1.0)
    assert device.sample is not None
    assert device.sample.foreign_processes is None
    assert "container" in dict(device.reasons)["foreign_processes"]


def test_no_value_is_shown_longer_than_allowed() -> None:
    """Each value has an age of its own, and a GPU that is silent is down."""
    held = state.absorb(up(0.0), Reading(GOOD), 2.5, 1002.5)
    device = show(held, 3.1)
    assert device.sample is not None
    assert device.sample.utilization_ratio == 0.37
    assert device.sample.power_limit_watts is None
    assert dict(device.reasons)["power_limit_watts"] == state.NO_ANSWER
    assert state.changes_at(held, 2.6, 3.0) == 3.0
    assert state.changes_at(held, 3.1, 3.0) == 5.5
    assert show(held, 5.5).up
    assert show(held, 5.6).reasons == (("", state.NO_ANSWER),)


def test_before_the_first_answer() -> None:
    """A GPU that has not answered yet is down, and says so."""
    assert show(state.GpuState(FOUND), 0.0).reasons == (("", state.NO_ANSWER_YET),)


def test_a_query_that_is_no_argument_for_a_slice() -> None:
    """INVALID_ARGUMENT once more after a new handle concerns the query, and not the handle."""
    held = state.absorb(up(), without("power_watts", 2), 1.0, 1.0)
    assert held.wants_reopen
    held = state.identified(held, FOUND)
    held = state.absorb(held, without("power_watts", 2), 2.0, 2.0)
    assert show(held, 2.0).up
    assert not held.wants_reopen
    assert "power_watts" not in state.due(held, CORE, 500.0)
    stale = state.absorb(held, Reading(faults=dict.fromkeys(CORE, 2)), 3.0, 3.0)
    assert stale.wants_reopen


def test_a_stale_handle_twice() -> None:
    """A handle that worked and then went stale again asks for a new one again."""
    stale = Reading(faults=dict.fromkeys(CORE, 2))
    held = state.identified(state.absorb(up(), stale, 1.0, 1.0), FOUND)
    held = state.absorb(held, Reading(GOOD), 2.0, 2.0)
    assert not held.refused
    assert state.absorb(held, without("power_watts", 2), 3.0, 3.0).wants_reopen


def test_gpus_that_cannot_be_identified_or_are_gone() -> None:
    """They are down with a reason, ask for a new initialisation, and are asked nothing else."""
    nameless = state.identified(state.GpuState(FOUND), Found("0", "", code=16))
    assert show(nameless, 0.0).reasons == (("", "RESET_REQUIRED"),)
    assert nameless.wants_reopen
    assert state.due(nameless, CORE, 9e9) == ()
    gone = state.unlisted(up(), "gone")
    assert show(gone, 0.0).reasons == (("", "gone"),)
    assert gone.wants_reopen


def test_a_defect_of_this_program_is_counted() -> None:
    """The GPU is down with that reason, and the error has a name of its own."""
    device = show(state.hurt(up(), "internal error: KeyError"), 0.0)
    assert device.reasons == (("", "internal error: KeyError"),)
    assert device.errors == ((state.DEFECT, 1),)


readings = st.builds(
    lambda values, codes: Reading(
        {n: v for n, v in {**GOOD, **EXTRA}.items() if query_of(n) in values - codes.keys()}, codes
    ),
    st.sets(st.sampled_from(CORE + SLOW)),
    st.dictionaries(st.sampled_from(CORE + SLOW), st.sampled_from(sorted(CODES)), max_size=3),
)
steps = st.lists(
    st.tuples(st.floats(0.0, 5.0), st.one_of(readings, st.sampled_from(["open", "gone", "hurt"])))
)


@given(steps)
def test_any_history(history: list[tuple[float, Any]]) -> None:
    """Whatever a GPU answers: nothing old or disowned is shown, and error counts never fall."""
    held, now, read = state.GpuState(FOUND), 0.0, dict[str, float]()
    for pause, event in history:
        now += pause
        before = held.errors
        if isinstance(event, Reading):
            held = state.absorb(held, event, now, now)
            read.update(dict.fromkeys(event.values, now))
        else:
            happened = {"open": lambda: state.identified(held, FOUND)}  # noqa: B023 - called here
            happened["gone"] = lambda: state.unlisted(held, "gone")  # noqa: B023
            happened["hurt"] = lambda: state.hurt(held, "broken")  # noqa: B023
            held = happened[event]()
        assert all(held.errors[name] >= number for name, number in before.items())
        for later in (0.0, 2.9, 3.1):
            device = show(held, now + later)
            assert device.up == (device.sample is not None)
            assert device.up != ("" in dict(device.reasons))
            for name in (*GOOD, *EXTRA):
                value = getattr(device.sample, name) if device.sample else None
                if value is not None:
                    assert now + later - read[name] <= 3.0
                    assert query_of(name) not in dict(device.reasons)


@pytest.mark.parametrize("code", [3, 4, 13])
def test_what_costs_nothing_to_ask_is_asked_again_at_once(code: int) -> None:
    """A value that one answer of nvidia-smi hides comes back with the next good one."""
    hidden = replace(without("power_watts", code), is_free=True)
    held = state.absorb(up(), hidden, 1.0, 1001.0)
    sample = show(held, 1.0).sample
    assert sample is not None
    assert sample.power_watts is None
    assert "power_watts" in state.due(held, CORE, 1.0)
    back = state.absorb(held, Reading(GOOD, is_free=True), 2.0, 1002.0)
    sample = show(back, 2.0).sample
    assert sample is not None
    assert sample.power_watts == 312.0
