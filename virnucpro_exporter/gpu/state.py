"""The state machine of one GPU: a state and an event in, the next state out.

Nothing here reads a clock, starts a thread or queries a GPU. Times are seconds of a monotonic
clock, so that setting the wall clock makes no value look fresh; only `timestamp` is wall clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from virnucpro_exporter.gpu.sources import (
    CORE,
    INVALID_ARGUMENT,
    RARE,
    UNSUPPORTED,
    Fault,
    Found,
    Reading,
    Verdict,
    classify,
    code_name,
    query_of,
)
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, XidErrors

LONGEST_PROBE = 30.0  # seconds
NO_ANSWER = "no answer for too long"
NO_ANSWER_YET = "no answer yet"
DEFECT = "INTERNAL"  # counted beside NVML's own codes

_RANGES: Mapping[str, tuple[float, float]] = {
    "utilization_ratio": (0, 1),
    "memory_size_bytes": (1, 2**50),
    "temperature_celsius": (0, 150),
    "power_watts": (0, 5000),
    "power_limit_watts": (0, 5000),
    "energy_joules": (0, 1e13),
    "sm_clock_hertz": (0, 1e11),
    "memory_copy_ratio": (0, 1),
    "memory_clock_hertz": (0, 1e11),
    "sm_clock_max_hertz": (0, 1e11),
    "memory_clock_max_hertz": (0, 1e11),
    "memory_temperature_celsius": (0, 150),
    "fan_ratio": (0, 3),
    "performance_state": (0, 15),
}
# Values that are queried rarely may be shown for as much longer.
RARE_TURNS = 10
_MEMORY = ("memory_used_bytes", "memory_size_bytes")


class Missing(NamedTuple):
    """Why a query has no value now."""

    reason: str
    verdict: Verdict
    code: int = 0


_HIDDEN = Missing("processes cannot be identified in this container", Verdict.UNSUPPORTED)


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU.

    Attributes:
        found: Its identity.
        up: Its latest response is valid.
        answered_at: The time of that response.
        timestamp: The same in Unix seconds.
        values: By `GpuSample` field, with the moment of each.
        errors: How often each code was returned, by name.
        missing: The queries whose latest response was no value.
        why: Why it is down; empty while it is up or has not been queried.
        ask_at: The time until which a query is not repeated.
        probe_at: The time until which a lost GPU is not queried.
        probe_delay: How long that was.
        wants_reopen: It may need NVML to be initialised again.
        refused: Queries that an earlier handle called an invalid argument.
        xids: By code, how many XID errors came and in which Unix second the last of them.
    """

    found: Found
    up: bool = False
    answered_at: float = 0.0
    timestamp: float = 0.0
    values: Mapping[str, tuple[float, Any]] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, Missing] = field(default_factory=dict)
    why: str = ""
    ask_at: Mapping[str, float] = field(default_factory=dict)
    probe_at: float = 0.0
    probe_delay: float = 0.0
    wants_reopen: bool = False
    refused: frozenset[str] = frozenset()
    xids: Mapping[int, tuple[int, float]] = field(default_factory=dict)


def identified(state: GpuState, found: Found) -> GpuState:
    """A source was opened and lists this GPU: send all queries at once."""
    if not found.uuid:
        return replace(down(state, code_name(found.code)), found=found, wants_reopen=True)
    refused = frozenset(q for q, m in state.missing.items() if m.code == INVALID_ARGUMENT)
    return replace(
        state,
        found=found,
        missing={},
        ask_at={},
        probe_at=0.0,
        wants_reopen=False,
        refused=state.refused | refused,
    )


def down(state: GpuState, why: str) -> GpuState:
    """Mark the GPU as down, and discard its values."""
    return replace(state, up=False, values={}, missing={}, why=why)


def unlisted(state: GpuState, why: str) -> GpuState:
    """A source was opened anew and does not list this GPU."""
    return replace(down(state, why), wants_reopen=True)


