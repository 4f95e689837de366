"""The runs that `serve` shows: the newest state of each, its name, and its result.

Functional core: the time is an argument, and the runs that are stored across a restart are passed
in and out as values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from virnucpro_exporter.registry.record import Record
from virnucpro_exporter.snapshot import RunEnd, RunResult, RunSnapshot, RunState

# The limits for each user, so that one user cannot displace the runs of others. Runs that ended
# first are removed first.
_MOST_ENDED = 100
_MOST_LIVE = 32


@dataclass(frozen=True, slots=True)
class Kept:
    """A run that is shown.

    Attributes:
        record: Its newest record; `record.run.name` is the name that the run has chosen.
        name: The unique name by which it is shown.
        uid: The id of its user.
        user: The name of its user, or the id where there is no name.
        pid: Its process id; 0 where it is unknown or the process has gone.
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
        """Add the runs of before a restart; `vanish` ends live ones that are not found again."""
        self._runs.update(runs)

    def update(self, key: str, record: Record, uid: int, user: str, pid: int = 0) -> bool:
        """Add or update a run.

        Args:
            key: The id of the run.
            record: Its newest record; a second result of an ended run is ignored.
            uid: The id of its user.
            user: The name of its user.
            pid: Its process id; 0: unchanged.

        Returns:
            Whether the run is kept; False where its user has too many live ones.
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
        """End a run whose process has gone without a result.

        Args:
            key: The id of the run.
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
        """End a run that cannot be followed; drop it where it has never answered.

        Args:
            key: The id of the run.
            now: Unix seconds.
        """
        known = self._runs.get(key)
        if known is not None and not known.pid:
            del self._runs[key]
        self.vanish(key, now)

    def expire(self, now: float) -> list[str]:
        """Remove runs that ended more than `keep` seconds ago, and those beyond the limits.

        Args:
            now: Unix seconds.

        Returns:
            The ids of the removed runs.
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
        """The name of a new run: the chosen one, with a number where another run has it.

        A run replaces an ended one of the same user, name and output folder.
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
