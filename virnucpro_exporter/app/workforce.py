"""The workers of a run: processes of this machine, or of a Dask cluster."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING, Any

from virnucpro_exporter.app.announce import registry_folder, runs_of
from virnucpro_exporter.app.devices import Device, devices, expected_speeds
from virnucpro_exporter.app.processor import FACTORY
from virnucpro_exporter.cluster.nodes import NodeGpus
from virnucpro_exporter.config import Cluster, Devices, Metrics
from virnucpro_exporter.errors import ConfigError, UsageError
from virnucpro_exporter.execution.moving import Movers
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.gpu.identity import CUDA_VARIABLE
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, Node
from virnucpro_exporter.text import counted
from virnucpro_exporter.workers.local_pool import LocalPool
from virnucpro_exporter.workers.pool import WorkerPool

if TYPE_CHECKING:
    from virnucpro_exporter.cluster.connect import Connect, Scheduled

# Workers that are silent are looked at for signs of life this often, in seconds; a sign takes two
# looks after the first.
_LOOK_SECONDS = 10.0
_LOOKS_BEFORE_A_STALL = 5

_NODE = "virnucpro_exporter.app.cluster_node:ClusterNode"


@dataclass(frozen=True, slots=True)
class Workforce:
    """What a run works with.

    Attributes:
        devices: Those that are there at the start.
        pool: Their processes.
        monitor: Watches the GPUs, or None.
        nodes: The machines of a cluster; none where this machine does the work.
        movers: The workers, where they can move outputs to their place; None on a cluster.
    """

    devices: list[Device]
    pool: WorkerPool
    monitor: Published[GpuSnapshot] | None
    nodes: Published[Sequence[Node]]
    movers: Movers | None = None


def workforce(  # noqa: PLR0913 - a run has so many parts that its workers need
    wanted: Devices,
    cluster: Cluster,
    metrics: Metrics,
    stall_threshold: float,
    spec: Mapping[str, Any],
    outputs: Outputs,
    views: contextlib.ExitStack,
    stack: contextlib.ExitStack,
    *,
    scheduled: Scheduled | None = None,
    environment: Mapping[str, str] | None = None,
) -> Workforce:
    """Take the devices and make their pool.

    Args:
        wanted: Which devices.
        cluster: The Dask cluster, if one is used.
        metrics: What of the GPUs is wanted beside the usual values.
        stall_threshold: Seconds of silence that may be a stall; signs of life are seen before that.
        spec: The processor.
        outputs: The output folder, prepared.
        views: Closes what the views need.
        stack: Closes the pool, before the views.
        scheduled: The cluster that the caller has at hand, if it has one.
        environment: What all workers have in their environment, too; on this machine alone.

    Raises:
        ClusterError: The Dask cluster cannot be used.
        NoDeviceError: The requested GPUs do not exist.
        UsageError: The options cannot be used.
    """
    look_seconds = min(_LOOK_SECONDS, stall_threshold / _LOOKS_BEFORE_A_STALL)
    if cluster.is_used:
        if environment:
            raise UsageError(
                "URLs with a query string work only on this machine; on a Dask cluster use s3:// "
                "or gs://, with credentials in the environment of its workers"
            )
        if metrics.gpu_links or metrics.gpu_processes:
            raise UsageError(
                "--gpu-links and --gpu-processes do not work on a Dask cluster; use them with "
                "`virnucpro-exporter serve` on each node"
            )
        return stack.enter_context(
            _on_dask(wanted, cluster, scheduled, look_seconds, spec, outputs)
        )
    watching = functools.partial(
        GPUMonitor,
        links=metrics.gpu_links,
        processes=metrics.gpu_processes,
        runs=runs_of(registry_folder(metrics)),
    )
    found, monitor = views.enter_context(devices(wanted, watching=watching))
    pins = {device.gpu: {**device.environment, **(environment or {})} for device in found}
    local = LocalPool(
        spec,
        FACTORY,
        outputs.attempts,
        outputs.logs,
        pins,
        look_seconds=look_seconds,
        uses_gpu=None if monitor is None else lambda gpu: monitor.latest().is_busy_for_run(gpu),
        results=outputs.folder,
    )
    stack.callback(local.close)
    return Workforce(found, local, monitor, Latest(()), local)


@contextlib.contextmanager
def _on_dask(
    wanted: Devices,
    cluster: Cluster,
    scheduled: Scheduled | None,
    look_seconds: float,
    spec: Mapping[str, Any],
    outputs: Outputs,
) -> Iterator[Workforce]:
    connect = _connection(wanted, cluster, scheduled)
    from virnucpro_exporter.cluster.agent import Job  # noqa: PLC0415 - needs an extra
    from virnucpro_exporter.cluster.pool import DaskPool  # noqa: PLC0415 - likewise

    token = secrets.token_hex(16)
    probe = outputs.hidden / f"probe-{token}"
    probe.write_text(token, encoding="ascii")
    job = Job(
        spec=spec,
        factory=FACTORY,
        node=_NODE,
        attempts=str(outputs.attempts),
        logs=str(outputs.logs),
        folder=os.getcwd(),  # noqa: PTH109 - a plain text is wanted
        probe=str(probe),
        token=token,
        lease=cluster.dask_timeout,
        look_seconds=look_seconds,
    )
    gpus = NodeGpus()
    limits = {"silence": cluster.dask_timeout, "patience": cluster.dask_timeout}
    pool = DaskPool(connect, job, expected_speeds(wanted), gpus, **limits)
    try:
        joined = pool.wait_for_workers()
        joined.sort(key=lambda event: event.worker_id)
        found = [Device(e.worker_id, e.name, e.weight, {}) for e in joined]
        yield Workforce(found, pool, gpus, gpus.nodes)
    finally:
        gpus.close()
        pool.close()
        probe.unlink(missing_ok=True)


def cluster_at_hand(handle: object) -> Scheduled:
    """The scheduler of a client or cluster of the caller.

    Args:
        handle: A `distributed.Client` or a cluster.

    Raises:
        UsageError: It is neither, or it is not connected.
    """
    _need_dask()
    from virnucpro_exporter.cluster.connect import scheduled  # noqa: PLC0415 - needs an extra

    return scheduled(handle)


def _need_dask() -> None:
    if util.find_spec("distributed") is None:
        raise UsageError(
            "Dask is not installed; install it with: pip install '.[dask]' (in the checkout)"
        )


def _connection(wanted: Devices, cluster: Cluster, scheduled: Scheduled | None) -> Connect:
    """How to reach the cluster that the options name, or that the caller has at hand."""
    _need_dask()
    try:
        from virnucpro_exporter.cluster import connect as dask_connect  # noqa: PLC0415 - needs an extra
    except ValueError as error:  # Dask reads its settings when it is imported
        raise ConfigError(" ".join(str(error).split())) from error

    if cluster.dask_local is None:
        if wanted.gpus is not None:
            raise UsageError(
                "--gpus is for this machine; Dask workers have their own GPUs: remove it"
            )
        timeout = min(dask_connect.CONNECT_SECONDS, cluster.dask_timeout)
        security = None if scheduled is None else scheduled.security
        return lambda: dask_connect.existing(
            cluster.dask, cluster.dask_scheduler_file, timeout, security
        )
    count = cluster.dask_local
    with devices(wanted, slots=count) as (found, _):
        if len(found) < count:
            there = counted(len(found), "GPU or slot", "GPUs or slots")
            raise UsageError(f"--dask-local {count}: this machine has only {there}")
        pins = [device.environment[CUDA_VARIABLE] for device in found[:count]]
    return lambda: dask_connect.local(pins)
