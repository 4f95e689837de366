"""What `serve` keeps of runs: the newest state of each, its name, and how it ended.

A pure part: the time is an argument, and what is to be kept over a restart is taken in and given
out as values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from virnucpro_exporter.registry.record import Record
from virnucpro_exporter.snapshot import RunEnd, RunResult, RunSnapshot, RunState

# Of one user, so that none can push out the runs of others. Those that ended first make room.
_MOST_ENDED = 100
_MOST_LIVE = 32


@dataclass(frozen=True, slots=True)
class Kept:
    """A run.

    Attributes:
        record: What it said last; `record.run.name` is the name it would like.
        name: The name by which it is shown; no other has it.
        uid: Its user.
        user: The name of the user, or a number.
        pid: Its process; 0 where that is not known or has gone.
    """

    record: Record
    name: str
    uid: int
    user: str
    pid: int = 0

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.record.run.end is None

    @property
    def shown(self) -> RunSnapshot:
        """Its state as views get it."""
        return replace(self.record.run, name=self.name, user=self.user)


class KeptRuns:
    """All runs that are shown.

    Args:
        keep: Seconds for which a run is kept after its end.

    Attributes:
        keep: The same.
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self._runs: dict[str, Kept] = {}

    def __iter__(self) -> Iterator[tuple[str, Kept]]:
        return iter(self._runs.items())

    def get(self, key: str) -> Kept | None:
        """A run, by its key."""
        return self._runs.get(key)

    def restore(self, runs: Mapping[str, Kept]) -> None:
        """Take in what was kept before a restart; those that were live are looked for."""
        self._runs.update(runs)

    def update(self, key: str, record: Record, uid: int, user: str, pid: int = 0) -> bool:
        """A run has said something.

        Returns:
            Whether it is kept; there may be too many.
        """
        known = self._runs.get(key)
        if known is not None:
            if known.is_live or not record.run.end:
                self._runs[key] = replace(known, record=record, pid=pid or known.pid)
            return True
        if record.run.end is None and not self._has_room(uid):
            return False
        self._runs[key] = Kept(record, self._name(record, uid), uid, user, pid)
        return True

    def vanish(self, key: str, now: float) -> None:
        """The process of a run has gone, and has not told of an end.

        Args:
            key: Of the run.
            now: Unix seconds.
        """
        known = self._runs.get(key)
        if known is not None and known.is_live:
            run = known.record.run
            when = min(run.timestamp, now)
            end = RunEnd(when, RunResult.VANISHED, None, "its process is gone; it was killed")
            ended = replace(run, end=end, state=RunState.FAILED)
            self._runs[key] = replace(known, record=replace(known.record, run=ended), pid=0)

    def disown(self, key: str, now: float) -> None:
        """A run cannot be followed; one that has never answered may be no run, and is dropped.

        Args:
            key: Of the run.
            now: Unix seconds.
        """
        known = self._runs.get(key)
        if known is not None and not known.pid:
            del self._runs[key]
        self.vanish(key, now)

    def expire(self, now: float) -> list[str]:
        """Forget runs that ended long ago, and those that are too many.

        Returns:
            Their keys.
        """
        ended: dict[int, list[tuple[float, str]]] = defaultdict(list)
        for key, kept in self._runs.items():
            if kept.record.run.end is not None:
                ended[kept.uid].append((kept.record.run.end.timestamp, key))
        gone: list[str] = []
        for of_user in map(sorted, ended.values()):
            surplus = len(of_user) - _MOST_ENDED
            gone += [
                key for n, (at, key) in enumerate(of_user) if n < surplus or now - at > self.keep
            ]
        for key in gone:
            del self._runs[key]
        return gone

    def _has_room(self, uid: int) -> bool:
        return sum(kept.is_live and kept.uid == uid for kept in self._runs.values()) < _MOST_LIVE

    def _name(self, record: Record, uid: int) -> str:
        """The name of a new run: the one that it would like, or with a number where that is taken.

        A run into the same output folder takes the place of one that has ended.
        """
        wanted = record.run.name
        for key, kept in list(self._runs.items()):
            is_again = kept.uid == uid and kept.record.origin == record.origin
            if is_again and not kept.is_live and kept.record.run.name == wanted:
                del self._runs[key]
        taken = {kept.name for kept in self._runs.values()}
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        return name
