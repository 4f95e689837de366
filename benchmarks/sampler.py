"""What watching GPUs costs, beside nvitop, and how old a value is when it is shown.

Run: python -m benchmarks.sampler [--seconds 30]

All on one stand-in for the NVIDIA library, so this is the cost of Python and of this program, not
of a driver. Times are the best of some rounds in turn; CPU time is that of processes side by side.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import random
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from benchmarks.servers import server
from tests.nvml_stub.stub import build
from virnucpro_exporter.gpu import state
from virnucpro_exporter.gpu.board import Board, Gpu
from virnucpro_exporter.gpu.guard import Guard
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.nvml import NvmlSource
from virnucpro_exporter.gpu.sampler import STALE_AFTER
from virnucpro_exporter.gpu.sources import CORE, HEALTH, Found, Reading
from virnucpro_exporter.gpu.watcher import Watcher
from virnucpro_exporter.snapshot import GpuSample

GPUS = 8


def ways() -> dict[str, Callable[[], object]]:
    """The ways to read the four values of one GPU; they need the stand-in loaded."""
    from nvitop import Device, libnvml  # noqa: PLC0415 - after the stand-in

    guard = Guard(NvmlSource())
    found = (guard.open(patience=0.0) or ())[0]
    board = Board(3.0, time.monotonic, time.time)
    gpu = Gpu("0", state.identified(state.GpuState(found), found))
    board.gpus = (gpu,)
    clocks = (time.monotonic, time.time)
    watcher = Watcher(gpu, guard.read, board, 1.0, HEALTH, *clocks, tuple)
    device = Device(0)
    ask = libnvml.nvmlQuery

    def strict() -> None:
        handle = device.handle
        _ = ask("nvmlDeviceGetUtilizationRates", handle, ignore_errors=False).gpu
        memory = ask("nvmlDeviceGetMemoryInfo", handle, ignore_errors=False)
        _ = memory.used, memory.total
        ask("nvmlDeviceGetTemperature", handle, 0, ignore_errors=False)
        ask("nvmlDeviceGetPowerUsage", handle, ignore_errors=False)

    def methods() -> None:
        device.gpu_utilization()
        device.memory_percent()
        device.temperature()
        device.power_usage()

    return {
        "this program: asked, checked and published": lambda: watcher.sample(CORE),
        "nvitop's nvmlQuery, errors kept": strict,
        "nvitop's Device methods": methods,
    }


def cost_of_a_sample(rounds: int = 30, number: int = 1000) -> None:
    """Four values of one GPU, in each of the ways in turn."""
    print("four values of one GPU (utilisation, memory, temperature, power)")
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways().items():
            seconds = timeit.timeit(way, number=number) / number
            best[name] = min(seconds, best.get(name, seconds))
    for name, seconds in best.items():
        print(f"  {name:<44} {1e6 * seconds:8.1f} us")
    ours, strict, methods = best.values()
    print(f"  ratio to nvmlQuery {ours / strict:.2f} (goal: at most 1.5)")
    print(f"  faster than Device methods {methods / ours:.2f} times (goal: at least 2)")
    with GPUMonitor() as monitor:
        monitor.wait()
        seconds = min(timeit.repeat(lambda: monitor.get_gpu_utilization(0), number=number))
        print(f"  {'get_gpu_utilization, from the cache':<44} {1e6 * seconds / number:8.1f} us")


def cpu_time(pid: int) -> float:
    """Seconds that the threads of a process have run; /proc/PID/stat counts in steps of 10 ms."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def cpu_use(stub: dict[str, str], seconds: float) -> None:
    """CPU time of two exporters that watch the same GPUs once a second, both at the same time."""
    print(f"CPU time to watch {GPUS} GPUs once a second, without scrapes, for {seconds:g} s")
    with server("ours", GPUS, "still", **stub) as (_, ours), server("nvitop", **stub) as (_, peer):
        time.sleep(5.0)  # the start is not what is measured
        before = [cpu_time(process.pid) for process in (ours, peer)]
        time.sleep(seconds)
        after = [cpu_time(process.pid) for process in (ours, peer)]
    used = [1000 * (end - begin) / seconds for begin, end in zip(before, after, strict=True)]
    for name, milliseconds in zip(("this program", "nvitop-exporter"), used, strict=True):
        print(f"  {name:<44} {milliseconds:8.2f} ms/s")
    print(f"  ratio {used[0] / used[1]:.2f} (goal: at most 0.5)")


class Clock:
    """GPUs whose power and power limit are the second at which they were read.

    Some of the questions take long, up to five intervals.
    """

    backend = "clock"

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._random = random.Random(1)
        self.begin = time.monotonic()

    def open(self) -> tuple[Found, ...]:
        """As many as the other measurements have."""
        return tuple(Found(str(i), f"GPU-{i}", "Clock") for i in range(GPUS))

    def lists_more(self) -> bool:
        """Never."""
        return False

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:  # noqa: ARG002 - all alike
        """The second of the question, before it takes long."""
        values = dict.fromkeys(queries, time.monotonic() - self.begin)
        if self._random.random() < 0.1:
            time.sleep(5 * self._interval * self._random.random())
        shown = {name: values[name] for name in values if name.startswith("power")}
        return Reading(shown, {name: 3 for name in values if name not in shown})

    def xids(self, uuid: str) -> None:
        """Never any."""

    def close(self) -> None:
        """Nothing is held."""


def freshness(seconds: float, interval: float = 0.2) -> None:
    """The greatest age of any value that was shown, while GPUs hang now and then."""
    source = Clock(interval)
    names = [f.name for f in fields(GpuSample) if f.name.startswith("power")]
    oldest, shown, hidden, end = 0.0, 0, 0, time.monotonic() + seconds
    with GPUMonitor(interval, source) as monitor:
        monitor.wait()
        while time.monotonic() < end:
            now = time.monotonic() - source.begin  # before the look: it takes a moment itself
            for device in monitor.latest().devices:
                for name in names:
                    value = getattr(device.sample, name) if device.sample else None
                    shown, hidden = shown + (value is not None), hidden + (value is None)
                    oldest = max(oldest, now - (now if value is None else value))
            time.sleep(interval / 50)
    print(f"ages of values, {GPUS} GPUs that hang now and then, one look each {interval / 50:g} s")
    print(f"  {shown:,} values shown, {hidden:,} not")
    print(f"  the oldest was {oldest / interval:.3f} intervals old (goal: at most {STALE_AFTER})")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0, help="for each of two measurements")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        path.write_text(f"count {GPUS}\n")
        library = str(build(Path(folder)))
        stub = {"NVML_STUB_STATE": str(path), "NVML_STUB_FROZEN": "1", "STAND_IN": library}
        os.environ.update(stub)
        ctypes.CDLL(library)
        cost_of_a_sample()
        cpu_use(stub, options.seconds)
    logging.getLogger("virnucpro_exporter").setLevel(logging.ERROR)  # GPUs go down, on purpose
    freshness(options.seconds / 3)


if __name__ == "__main__":
    main()
