"""The number of further Dask workers that a run could use, in a form that Dask's `adapt` evaluates.

`adapt` adds workers for waiting tasks, but the files of a run are not Dask tasks. The run therefore
submits one waiting task for each worker that it could use. These tasks require a resource that no
Dask worker offers, so none is ever executed.
"""

from __future__ import annotations

import secrets

from distributed import Client, Future

from virnucpro_exporter.cluster.agent import TASK

# `adapt` requests as many workers as are busy, plus those for waiting tasks. This limits how many
# more are requested at a time, not how many the run can have.
MOST_WANTED = 100

# No Dask worker offers this resource.
_RESOURCE = "virnucpro-waiting-files"


class Demand:
    """The waiting tasks of a run; used in the event loop alone, except `workers`.

    Attributes:
        workers: How many more workers would have a file to process; any thread may set it.
    """

    def __init__(self) -> None:
        self.workers = 1  # a run begins with the first one
        self._waiting: list[Future] = []

    def show(self, client: Client, joining: int, least: int = 0) -> None:
        """Submit or release waiting tasks until there is one for each worker that is needed.

        Args:
            client: A client of the cluster.
            joining: How many Dask workers have a task of the run already and are about to join.
            least: The least number of workers that are requested, before `joining` is subtracted.
        """
        wanted = min(max(0, max(self.workers, least) - joining), MOST_WANTED)
        # Dask ends waiting tasks after a configured time, and after the client was disconnected.
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
    """Is never executed: no Dask worker offers the required resource."""
