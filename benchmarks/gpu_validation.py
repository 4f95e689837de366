"""The monitor's values beside those of nvidia-smi, at the same moments, on real GPUs under load.

Run: python -m benchmarks.gpu_validation [--moments 60] [--load torch | none | "COMMAND ..."]

For each GPU the load is started once, with that GPU alone in CUDA_VISIBLE_DEVICES; `torch` is a
matrix product that works for two seconds and rests for two, so that low values are seen, too. Then,
moment by moment, nvidia-smi is run, and its answer is held beside the nearest sample of the
monitor. The table is Markdown, for docs/gpu-validation.md.

Ends with 0 when all values agree, 1 when some do not or the load cannot be started, 2 when the load
ends too soon, 3 without GPUs.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from virnucpro_exporter.gpu.describe import why_no_gpus
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.gpu.nvidia_smi import NvidiaSmiSource
from virnucpro_exporter.gpu.sources import CORE, SourceError
from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot

_MATMUL = """
import time, torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
while True:
    end = time.monotonic() + 2
    while time.monotonic() < end:
        for _ in range(20): b = a @ a
        torch.cuda.synchronize()
    time.sleep(2)
"""
_ENOUGH = 0.95  # share of the moments that must agree; a load changes between two looks


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two values may be apart: by an amount, or by a share of nvidia-smi's."""

    title: str
    unit: str
    scale: float
    amount: float = 0.0
    share: float = 0.0

    def allows(self, ours: float, theirs: float) -> bool:
        """Whether the values agree."""
        return abs(ours - theirs) <= self.amount / self.scale + self.share * abs(theirs)


TOLERANCES: Mapping[str, Tolerance] = {
    "utilization_ratio": Tolerance("utilisation", "points", 100, amount=10),
    "memory_used_bytes": Tolerance("memory in use", "MiB", 1 / 2**20, share=0.01),
    "temperature_celsius": Tolerance("temperature", "degrees", 1, amount=2),
    "power_watts": Tolerance("power", "W", 1, share=0.10),
}
Pairs = dict[str, list[tuple[float, float]]]


@contextmanager
def load(command: str, gpus: Sequence[GpuDevice]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The command, running once on each GPU."""
    words = [sys.executable, "-c", _MATMUL] if command == "torch" else shlex.split(command)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for gpu in gpus if command != "none" else ():
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu.uuid}
            try:
                process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL)
            except OSError as error:
                sys.exit(f"the load cannot be started: {error}")
            started.append(process)
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def nearest(samples: Sequence[GpuSample], timestamp: float) -> GpuSample:
    """The sample taken closest to a moment."""
    return min(samples, key=lambda sample: abs(sample.timestamp - timestamp))


def look(monitor: GPUMonitor, smi: NvidiaSmiSource, interval: float) -> dict[str, Pairs]:
    """One moment: by uuid and value, the monitor's and nvidia-smi's."""
    seen: dict[str, list[GpuSample]] = defaultdict(list)

    def note(snapshot: GpuSnapshot) -> None:
        for device in snapshot.devices:
            if device.sample is not None:
                seen[device.uuid].append(device.sample)

    note(monitor.latest())
    begin = time.time()
    found = smi.open()
    middle = (begin + time.time()) / 2
    time.sleep(interval)
    note(monitor.latest())
    moment: dict[str, Pairs] = {}
    for gpu in found:
        values = smi.read(gpu.uuid, CORE).values
        sample = nearest(seen[gpu.uuid], middle) if seen[gpu.uuid] else None
        moment[gpu.uuid] = {
            name: [(getattr(sample, name), values[name])]
            for name in TOLERANCES
            if name in values and getattr(sample, name, None) is not None
        }
    return moment


def row(device: GpuDevice, name: str, pairs: Sequence[tuple[float, float]]) -> tuple[str, bool]:
    """One line of the table, and whether enough of the moments agree."""
    tolerance = TOLERANCES[name]
    if not pairs:
        return f"| {device.gpu} | {device.name} | {tolerance.title} | 0 | | | | not given |", True
    apart = sorted(tolerance.scale * abs(ours - theirs) for ours, theirs in pairs)
    agreed = sum(tolerance.allows(*pair) for pair in pairs) / len(pairs)
    theirs = [tolerance.scale * value for _, value in pairs]
    cells = (
        device.gpu,
        device.name,
        tolerance.title,
        str(len(pairs)),
        f"{min(theirs):.1f} to {max(theirs):.1f} {tolerance.unit}",
        f"{apart[len(apart) // 2]:.1f}",
        f"{apart[-1]:.1f}",
        f"{agreed:.0%}",
    )
    return f"| {' | '.join(cells)} |", agreed >= _ENOUGH


def report(devices: Sequence[GpuDevice], pairs: Mapping[str, Pairs]) -> int:
    """Print the table; 0 when all agrees."""
    today = dt.datetime.now(dt.timezone.utc).date()
    drivers = ", ".join(sorted({device.driver_version for device in devices}))
    print(f"\nDriver {drivers}, Linux {os.uname().release}, {today}\n")
    print("| GPU | model | value | moments | range | median apart | most apart | agree |")
    print("|---|---|---|---|---|---|---|---|")
    wrong = []
    for device in devices:
        for name in TOLERANCES:
            line, is_good = row(device, name, pairs.get(device.uuid, {}).get(name, []))
            print(line)
            if not is_good:
                wrong.append(f"GPU {device.gpu}: {TOLERANCES[name].title}")
    if wrong:
        print("\nNot within the tolerance: " + "; ".join(wrong), file=sys.stderr)
    return int(bool(wrong))


def main() -> int:
    """Measure, print, and return whether all values agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=60)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds, of the monitor")
    parser.add_argument("--warm-up", type=float, default=15.0, help="seconds of load before")
    parser.add_argument("--load", default="torch", help="torch, none, or a command")
    parser.add_argument("--program", default="nvidia-smi")
    options = parser.parse_args()
    smi = NvidiaSmiSource(options.program, timeout=30.0, max_age=float("inf"))
    with GPUMonitor(options.interval) as monitor:
        snapshot = monitor.wait(30.0)
        devices = [d for d in snapshot.devices if d.up and ":" not in d.gpu]
        if not devices or snapshot.backend != "nvitop":
            print(f"no GPU to compare: {why_no_gpus(snapshot) or 'no NVML'}", file=sys.stderr)
            return 3
        pairs: dict[str, Pairs] = defaultdict(lambda: defaultdict(list))
        with load(options.load, devices) as loads:
            time.sleep(options.warm_up)
            for _ in range(options.moments):
                if any(process.poll() is not None for process in loads):
                    print("the load has ended; give another with --load", file=sys.stderr)
                    return 2
                try:
                    moment = look(monitor, smi, options.interval)
                except SourceError as error:
                    print(f"nvidia-smi: {error}", file=sys.stderr)
                    return 3
                for uuid, values in moment.items():
                    for name, new in values.items():
                        pairs[uuid][name] += new
        return report(devices, pairs)


if __name__ == "__main__":
    sys.exit(main())
