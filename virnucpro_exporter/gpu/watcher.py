"""Queries one GPU again and again, in its own threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from virnucpro_exporter.gpu import state
from virnucpro_exporter.gpu.board import Board, Gpu
from virnucpro_exporter.gpu.processes import count_foreign, described
from virnucpro_exporter.gpu.sources import CORE, SLOW, Reading, SourceError

log = logging.getLogger(__name__)

Runs = Callable[[], Collection[int]]
Read = Callable[[str, tuple[str, ...]], Reading | None]

_LONGEST_PAUSE = 30.0  # seconds, after errors of this program


class Watcher:
    """The turns of one GPU's thread.

    Args:
        gpu: The GPU to query.
        read: Sends queries to a GPU, by its uuid; None while no thread may query it.
        board: Where the responses are published.
        interval: Seconds between two turns.
        rare: The queries of every tenth turn.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
        runs: Returns the processes of the runs on this machine.
    """

    def __init__(
        self,
        gpu: Gpu,
        read: Read,
        board: Board,
        interval: float,
        rare: tuple[str, ...],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        runs: Runs,
    ) -> None:
        self._runs = runs
        self._clock = clock
        self._wall_clock = wall_clock
        self._gpu = gpu
        self._read = read
        self._board = board
        self._interval = self._pause = interval
        self._rare = rare
        self._turns = 0

    def turn(self) -> float:
        """Query once. Not even a defect of this program ends the watching.

        Returns:
            Seconds until the next turn.
        """
        began = self._clock()
        try:
            # Slow values have a call of their own, so that the others do not wait for them, and
            # every other turn, so that they too stay younger than three intervals.
            answered = self.sample(CORE)
            for queries, turns in ((SLOW, 2), (self._rare, state.RARE_TURNS)):
                answered = answered and (self._turns % turns != 0 or self.sample(queries))
            self._turns += answered
            self._pause = self._interval
        except Exception as error:  # noqa: BLE001 - it is reported, counted and tried again
            self._hurt(error)
            self._pause = min(2 * self._pause, max(_LONGEST_PAUSE, self._interval))
        if not self._gpu.is_asked and (self._turns or self._gpu.state.why):
            self._board.was_asked(self._gpu)
        return max(0.0, self._pause - (self._clock() - began))

    def sample(self, queries: tuple[str, ...]) -> bool:
        """Send some queries and publish the responses; False when more queries make no sense."""
        gpu, now, timestamp = self._gpu, self._clock(), self._wall_clock()
        asked = state.due(gpu.state, queries, now)
        if not asked:
            return True
        try:
            reading = self._read(gpu.state.found.uuid, asked)
        except SourceError as error:
            self._failed(str(error))
            return False
        if reading is None:
            return False
        seconds = self._clock() - now
        reading = self._with_names(reading)
        with self._board.lock:
            gpu.state = state.absorb(gpu.state, reading, now - reading.age, timestamp - reading.age)
            self._board.succeeded(seconds, now)
        return True

    def _with_names(self, reading: Reading) -> Reading:
        """The reading with the operating system's data on the processes that were found."""
        told: dict[str, Any] = {}
        if "foreign_processes" in reading.values:
            pids = reading.values["foreign_processes"]
            others = foreign = count_foreign(pids)
            if others:
                foreign = count_foreign(pids, self._runs())
            told["foreign_processes"] = foreign
            if others is not None and foreign is not None:
                told["neighbour_processes"] = others - foreign
        if "processes" in reading.values:
            told["processes"] = described(reading.values["processes"])
        return replace(reading, values={**reading.values, **told}) if told else reading

    def _failed(self, why: str) -> None:
        with self._board.lock:
            self._gpu.state = replace(state.down(self._gpu.state, why), wants_reopen=True)
            self._board.failed(why)

    def _hurt(self, error: Exception) -> None:
        why = f"internal error: {type(error).__name__}: {error}"
        if self._gpu.state.why != why:
            log.error("GPU %s: %s", self._gpu.id, why, exc_info=error)
        with self._board.lock:
            self._gpu.state = state.hurt(self._gpu.state, why)
            self._board.failed(why)


class XidWatcher:
    """Collects the XID errors of one GPU, beside the turns that may hang in a call to it.

    Args:
        gpu: The GPU.
        xids: Returns those of a GPU, by its uuid, since the last call; None where they are unknown.
        board: Where they are published.
        interval: Seconds between two turns.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        gpu: Gpu,
        xids: Callable[[str], tuple[int, ...] | None],
        board: Board,
        interval: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self._gpu = gpu
        self._xids = xids
        self._board = board
        self._interval = interval
        self._wall_clock = wall_clock

    def turn(self) -> float:
        """Collect the new errors.

        Returns:
            Seconds until the next turn.
        """
        gpu = self._gpu
        found = self._xids(gpu.state.found.uuid)
        if found:
            log.warning("GPU %s: XID error %s", gpu.id, ", ".join(map(str, found)))
            with self._board.lock:
                gpu.state = state.struck(gpu.state, found, self._wall_clock())
        return self._interval
