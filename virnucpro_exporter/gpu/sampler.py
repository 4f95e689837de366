"""Opens the source, heals it, and gives every GPU a thread of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from virnucpro_exporter.gpu import roster, state
from virnucpro_exporter.gpu.board import Board, Gpu
from virnucpro_exporter.gpu.guard import Guard
from virnucpro_exporter.gpu.sources import (
    HEALTH,
    Found,
    GpuSource,
    Reading,
    SourceError,
    code_name,
)
from virnucpro_exporter.gpu.threads import Threads, Turns
from virnucpro_exporter.gpu.watcher import Runs, Watcher, XidWatcher
from virnucpro_exporter.text import counted

log = logging.getLogger(__name__)

STALE_AFTER = 3  # intervals
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 30.0  # seconds, while no source can be used
# Seconds between two initialisations: a little less than the 30 within which a healed GPU is seen.
REOPEN_AFTER = 27.0


class Sampler:
    """Queries every GPU in its own thread, so that one that hangs does not affect the others.

    Args:
        sources: In the order of preference.
        interval: Seconds between two samples of a GPU.
        reopen_after: Seconds between two initialisations of a source, at least: a GPU that works
            again is seen that much later at most.
        extra: Queries that not every user needs, in addition to those of `HEALTH`.
        turns: Has the GPUs queried again and again; threads when None.
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
        runs: Returns the processes of the runs on this machine; they are not foreign.

    Attributes:
        board: What is known.
    """

    def __init__(
        self,
        sources: Sequence[GpuSource],
        interval: float,
        reopen_after: float = REOPEN_AFTER,
        *,
        extra: tuple[str, ...] = (),
        turns: Turns | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        runs: Runs = lambda: (),
    ) -> None:
        self._runs = runs
        self.board = Board(STALE_AFTER * interval, clock, wall_clock)
        self._turns = turns or Threads()
        self._clock = clock
        self._wall_clock = wall_clock
        self._guards = [Guard(source) for source in sources]
        self._guard: Guard | None = None
        self._interval = interval
        self._reopen_after = reopen_after
        self._rare = (*HEALTH, *extra)
        self._next_open = 0.0
        self._retry = _FIRST_RETRY
        self._seen_up: dict[str, bool] = {}
        self._said = ""

    def start(self) -> None:
        """Begin to watch."""
        self._turns.spawn("gpu-supervisor", self._supervise)

    def stop(self) -> None:
        """Stop watching and close the source, unless a call into it is stuck."""
        if self._turns.stop() and self._guard is not None:
            self._guard.close()

    def _read(self, uuid: str, queries: tuple[str, ...]) -> Reading | None:
        guard = self._guard
        return None if guard is None else guard.read(uuid, queries)

    def _xids(self, uuid: str) -> tuple[int, ...] | None:
        guard = self._guard
        return None if guard is None else guard.xids(uuid)

    def _supervise(self) -> float:
        """One turn: open a source or heal it, and log what changed. Returns seconds to wait."""
        try:
            self._announce()
            if self._guard is not None:
                self._heal()
                return self._interval
            why = self._open(self._guards)
            if not why:
                return self._interval
        except Exception as error:
            log.exception("error in the GPU supervisor; it continues")
            why = f"internal error: {type(error).__name__}: {error}"
        self._lose_source(why)
        delay, self._retry = self._retry, min(2 * self._retry, _LONGEST_RETRY)
        return delay

    def _heal(self) -> None:
        """Open the source anew for GPUs that need it, or a better source; not too often."""
        place = self._guards.index(self._guard) if self._guard else 0
        gpus = self.board.gpus
        if self._guard is not None and self._guard.source.lists_more():
            self._open([self._guard])  # the better ones are tried at their own pace
        is_needed = any(gpu.state.wants_reopen for gpu in gpus)
        if self._clock() >= self._next_open and (is_needed or place):
            self._next_open = self._clock() + self._reopen_after
            why = self._open(self._guards if is_needed else self._guards[:place])
            if why and is_needed:
                self._lose_source(why)

    def _open(self, guards: Sequence[Guard]) -> str:
        """Open the best source that works and adopt what it lists; why none did, or empty."""
        reasons = []
        for guard in guards:
            try:
                found = guard.open(patience=self._interval)
            except SourceError as error:
                reasons.append(str(error))
                continue
            if found is not None:
                self._adopt(guard, found)
                return ""
            if guard is self._guard:
                return ""  # a thread is stuck inside; the other GPUs are better off as they are
            reasons.append("a driver call hangs")
        # The first one's reason: that the fallback is missing too is no news.
        return reasons[0]

    def _adopt(self, guard: Guard, found: Sequence[Found]) -> None:
        """Match what a source lists with the GPUs that are known."""
        before, board = self._guard, self.board
        known = {gpu.id: gpu.state.found.uuid for gpu in board.gpus}
        ids = roster.assign(known, found)
        # What cannot be identified may well be what is missing.
        codes = {code_name(f.code) for f in found if f not in ids.values()}
        missing = ", ".join(sorted(codes)) or "the driver no longer lists it"
        new = [Gpu(id_, state.GpuState(item)) for id_, item in ids.items() if id_ not in known]
        with board.lock:
            for gpu in (*board.gpus, *new):
                if gpu.id in ids:
                    gpu.state = state.identified(gpu.state, ids[gpu.id])
                else:
                    gpu.state = state.unlisted(gpu.state, missing)
            board.gpus = tuple(sorted((*board.gpus, *new), key=_order))
            board.backend = guard.source.backend
            board.succeeded(None, self._clock())
        self._guard = guard
        if before is not guard:
            log.info("watching %s through %s", counted(len(found), "GPU"), guard.source.backend)
            self._said, self._retry = "", _FIRST_RETRY
            self._next_open = self._clock() + self._reopen_after
            if before is not None:
                before.close()
        for gpu in new:
            clocks = (self._clock, self._wall_clock)
            watcher = Watcher(
                gpu, self._read, board, self._interval, self._rare, *clocks, self._runs
            )
            self._turns.spawn(f"gpu-{gpu.id}", watcher.turn)
            xids = XidWatcher(gpu, self._xids, board, self._interval, self._wall_clock)
            self._turns.spawn(f"gpu-{gpu.id}-xids", xids.turn)

    def _lose_source(self, why: str) -> None:
        self._guard = None
        with self.board.lock:
            self.board.backend = "none"
            for gpu in self.board.gpus:
                gpu.state = state.down(gpu.state, why)
            self.board.failed(why)
        self.board.first.set()
        if why != self._said:
            self._said = why
            log.warning("no GPU values: %s", why)

    def _announce(self) -> None:
        """Log, once, each GPU that goes down or comes back."""
        if not self.board.first.is_set():
            return  # those that are silent may yet send their first response
        now, max_age = self._clock(), self.board.max_age
        for gpu in self.board.gpus:
            held, was_up = gpu.state, self._seen_up.get(gpu.id, True)
            is_up = self._seen_up[gpu.id] = state.is_believed(held, now, max_age)
            if is_up and not was_up:
                log.info("GPU %s is up again", gpu.id)
            elif was_up and not is_up:
                device = state.device(gpu.id, held, now, max_age)
                log.warning("GPU %s is down: %s", gpu.id, dict(device.reasons)[""])


def _order(gpu: Gpu) -> tuple[int, ...]:
    return tuple(int(part) for part in gpu.id.split(":"))
