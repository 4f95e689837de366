"""A faulty steal policy, for the alert that detects it."""

from __future__ import annotations

from collections.abc import Sequence

from virnucpro_exporter.scheduling.policy import EarliestFinish, Steal, may_take
from virnucpro_exporter.scheduling.workers import Worker


class PingPong(EarliestFinish):
    """Takes files that were stolen before from the queue they wait in, gain or not.

    The real policy leaves a file that came back to the worker that will do it soonest. With this
    one, workers that are taken away again and again pass the same files around.
    """

    def steal(self, thief: Worker, workers: Sequence[Worker], now: float) -> Steal | None:
        """Choose a waiting file that was stolen before; without one, do as the real policy does."""
        for victim in workers:
            if victim is thief:
                continue
            for position, record in enumerate(victim.queue):
                if record.steals and may_take(record, thief):
                    return Steal(victim, position)
        return super().steal(thief, workers, now)
