"""A node of a Dask cluster in one process, with a Dask worker for each of its virtual GPUs.

Started by `benchmarks.cluster`: python -m benchmarks.virtual_node SCHEDULER NAME GPUS
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack

import dask
from distributed import Worker

from virnucpro_exporter.cluster.post import NODE_VARIABLE


async def serve(scheduler: str, name: str, gpus: int) -> None:
    """Be the node until killed.

    Args:
        scheduler: The address of the Dask scheduler.
        name: Of the node.
        gpus: How many it has.
    """
    os.environ[NODE_VARIABLE] = name
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        dask.config.set(temporary_directory=folder)
        async with AsyncExitStack() as stack:
            for number in range(gpus):
                worker = Worker(
                    scheduler, nthreads=1, memory_limit=0, name=f"{name}-{number}", dashboard=False
                )
                await stack.enter_async_context(worker)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
