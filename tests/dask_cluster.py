"""A Dask scheduler and workers in processes of their own, on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

from tests.run_program import DEADLINE, ROOT, TELLING, until
from virnucpro_exporter.cluster.agent import Job
from virnucpro_exporter.cluster.connect import existing
from virnucpro_exporter.cluster.letters import Place
from virnucpro_exporter.cluster.pool import DaskPool
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot


class FakeNode:
    """A node with one GPU, on which the Dask workers are CPU slots unless told."""

    def place(self) -> Place:
        """A CPU slot, or the GPU that the test wants."""
        return Place(os.environ.get("TEST_GPU") or None, "CPU", "")

    def gpus(self) -> GpuSnapshot:
        """A busy GPU that was read a second ago, on a clock of its own."""
        sample = GpuSample(time.time() - 1.0, utilization_ratio=0.5, foreign_processes=0)
        return GpuSnapshot(time.time(), "nvitop", (GpuDevice("0", up=True, sample=sample),))

    def close(self) -> None:
        """Nothing is watched."""


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it; none when it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def are_dead(processes: Iterable[psutil.Process]) -> bool:
    """Whether all have ended, be it that nobody has asked how."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    return False  # one has just ended; ask again


class DaskCluster:
    """A scheduler, and workers to be added; all are gone at the end of the context.

    Args:
        address: At which the scheduler listens.
        enter: What its command line begins with, to run elsewhere.
        environment: Of all its processes.

    Attributes:
        file: In which the scheduler has written its address.
        log: What the scheduler and the workers tell.
        workers: The processes.
    """

    def __init__(
        self, address: str = "127.0.0.1", enter: Sequence[str] = (), **environment: str
    ) -> None:
        self._environment = environment
        self._folder = tempfile.TemporaryDirectory(prefix="dask-")
        self.file = Path(self._folder.name) / "scheduler.json"
        self.log = Path(self._folder.name) / "log"
        self.workers: list[subprocess.Popen[bytes]] = []
        options = [
            f"--host={address}",
            "--port=0",
            "--no-dashboard",
            f"--scheduler-file={self.file}",
        ]
        self.scheduler = self._start(enter, "distributed.cli.dask_scheduler", *options)
        until(lambda: self.file.exists() and self.file.stat().st_size)

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return str(json.loads(self.file.read_text())["address"])

    def _start(
        self, enter: Sequence[str], module: str, *options: str, **environment: str
    ) -> subprocess.Popen[bytes]:
        with self.log.open("a") as log:
            return subprocess.Popen(
                [*enter, sys.executable, "-m", module, *options],
                cwd=ROOT,
                env={**os.environ, **TELLING, **self._environment, **environment},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def add_worker(
        self,
        node: str = "here",
        *,
        host: str = "127.0.0.1",
        enter: Sequence[str] = (),
        nanny: bool = False,
        threads: int = 1,
        options: Sequence[str] = (),
        **environment: str,
    ) -> subprocess.Popen[bytes]:
        """Start a worker, which joins when it is up.

        Args:
            node: What it calls its node.
            host: The address of the node.
            enter: What its command line begins with, to run elsewhere.
            nanny: Whether another process starts it, and starts it again when it dies.
            threads: How many it has.
            options: More options of `dask worker`.
            environment: More of it.
        """
        worker = self._start(
            enter,
            "distributed.cli.dask_worker",
            f"--scheduler-file={self.file}",
            f"--nthreads={threads}",
            "--nanny" if nanny else "--no-nanny",
            "--no-dashboard",
            "--memory-limit=0",
            f"--host={host}",
            f"--local-directory={self._folder.name}",
            *options,
            **{"VIRNUCPRO_NODE_NAME": node, "CUDA_VISIBLE_DEVICES": "", **environment},
        )
        self.workers.append(worker)
        return worker

    def wait(self, count: int) -> None:
        """Wait until so many workers have joined."""
        with Client(self.address) as client:
            client.wait_for_workers(count, timeout=DEADLINE)

    def pool(
        self,
        spec: dict[str, Any],
        folder: Path,
        probe: str | None = None,
        node: str = "tests.dask_cluster:FakeNode",
        cwd: str = str(ROOT),
        **options: Any,
    ) -> DaskPool:
        """A pool on this cluster, of the processors for tests; options as `DaskPool` has them."""
        seen = folder / ".virnucpro" / "probe"
        seen.parent.mkdir(exist_ok=True)
        seen.write_text("here")
        job = Job(
            spec=spec,
            factory="tests.processors_for_tests:scripted",
            node=node,
            attempts=str(folder),
            logs=str(folder),
            folder=cwd,
            probe=probe or str(seen),
            token="here",  # noqa: S106 - no secret
            lease=options.get("silence", 60.0),
            look_seconds=0.1,
        )
        return DaskPool(lambda: existing(None, str(self.file)), job, **options)

    def __enter__(self) -> DaskCluster:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            for member in family(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()
        self._folder.cleanup()
