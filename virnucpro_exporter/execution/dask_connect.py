"""Reaching a Dask cluster: one that runs, or one of its own on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster

from virnucpro_exporter.errors import ClusterError
from virnucpro_exporter.execution import dask_preload

# Each Dask worker takes one or two connections for as long as the run lasts.
_MOST_CONNECTIONS = 100_000

# A scheduler that does not answer for so long is not there.
_CONNECT_SECONDS = 10.0

Connect = Callable[[], AbstractAsyncContextManager[Client]]


@contextlib.asynccontextmanager
async def existing(address: str | None, scheduler_file: str | None) -> AsyncIterator[Client]:
    """A client of a scheduler that runs.

    Args:
        address: Of the scheduler.
        scheduler_file: Or the file in which it has written its address.

    Raises:
        ClusterError: It cannot be reached.
    """
    if scheduler_file is not None:
        address = _address_in(Path(scheduler_file))
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    try:
        client = await Client(
            address,
            asynchronous=True,
            direct_to_workers=True,
            connection_limit=_MOST_CONNECTIONS,
            timeout=_CONNECT_SECONDS,
        )
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"no scheduler answers at {address}: {error}") from error
    async with client:
        yield client


def _address_in(scheduler_file: Path) -> str:
    try:
        address = json.loads(scheduler_file.read_text(encoding="utf-8"))["address"]
    except OSError as error:
        raise ClusterError(f"{str(scheduler_file)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{str(scheduler_file)!r} is no file of a Dask scheduler") from error
    return str(address)


@contextlib.asynccontextmanager
async def local(pins: Sequence[str]) -> AsyncIterator[Client]:
    """A client of a cluster of its own, on this machine.

    Args:
        pins: The CUDA_VISIBLE_DEVICES of each worker.
    """
    options = {
        "nthreads": 1,
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
        "preload": [dask_preload.__name__],
    }
    workers = {
        index: {"cls": Nanny, "options": {**options, "env": {"CUDA_VISIBLE_DEVICES": pin}}}
        for index, pin in enumerate(pins)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    # We watch the GPUs ourselves: Dask asks in its event loop, where a driver that hangs or fails
    # takes the worker along.
    with dask.config.set({"distributed.diagnostics.nvml": False}):
        async with (
            SpecCluster(workers=workers, scheduler=scheduler, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True, direct_to_workers=True) as client,
        ):
            yield client
