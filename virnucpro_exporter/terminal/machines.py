"""Runs and GPUs of one or more machines, on one screen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rich.console import Console, Group, RenderableType
from rich.text import Text

from virnucpro_exporter.overview.rows import OVER
from virnucpro_exporter.overview.trail import Trails
from virnucpro_exporter.snapshot import (
    GpuSnapshot,
    Machine,
    RunResult,
    RunSnapshot,
    SourceSilentError,
)
from virnucpro_exporter.terminal.display import LiveDisplay
from virnucpro_exporter.terminal.gpus_table import gpus_view, missing_reasons
from virnucpro_exporter.terminal.plain import describe_run
from virnucpro_exporter.terminal.views import Size, ViewOptions, run_view, silence_view
from virnucpro_exporter.terminal.worker_table import TRAIL_INTERVALS, TRAIL_SECONDS, Trail
from virnucpro_exporter.text import clean, counted

logger = logging.getLogger(__name__)

_LEAST = 5  # lines of a block: its title, what it is about, a heading and two rows


class MachineSource(Protocol):
    """A machine: its address, its name, and what it serves."""

    url: str
    name: str

    def latest(self) -> Machine:
        """The newest state; raises `SourceSilentError` where there is none."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A machine at one moment.

    Attributes:
        url: Its address.
        name: What it is called.
        machine: What it serves; None where it does not answer.
        silence: Why it does not answer, or None.
        trail: The last ten minutes of its GPUs, or None.
    """

    url: str
    name: str
    machine: Machine | None
    silence: SourceSilentError | None = None
    trail: Trail | None = None


class _Block(NamedTuple):
    """A part of the screen: its title, the lines that it would like, and how it is drawn."""

    title: str
    wanted: int
    draw: Callable[[Size], RenderableType]


def machines_view(
    machines: Sequence[Seen], now: float, size: Size, options: ViewOptions
) -> RenderableType:
    """All machines; one that only has a run of its own looks as that run does.

    Args:
        machines: What was seen of them.
        now: Unix seconds.
        size: The room there is; the view takes no more lines than that.
        options: How to draw.
    """
    blocks = [block for seen in machines for block in _blocks(seen, now, options)]
    if len(blocks) == 1:
        return blocks[0].draw(size)
    most = max(1, size.height // _LEAST)
    shown = blocks if len(blocks) <= most else blocks[: max(1, (size.height - 1) // _LEAST)]
    room = size.height - (len(shown) < len(blocks))
    parts: list[RenderableType] = []
    for block, lines in zip(shown, _shares([b.wanted + 1 for b in shown], room), strict=True):
        title = clean(block.title, ascii_only=options.ascii_only)
        parts.append(Text(title, "bold reverse", no_wrap=True, overflow="crop"))
        parts.append(block.draw(Size(size.width, lines - 1)))
    if len(shown) < len(blocks):
        names = ", ".join(block.title for block in blocks[len(shown) :])
        more = f"+{len(blocks) - len(shown)} more: {clean(names, ascii_only=options.ascii_only)}"
        parts.append(Text(more, "bold", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _shares(wanted: Sequence[int], room: int) -> list[int]:
    """Lines for each: what it would like, or an equal share of what the smaller ones leave."""
    shares = [0] * len(wanted)
    left = room
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for done, place in enumerate(order):
        shares[place] = min(wanted[place], left // (len(wanted) - done))
        left -= shares[place]
    return shares


def _blocks(seen: Seen, now: float, options: ViewOptions) -> Iterator[_Block]:
    if seen.machine is None:
        silence = seen.silence
        since, reason = (silence.since, silence.reason) if silence else (None, "not queried yet")
        view = silence_view(seen.url, since, reason, now)
        yield _Block(seen.name, 3, lambda _: view)
        return
    machine, used = seen.machine, set[str]()
    ordered = sorted(machine.runs.items(), key=lambda item: item[1].state in OVER)
    for name, run in ordered:
        title = f"{seen.name} {name}".strip()
        yield _Block(title, len(run.workers) + 5, _of_run(run, machine.gpus, now, options, seen))
        used |= set() if run.state in OVER else {worker.gpu for worker in run.workers}
    if "" not in machine.runs:
        free = tuple(device for device in machine.gpus.devices if device.gpu not in used)
        others = GpuSnapshot(machine.gpus.timestamp, machine.gpus.backend, free)
        if free or not machine.runs:
            title = f"{seen.name} {'other GPUs' if used else 'GPUs'}"
            reasons = sum(len(missing_reasons(device)) for device in free)
            lines = len(free) + 1 + (reasons + 1 if reasons else 0)
            yield _Block(title, lines, _of_gpus(others, options))


def _of_run(
    run: RunSnapshot, gpus: GpuSnapshot, now: float, options: ViewOptions, seen: Seen
) -> Callable[[Size], RenderableType]:
    return lambda size: run_view(run, gpus, now, size, options, seen.trail)


def _of_gpus(gpus: GpuSnapshot, options: ViewOptions) -> Callable[[Size], RenderableType]:
    return lambda size: gpus_view(
        gpus, width=size.width, height=size.height, ascii_only=options.ascii_only
    )


class MachinesDisplay(LiveDisplay):
    """Follows runs and GPUs elsewhere, until all runs that serve by themselves have ended.

    Args:
        sources: The machines.
        update_interval: Seconds between two looks.
        console: Where to draw; standard error by default.
        plain: Log lines in place of the screen; by default when the console is no terminal.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        sources: Sequence[MachineSource],
        update_interval: float = 2.0,
        *,
        console: Console | None = None,
        plain: bool | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(console, plain=plain, update_interval=update_interval)
        self._sources = tuple(sources)
        endpoint = self._sources[0].url if len(self._sources) == 1 else ""
        self._options = ViewOptions(self._ascii_only, endpoint)
        self._wall_clock = wall_clock
        self._trails = {source.name: Trails(TRAIL_INTERVALS, TRAIL_SECONDS) for source in sources}
        self._ended: dict[str, Machine] = {}
        self._results: tuple[RunResult, ...] | None = None

    @property
    def results(self) -> tuple[RunResult, ...] | None:
        """How the runs ended; None while one goes on, and where runs come and go."""
        return self._results

    def _show(self, *, log: bool, plain: bool) -> None:  # noqa: ARG002 - there is no metrics log
        if self._results is not None:
            return  # the last screen stays: an endpoint that goes after the end takes nothing away
        machines = [self._look(source) for source in self._sources]
        if len(self._ended) == len(self._sources):
            ends = [run.end for machine in self._ended.values() for run in machine.runs.values()]
            self._results = tuple(end.result for end in ends if end)
        now = self._wall_clock()
        if self._live is not None:
            self._draw(machines_view(machines, now, self._room(), self._options))
        elif plain or self._results is not None:
            _log(machines, now)

    def _look(self, source: MachineSource) -> Seen:
        ended = self._ended.get(source.name)
        if ended is not None:
            return Seen(source.url, source.name, ended)
        try:
            machine = source.latest()
        except SourceSilentError as silence:
            return Seen(source.url, source.name, None, silence)
        ticks, trails = time.monotonic(), self._trails[source.name]
        trails.add(ticks, machine.gpus, {})
        own = machine.runs.get("")
        if own is not None and own.end is not None:
            self._ended[source.name] = machine
        return Seen(
            source.url,
            source.name,
            machine,
            trail=lambda gpu: trails.utilization(gpu, ticks),
        )


def _log(machines: Sequence[Seen], now: float) -> None:
    """A line for each run, and one for a machine that does not answer or has no run."""
    for seen in machines:
        several = f"{seen.name}: " if len(machines) > 1 else ""
        if seen.machine is None:
            reason = seen.silence.reason if seen.silence else ""
            logger.warning("no answer from %s: %s", seen.url, reason)
            continue
        runs: Mapping[str, RunSnapshot] = seen.machine.runs
        for name, run in runs.items():
            level, line = describe_run(run, seen.machine.gpus, now)
            logger.log(level, "%s%s%s", several, f"{name}: " if name else "", line)
        if not runs:
            devices = seen.machine.gpus.devices
            up = sum(device.up for device in devices)
            logger.info("%sno run; %d of %s up", several, up, counted(len(devices), "GPU"))