def hurt(state: GpuState, why: str) -> GpuState:
    """Querying the GPU met an error of this program."""
    return replace(down(state, why), errors=_counted(state.errors, DEFECT))


def struck(state: GpuState, xids: Iterable[int], timestamp: float) -> GpuState:
    """The driver reported XID errors of these codes, in Unix seconds `timestamp`."""
    seen = dict(state.xids)
    for xid in xids:
        seen[xid] = (seen.get(xid, (0, 0.0))[0] + 1, timestamp)
    return replace(state, xids=seen)


def due(state: GpuState, queries: tuple[str, ...], now: float) -> tuple[str, ...]:
    """Which of the queries to send at `now`; none while a lost GPU is not queried."""
    if now < state.probe_at or not state.found.uuid:
        return ()
    if not state.ask_at:
        return queries
    asked = tuple(q for q in queries if now >= state.ask_at.get(q, 0.0))
    # A GPU that supports none of them has to show all the same that it is there.
    return asked or (CORE[:1] if state.up and queries == CORE else ())


def absorb(state: GpuState, reading: Reading, now: float, timestamp: float) -> GpuState:
    """Process the GPU's response at `now`, in Unix seconds `timestamp`."""
    values, missing = _sort(state, reading)
    if state.up and not (missing or state.missing or state.refused):
        # Nothing is wrong, as nearly always.
        held = {**state.values, **{name: (now, value) for name, value in values.items()}}
        return GpuState(
            state.found,
            up=True,
            answered_at=now,
            timestamp=timestamp,
            values=held,
            errors=state.errors,
            xids=state.xids,
        )
    state = _note(state, missing, values, now, is_put_off=not reading.is_free)
    fatal = {m.code for m in missing.values() if m.verdict in {Verdict.LOST, Verdict.STALE}}
    if fatal:
        return _lost(state, ", ".join(sorted(map(code_name, fatal))), now)
    held = {name: kept for name, kept in state.values.items() if query_of(name) not in missing}
    held.update((name, (now, value)) for name, value in values.items())
    if not _is_up(held, state.missing):
        why = sorted({m.reason for q, m in state.missing.items() if q in CORE})
        return replace(state, up=False, values={}, why=", ".join(why) or state.why)
    return replace(
        state,
        up=True,
        answered_at=now,
        timestamp=timestamp,
        values=held,
        why="",
        probe_delay=0.0,
        wants_reopen=False,
    )


def _sort(state: GpuState, reading: Reading) -> tuple[dict[str, Any], dict[str, Missing]]:
    """Separate the valid values from the queries that returned none."""
    missing = {}
    for query, code in reading.faults.items():
        missing[query] = Missing(code_name(code), _fault(state, reading, query, code).verdict, code)
    values = dict(reading.values)
    for name in reading.values:
        if name in values and (wrong := _wrong(name, reading.values)):
            for other in _MEMORY if name in _MEMORY else (name,):
                values.pop(other, None)
            missing[query_of(name)] = wrong
    return values, missing


def _wrong(name: str, values: Mapping[str, Any]) -> Missing | None:
    value = values[name]
    if value is None:
        return _HIDDEN
    bounds = _RANGES.get(name)
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        return Missing(f"implausible value {value}", Verdict.RETRY)
    if name == "memory_used_bytes" and not 0 <= value <= values.get("memory_size_bytes", value):
        return Missing(f"implausible value {value}", Verdict.RETRY)
    return None


def _fault(state: GpuState, reading: Reading, query: str, code: int) -> Fault:
    # Some queries are no valid argument for a slice of a GPU, whatever its handle. A handle is
    # stale if nothing else works with it, or if this query worked before. What is asked rarely
    # differs between GPUs and drivers, and is not what shows it: the usual values are.
    others = bool(reading.values) or any(c != INVALID_ARGUMENT for c in reading.faults.values())
    if code == INVALID_ARGUMENT and ((query in state.refused and others) or query in RARE):
        return UNSUPPORTED
    return classify(code)


