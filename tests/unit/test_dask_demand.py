"""What Dask sees of the workers that a run would like to have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from distributed import Client

from virnucpro_exporter.cluster.demand import MOST_WANTED, Demand


class Task:
    """A task that waits."""

    def __init__(self) -> None:
        self.is_done = self.is_released = False

    def done(self) -> bool:
        return self.is_done

    def release(self) -> None:
        self.is_released = True


class Cluster:
    """A client that notes which tasks wait."""

    status = "running"

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def map(self, _: object, keys: Sequence[str], *, key: list[str], **how: Any) -> list[Task]:
        assert list(keys) == key
        assert how["resources"]  # which no Dask worker has, so that none does it
        more = [Task() for _ in keys]
        self.tasks += more
        return more

    @property
    def waiting(self) -> int:
        return sum(not (task.is_done or task.is_released) for task in self.tasks)


def test_as_many_tasks_wait_as_workers_are_wanted_beside_those_that_join() -> None:
    """More and fewer of them; what Dask has given up waits again, when the client is back."""
    cluster, demand = Cluster(), Demand()
    client = cast("Client", cluster)
    for wanted, joining, waiting in (
        (1, 0, 1),
        (7, 2, 5),
        (2, 0, 2),
        (1, 3, 0),
        (10 * MOST_WANTED, 0, MOST_WANTED),
        (3, 0, 3),
    ):
        demand.workers = wanted
        demand.show(client, joining)
        assert cluster.waiting == waiting
    for task in cluster.tasks:
        task.is_done = True
    cluster.status = "connecting"
    demand.show(client, 0)
    assert cluster.waiting == 0
    cluster.status = "running"
    demand.show(client, 0)
    assert cluster.waiting == 3
    demand.workers = 0
    demand.show(client, 0, least=1)
    assert cluster.waiting == 1
