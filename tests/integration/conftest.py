"""What tests begin with in several modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dask_cluster import DaskCluster
from tests.dask_runs import inputs_of
from tests.pool_driver import FACTORY, Driver


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Makes a pool with one worker."""
    drivers: list[Driver] = []

    def make(spec: dict[str, Any] | None = None, factory: str = FACTORY) -> Driver:
        drivers.append(Driver(tmp_path, spec or {}, factory))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.pool.close()


@pytest.fixture
def cluster() -> Iterator[DaskCluster]:
    """A cluster without workers."""
    with DaskCluster() as cluster:
        yield cluster


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder of four inputs."""
    return inputs_of(tmp_path, 4)
