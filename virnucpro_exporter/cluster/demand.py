"""What the run could do with more Dask workers, as Dask's own means see it.

`adapt` adds workers for tasks that wait, and files are no tasks. So the run has tasks that wait for
the workers it wants: they demand a resource that no Dask worker has, so none ever runs one.
"""

from __future__ import annotations

import secrets

from distributed import Client, Future

from virnucpro_exporter.cluster.agent import TASK

# Dask asks for the workers that are busy and those of waiting tasks: this bounds how many more are
# asked for at a time, not how many there can be.
MOST_WANTED = 100

# Lent by no Dask worker.
_RESOURCE = "virnucpro-waiting-files"


class Demand:
    """The waiting tasks of a run; belongs to the event loop, but for `workers`.

    Attributes:
        workers: So many more workers would have a file to do; any thread may say.
    """

    def __init__(self) -> None:
        self.workers = 1  # a run begins with the first one
        self._waiting: list[Future] = []

    def show(self, client: Client, joining: int, least: int = 0) -> None:
        """Have as many tasks wait as workers are wanted.

        Args:
            client: Of the cluster.
            joining: Dask workers that have a task of the run already, and are about to join.
            least: So many are wanted at least.
        """
        wanted = min(max(0, max(self.workers, least) - joining), MOST_WANTED)
        # Dask gives a task up where it is set so, or where the client has been away.
        self._waiting = [task for task in self._waiting if not task.done()]
        for task in self._waiting[wanted:]:
            task.release()
        del self._waiting[wanted:]
        more = wanted - len(self._waiting)
        if more and client.status == "running":
            keys = [f"{TASK}-{secrets.token_hex(16)}" for _ in range(more)]
            self._waiting += client.map(
                _never, keys, key=keys, resources={_RESOURCE: 1}, pure=False
            )


def _never(_: str) -> None:
    """No Dask worker can run it."""
