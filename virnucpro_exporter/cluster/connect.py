"""Clients of a Dask cluster: of a running one, or of a temporary one on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm import CommClosedError
from distributed.deploy import Cluster
from distributed.security import Security

from virnucpro_exporter.cluster import preload as dask_preload
from virnucpro_exporter.errors import ClusterError, UsageError

# Each Dask worker takes one or two connections for as long as the run lasts.
_MOST_CONNECTIONS = 100_000

# The time limit for an answer of the scheduler, in seconds.
CONNECT_SECONDS = 10.0

# The time limit for the end of a connection's sender, in seconds.
_CLOSE_SECONDS = 1.0

# An incomplete scheduler file is read again for so many seconds: it may be being written.
_WRITE_SECONDS = 1.0

# The processes of a Dask cluster execute code that they receive. Those of a temporary cluster
# listen on the loopback address only, with certificates that only this run has: neither another
# machine nor another user can connect.
_HERE = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}

_NO_CERTIFICATES = (
    "it needs TLS, but Dask's configuration has no certificates (distributed.comm.tls)"
)
_BROKEN_OFF = (
    "the connection was closed; check that the address begins with tcp:// or tls:// like the"
    " scheduler's own, and that both certificates are signed by the same authority"
    " (distributed.comm.tls in Dask's configuration)"
)

Connect = Callable[[], AbstractAsyncContextManager[Client]]

# The objects by which a Python program can name its cluster.
Handle = Client | Cluster


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The scheduler of a cluster that a Python program has connected to.

    Attributes:
        address: The address of the scheduler.
        security: The TLS settings of its connections; None: those of Dask's configuration.
    """

    address: str
    security: Security | None


def scheduled(handle: object) -> Scheduled:
    """The scheduler of a client or of a cluster.

    Only its address and security are used: a run connects with a client of its own, so that it does
    not depend on the event loop of the caller's client.

    Args:
        handle: A `distributed.Client`, or a cluster, such as those of dask-jobqueue.

    Raises:
        UsageError: It is neither, or it is closed or not connected yet.
    """
    if isinstance(handle, Client):
        scheduler = handle.scheduler if handle.status == "running" else None
        if scheduler is not None:
            return Scheduled(str(scheduler.address), handle.security)
    elif isinstance(handle, Cluster):
        address = getattr(handle, "scheduler_address", "")
        if address and handle.status.name == "running":
            return Scheduled(str(address), handle.security)
    else:
        raise UsageError(
            "dask: must be an address, a distributed.Client or a cluster, not a"
            f" {type(handle).__name__}"
        )
    raise UsageError(f"dask: the {type(handle).__name__} is closed, or not connected yet")


@contextlib.asynccontextmanager
async def existing(
    address: str | None,
    scheduler_file: str | None,
    timeout: float = CONNECT_SECONDS,
    security: Security | None = None,
) -> AsyncIterator[Client]:
    """A client of a running scheduler.

    Args:
        address: The address of the scheduler.
        scheduler_file: The file into which the scheduler has written its address; where given, it
            replaces `address`.
        timeout: The time limit for the scheduler's answer, in seconds.
        security: The TLS settings of the connection; None: those of Dask's configuration.

    Raises:
        ClusterError: The scheduler cannot be reached, or its file cannot be read.
    """
    if scheduler_file is not None:
        address = await _address_in(Path(scheduler_file))
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    try:
        client = Client(
            address,
            asynchronous=True,
            security=security,
            set_as_default=False,
            direct_to_workers=True,
            connection_limit=_MOST_CONNECTIONS,
            timeout=timeout,
        )
    except OSError as error:
        raise ClusterError(f"distributed.comm.tls in Dask's configuration: {error}") from error
    try:
        # Dask's own time limit has no effect on a scheduler that hangs; where it has, its error is
        # more precise, so it gets a second more.
        await asyncio.wait_for(client, timeout + 1.0)
    except (OSError, ValueError, TypeError, RuntimeError, asyncio.TimeoutError) as error:
        await client.close()
        raise ClusterError(
            f"the scheduler at {address} cannot be reached: {_why(error)}"
        ) from error
    async with _open(client):
        yield client


@contextlib.asynccontextmanager
async def _open(client: Client) -> AsyncIterator[Client]:
    """Open a client; at the end, close it and wait until its sender has ended.

    Where the scheduler closes the connection first, the client does not stop its sender, which runs
    for some milliseconds more. If the event loop ended meanwhile, asyncio would log an error.
    """
    async with client:
        try:
            yield client
        finally:
            sender = client.scheduler_comm
    if sender is not None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(sender.close(), _CLOSE_SECONDS)


def _why(error: Exception) -> str:
    if isinstance(error, TypeError):  # Dask was given no context for TLS
        return _NO_CERTIFICATES
    if isinstance(error, CommClosedError):
        return _BROKEN_OFF
    return str(error) or "it does not answer"


async def _address_in(scheduler_file: Path) -> str:
    end = time.monotonic() + _WRITE_SECONDS
    while (address := _read(scheduler_file)) is None:
        if time.monotonic() > end:
            raise ClusterError(f"{str(scheduler_file)!r} is not a Dask scheduler file")
        await asyncio.sleep(_WRITE_SECONDS / 20)
    return address


def _read(scheduler_file: Path) -> str | None:
    try:
        return str(json.loads(scheduler_file.read_text(encoding="utf-8"))["address"])
    except OSError as error:
        raise ClusterError(f"{str(scheduler_file)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        return None


@contextlib.asynccontextmanager
async def local(pins: Sequence[str]) -> AsyncIterator[Client]:
    """A client of a temporary cluster on this machine, which ends with it.

    Args:
        pins: The CUDA_VISIBLE_DEVICES of each Dask worker.
    """
    security = Security.temporary()
    options = {
        **_HERE,
        "security": security,
        "nthreads": 1,
        "memory_limit": 0,
        "silence_logs": logging.CRITICAL,
        "preload": [dask_preload.__name__],
    }
    workers = {
        index: {"cls": Nanny, "options": {**options, "env": {"CUDA_VISIBLE_DEVICES": pin}}}
        for index, pin in enumerate(pins)
    }
    scheduler = {"cls": Scheduler, "options": {**_HERE, "port": 0, "security": security}}
    # The agents sample the GPUs: Dask would query NVML in its event loop, where a driver that hangs
    # or fails blocks or ends the Dask worker.
    with dask.config.set({"distributed.diagnostics.nvml": False}):
        async with (
            SpecCluster(
                workers=workers, scheduler=scheduler, security=security, asynchronous=True
            ) as cluster,
            _open(
                Client(cluster, asynchronous=True, set_as_default=False, direct_to_workers=True)
            ) as client,
        ):
            yield client
