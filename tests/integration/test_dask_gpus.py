"""Dask workers on GPUs, of which each may see some only, counted from 0, as SLURM has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dask_cluster import DaskCluster
from tests.nvml_stub.stub import NvmlStub
from tests.run_program import PROGRAM, QUIET, READS, call, until
from virnucpro_exporter.cluster.nodes import NodeGpus
from virnucpro_exporter.cluster.pool import DaskPool
from virnucpro_exporter.scheduling.events import WorkerJoined

NODE = "virnucpro_exporter.app.cluster_node:ClusterNode"

# Dask's own look at the GPUs needs functions that the stand-in does not have.
NO_LOOK = {"DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False"}


class Views:
    """What processes see of the GPUs of their nodes.

    Args:
        library: The stand-in NVML.
        folder: For its state files.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        self._library = library
        self._folder = folder

    def of(self, node: str, *gpus: int, shows: str = "0") -> dict[str, Any]:
        """The environment of a process that sees these GPUs, and is shown some of them."""
        state = self._folder / "-".join([node, *map(str, gpus)])
        lines = [f"count {len(gpus)}"]
        for index, gpu in enumerate(gpus):
            lines += [
                f"map{index} {gpu}",
                f"g{gpu}.uuid GPU-{node}{gpu}",
                f"g{gpu}.util {10 + gpu}",
            ]
        state.write_text("\n".join(lines) + "\n")
        return {
            "LD_LIBRARY_PATH": str(self._library.parent),
            "NVML_STUB_STATE": str(state),
            "CUDA_VISIBLE_DEVICES": shows,
        }


def wait_for(pool: DaskPool, *gpus: str) -> None:
    """Wait until these workers have joined, and nobody else."""
    joined: list[str] = []

    def have_joined() -> bool:
        joined.extend(
            event.worker_id for event in pool.poll(0.05) if isinstance(event, WorkerJoined)
        )
        return len(joined) >= len(gpus)

    until(have_joined)
    assert sorted(joined) == sorted(gpus)


def test_gpus_that_are_all_number_0_are_told_apart(tmp_path: Path, nvml_library: Path) -> None:
    """Each is one worker and has one series of its own values, also after its node came back."""
    views, gpus = Views(nvml_library, tmp_path), NodeGpus()

    def seen() -> dict[str, float | None]:
        devices = gpus.latest().devices
        return {d.gpu: d.sample.utilization_ratio if d.sample else None for d in devices}

    there = [("one", 1), ("one", 2), ("one", 3), ("two", 0), ("two", 1)]
    with DaskCluster(**NO_LOOK) as cluster:
        first = cluster.add_worker("one", **views.of("one", 1))
        cluster.add_worker("one", **views.of("one", 3))
        cluster.add_worker("one", **views.of("one", 2, 1, 3))
        # Lists as dask-cuda rotates them.
        cluster.add_worker("two", **views.of("two", 0, 1, shows="0,1"))
        cluster.add_worker("two", **views.of("two", 0, 1, shows="1,0"))
        pool = cluster.pool({}, tmp_path, node=NODE, gpus=gpus)
        try:
            wait_for(pool, "one/1", "one/2", "one/3", "two/0", "two/1")
            everything = {f"{node}/{gpu}": (10 + gpu) / 100 for node, gpu in there}
            until(lambda: seen() == everything)
            first.kill()
            cluster.add_worker("one", **views.of("one", 1))
            wait_for(pool, "one/1")
            until(lambda: seen() == everything)
        finally:
            pool.close()


def test_a_cluster_of_its_own_on_gpus(
    tmp_path: Path, nvml_stub: NvmlStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--dask-local` uses the GPUs of this machine, whatever Dask itself would ask of them."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(nvml_stub.library).parent))
    nvml_stub.set(count=2)
    words: list[str | Path] = ["run", *QUIET, "--dask-local=2", "--output", tmp_path / "out"]
    done = call([*PROGRAM, *words, READS])
    assert done.returncode == 0, done.stderr
    assert "12 files done, 0 failed" in done.stdout