def _note(
    state: GpuState,
    missing: Mapping[str, Missing],
    values: Mapping[str, Any],
    now: float,
    *,
    is_put_off: bool,
) -> GpuState:
    """Count the errors, and postpone the queries that are not needed for a while."""
    errors, ask_at = state.errors, dict(state.ask_at)
    for query, absence in missing.items():
        fault = UNSUPPORTED if absence.verdict is Verdict.UNSUPPORTED else classify(absence.code)
        ask_at[query] = now + (fault.retry_after if absence.code and is_put_off else 0.0)
        if absence.code and fault.counted:
            errors = _counted(errors, code_name(absence.code))
    answered = {query_of(name) for name in values}
    known = {q: m for q, m in {**state.missing, **missing}.items() if q not in answered}
    return replace(
        state,
        errors=errors,
        missing=known,
        ask_at={q: at for q, at in ask_at.items() if at > now},
        refused=state.refused - answered,
    )


def _lost(state: GpuState, why: str, now: float) -> GpuState:
    delay = min(max(1.0, 2 * state.probe_delay), LONGEST_PROBE)
    return replace(
        state,
        up=False,
        values={},
        why=why,
        probe_at=now + delay,
        probe_delay=delay,
        wants_reopen=True,
    )


def _is_up(values: Mapping[str, Any], missing: Mapping[str, Missing]) -> bool:
    if any(name in values for name in CORE):
        return True
    verdicts = {missing[query].verdict for query in CORE if query in missing}
    if verdicts == {Verdict.UNSUPPORTED}:
        return True
    return verdicts <= {Verdict.UNSUPPORTED, Verdict.REFUSED} and bool(verdicts and values)


def _counted(errors: Mapping[str, int], name: str) -> Mapping[str, int]:
    return {**errors, name: errors.get(name, 0) + 1}


def is_believed(state: GpuState, now: float, max_age: float) -> bool:
    """Whether it is up, and its latest answer is not older than `max_age` seconds at `now`."""
    return state.up and now - state.answered_at <= max_age


def device(gpu: str, state: GpuState, now: float, max_age: float) -> GpuDevice:
    """The GPU as it may be shown at `now`: no value older than `max_age` seconds."""
    sample, reasons = None, {}
    if is_believed(state, now, max_age):
        held = state.values.items()
        fresh = {n: value for n, (at, value) in held if now - at <= _lasts(n, max_age)}
        sample = GpuSample(state.timestamp, **fresh)
        reasons = {query: absence.reason for query, absence in state.missing.items()}
        reasons.update((n, NO_ANSWER) for n in state.values if n not in fresh)
    else:
        reasons[""] = state.why or (NO_ANSWER if state.up else NO_ANSWER_YET)
    found = state.found
    return GpuDevice(
        gpu=gpu,
        uuid=found.uuid,
        name=found.name,
        pci_bus_id=found.pci_bus_id,
        driver_version=found.driver_version,
        up=sample is not None,
        last_answer_timestamp=state.timestamp or None,
        sample=sample,
        reasons=tuple(sorted(reasons.items())),
        errors=tuple(sorted(state.errors.items())),
        minor=found.minor,
        modes=found.modes,
        xids=tuple(XidErrors(xid, *seen) for xid, seen in sorted(state.xids.items())),
    )


def _lasts(name: str, max_age: float) -> float:
    """Seconds for which a value may be shown."""
    return max_age * RARE_TURNS if query_of(name) in RARE else max_age


def changes_at(state: GpuState, now: float, max_age: float) -> float:
    """The next moment at which `device` changes although nothing happens."""
    if not state.up:
        return math.inf
    values = (at + _lasts(name, max_age) for name, (at, _) in state.values.items())
    ends = (state.answered_at + max_age, *values)
    return min((end for end in ends if end >= now), default=math.inf)
