"""What runs on Dask begin with in several test modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dask_cluster import DaskCluster
from tests.dask_runs import inputs_of


@pytest.fixture
def cluster() -> Iterator[DaskCluster]:
    """A cluster without workers."""
    with DaskCluster() as cluster:
        yield cluster


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder of four inputs."""
    return inputs_of(tmp_path, 4)
