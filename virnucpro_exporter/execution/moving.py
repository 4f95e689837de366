"""Moving outputs to their place: where there are many, their workers move them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId

# This many outputs are worth a message; fewer are moved sooner by the run itself.
_MANY = 16

# A worker that is stopped or dead, or is busy with a long file, has moved nothing after this many
# seconds: then the run moves the outputs.
_PATIENCE = 0.5

# A move, or an attempt to be discarded.
Move = co.KeepOutputs | co.DiscardOutputs


class Movers(Protocol):
    """Workers that can move outputs to their place themselves."""

    def move(self, worker_id: WorkerId, moves: Sequence[co.KeepOutputs]) -> bool:
        """Have a worker move outputs that are in the journal; False if there is no such worker."""

    def moved(self) -> list[AttemptNumber]:
        """The attempts whose outputs workers have moved since the last call."""


class HandedOver:
    """The outputs that workers are to move.

    If the run moves the same outputs at the same moment, that does no harm: an output is in one of
    the two places, and whichever is later finds that it has been moved. The numbers of attempts are
    never used again, so that a worker which goes on much later finds nothing either.

    Args:
        movers: The workers, or None where they cannot.
    """

    def __init__(self, movers: Movers | None) -> None:
        self._movers = movers
        self._moves: dict[AttemptNumber, co.KeepOutputs] = {}
        self._deadlines: deque[tuple[float, list[AttemptNumber]]] = deque()

    def hand_over(self, moves: deque[Move], now: float) -> None:
        """Give moves to the workers that wrote the outputs, and take them out of what is to do.

        Args:
            moves: What is to do; all of it is on record.
            now: On the coordinator's clock, in seconds.
        """
        if self._movers is None or len(moves) < _MANY:
            return
        by_worker: dict[WorkerId, list[co.KeepOutputs]] = {}
        left: list[Move] = []
        for move in moves:
            if isinstance(move, co.KeepOutputs):
                by_worker.setdefault(move.worker_id, []).append(move)
            else:
                left.append(move)
        for worker_id, of_worker in by_worker.items():
            if not self._movers.move(worker_id, of_worker):
                left += of_worker
                continue
            self._moves.update((move.attempt, move) for move in of_worker)
            self._deadlines.append((now + _PATIENCE, [move.attempt for move in of_worker]))
        moves.clear()
        moves.extend(left)

    def done(self) -> list[co.KeepOutputs]:
        """What workers have moved since the last call."""
        if not self._moves or self._movers is None:
            return []
        found = (self._moves.pop(attempt, None) for attempt in self._movers.moved())
        return [move for move in found if move is not None]

    def due_at(self) -> float | None:
        """When the next are to be taken back; None where none is under way."""
        while self._deadlines and not any(a in self._moves for a in self._deadlines[0][1]):
            self._deadlines.popleft()
        return self._deadlines[0][0] if self._deadlines else None

    def take_back(self, now: float) -> list[co.KeepOutputs]:
        """What workers have not moved by now, for the run to do.

        Args:
            now: On the coordinator's clock, in seconds; infinity takes all back.
        """
        late: list[AttemptNumber] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            late += self._deadlines.popleft()[1]
        return [self._moves.pop(attempt) for attempt in late if attempt in self._moves]
