"""GPU values from the `nvidia-smi` program, for machines where NVML itself cannot be used."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from virnucpro_exporter.gpu.sources import (
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    TIMEOUT,
    UNKNOWN,
    Found,
    Reading,
    SourceError,
    query_of,
)

# The name comes last: it is not quoted, and a comma in it would shift the other columns.
_COLUMNS = (
    "index,uuid,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw,"
    "driver_version,pci.bus_id,name"
)
_N_COLUMNS = _COLUMNS.count(",") + 1
_MIB = 1024 * 1024
_CELLS: tuple[tuple[str, int, Callable[[float], Any]], ...] = (
    ("utilization_ratio", 2, lambda v: v / 100),
    ("memory_used_bytes", 3, lambda v: int(v * _MIB)),
    ("memory_size_bytes", 4, lambda v: int(v * _MIB)),
    ("temperature_celsius", 5, float),
    ("power_watts", 6, float),
)
_WORDS = {
    "[N/A]": NOT_SUPPORTED,
    "[Not Supported]": NOT_SUPPORTED,
    "[Insufficient Permissions]": NO_PERMISSION,
    "[GPU requires reset]": RESET_REQUIRED,
    "[GPU is lost]": GPU_IS_LOST,
    "[Timeout]": TIMEOUT,
}
_EXITS = {
    9: "the NVIDIA driver is not loaded",
    18: "the NVIDIA driver and library versions do not match; reboot, or reload the driver",
}


def parse(text: str) -> dict[str, tuple[Found, Reading]]:
    """The rows of a successful run, by uuid. A row of a lost GPU names none, and is left out."""
    gpus = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",", _N_COLUMNS - 1)]
        if len(cells) == _N_COLUMNS and cells[0].isdigit() and not cells[1].startswith("["):
            found = Found(cells[0], cells[1], cells[9], cells[8], cells[7])
            gpus[found.uuid] = (found, _reading(cells))
    return gpus


def _reading(cells: list[str]) -> Reading:
    values: dict[str, Any] = {}
    faults: dict[str, int] = {}
    for name, column, convert in _CELLS:
        number = _number(cells[column])
        if number is None:
            faults[query_of(name)] = _WORDS.get(cells[column], UNKNOWN)
        else:
            values[name] = convert(number)
    values = {name: value for name, value in values.items() if query_of(name) not in faults}
    return Reading(values, faults)


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class NvidiaSmiSource:
    """Runs `nvidia-smi` at most once per `max_age`, whichever GPU asks.

    Args:
        program: Its path or name.
        timeout: Seconds after which a run is killed.
        max_age: Seconds for which the answer of one run serves all GPUs.
        clock: Monotonic seconds.
    """

    backend = "nvidia-smi"

    def __init__(
        self,
        program: str = "nvidia-smi",
        timeout: float = 10.0,
        max_age: float = 0.8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = [program, f"--query-gpu={_COLUMNS}", "--format=csv,noheader,nounits"]
        self._timeout = timeout
        self._max_age = max_age
        self._clock = clock
        self._lock = threading.Lock()
        self._gpus: dict[str, tuple[Found, Reading]] = {}
        self._error = ""
        self._ran_at = -math.inf
        self._stuck: subprocess.Popen[bytes] | None = None

    def open(self) -> tuple[Found, ...]:
        """List the GPUs. Raises SourceError when the program fails or lists none."""
        with self._lock:
            self._refresh()
            if not self._gpus:
                raise SourceError("nvidia-smi lists no GPU that answers")
            return tuple(found for found, _ in self._gpus.values())

    def read(self, uuid: str, queries: tuple[str, ...]) -> Reading:
        """The answer of the latest run; what it has no column for is not supported.

        Raises:
            SourceError: The latest run failed.
        """
        with self._lock:
            if self._clock() - self._ran_at > self._max_age:
                self._refresh()
            elif self._error:
                raise SourceError(self._error)
            gpu = self._gpus.get(uuid)
            age = self._clock() - self._ran_at
        if gpu is None:
            return Reading(faults=dict.fromkeys(queries, GPU_IS_LOST), age=age)
        known = gpu[1]
        values = {k: v for k, v in known.values.items() if query_of(k) in queries}
        answered = {query_of(name) for name in values}
        missing = [query for query in queries if query not in answered]
        return Reading(values, {q: known.faults.get(q, NOT_SUPPORTED) for q in missing}, age)

    def close(self) -> None:
        """Nothing is held between two runs."""

    def _refresh(self) -> None:
        self._gpus, self._ran_at = {}, self._clock()
        try:
            self._gpus = parse(self._run())
            self._error = ""
        except SourceError as error:
            self._error = str(error)
            raise

    def _run(self) -> str:
        if self._stuck is not None and self._stuck.poll() is None:
            raise SourceError("nvidia-smi hangs, and cannot even be killed")
        try:
            process = subprocess.Popen(  # noqa: S603 - a fixed command
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise SourceError(f"nvidia-smi cannot be run: {error.strerror}") from error
        try:
            output, _ = process.communicate(timeout=self._timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()
            self._stuck = process  # not waited for: in a call into the driver it may not even die
            raise SourceError(f"nvidia-smi gave no answer in {self._timeout:g} s") from error
        text = output.decode(errors="replace")
        if process.returncode:
            first = text.strip().splitlines()[0] if text.strip() else "no output"
            why = _EXITS.get(process.returncode, first)
            raise SourceError(f"nvidia-smi failed ({process.returncode}): {why}")
        return text
