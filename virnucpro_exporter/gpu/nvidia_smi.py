"""GPU values from the `nvidia-smi` program, for machines where NVML itself cannot be used."""

from __future__ import annotations

import math
import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from virnucpro_exporter.gpu.sources import (
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    TIMEOUT,
    UNKNOWN,
    Found,
    Reading,
    SourceError,
    query_of,
)
from virnucpro_exporter.text import clean

# The name comes last: it is not quoted. A comma in it, or a decimal comma, makes a row too long.
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
_LOST = "[GPU is lost]"
_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")
_WORDS = {
    "[N/A]": NOT_SUPPORTED,
    "[Not Supported]": NOT_SUPPORTED,
    "[Insufficient Permissions]": NO_PERMISSION,
    "[GPU requires reset]": RESET_REQUIRED,
    _LOST: GPU_IS_LOST,
    "[Timeout]": TIMEOUT,
}
# A row has about 150 bytes, and no machine has a thousand GPUs.
_MOST_BYTES = 2**18
_MOST_QUOTED = 120  # characters of a line that is quoted in a message

_EXITS = {
    9: "the NVIDIA driver is not loaded",
    18: "the NVIDIA driver and library versions do not match; reboot, or reload the driver",
}


@dataclass(frozen=True, slots=True)
class Table:
    """What one run printed.

    Attributes:
        gpus: The GPUs and their values, by uuid.
        lost: Rows of lost GPUs, which do not say of which.
        refused: The first row that is none, or empty.
    """

    gpus: Mapping[str, tuple[Found, Reading]] = field(default_factory=dict)
    lost: int = 0
    refused: str = ""

    def absence(self) -> int:
        """The code of a GPU that has no row."""
        if self.lost:
            return GPU_IS_LOST
        return UNKNOWN if self.refused else NOT_FOUND


def parse(text: str) -> Table:
    """The rows of a successful run. One that has not exactly the columns asked for is refused.

    Raises:
        SourceError: There are rows, and none of them is a GPU's.
    """
    gpus, lost, refused = {}, 0, ""
    for line in filter(str.strip, text.splitlines()):
        cells = [cell.strip() for cell in line.split(",")]
        if set(cells) == {_LOST}:
            lost += 1
        elif len(cells) == _N_COLUMNS and cells[0].isdecimal() and _UUID.fullmatch(cells[1]):
            found = Found(cells[0], cells[1], cells[9], cells[8], cells[7])
            gpus[found.uuid] = (found, _reading(cells))
        else:
            refused = refused or line
    if refused and not (gpus or lost):
        raise SourceError(f"nvidia-smi printed no table of GPUs: {_quoted(refused)}")
    return Table(gpus, lost, refused)


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
    return Reading(values, faults, is_free=True)


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
        self._table = Table()
        self._opened: frozenset[str] = frozenset()  # the uuids that the last `open` listed
        self._error = ""
        self._ran_at = -math.inf
        self._stuck: subprocess.Popen[bytes] | None = None

    def open(self) -> tuple[Found, ...]:
        """List the GPUs. Raises SourceError when the program fails or lists none."""
        with self._lock:
            self._refresh()
            if not self._table.gpus:
                raise SourceError("nvidia-smi lists no GPU that answers")
            self._opened = frozenset(self._table.gpus)
            return tuple(found for found, _ in self._table.gpus.values())

    def lists_more(self) -> bool:
        """Whether the latest run lists a GPU that the last `open` did not."""
        return not self._opened.issuperset(self._table.gpus)

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
            table = self._table
            age = self._clock() - self._ran_at
        if uuid not in table.gpus:
            absent = dict.fromkeys(queries, table.absence())
            return Reading(faults=absent, age=age, is_free=True)
        known = table.gpus[uuid][1]
        values = {k: v for k, v in known.values.items() if query_of(k) in queries}
        answered = {query_of(name) for name in values}
        missing = [query for query in queries if query not in answered]
        faults = {query: known.faults.get(query, NOT_SUPPORTED) for query in missing}
        return Reading(values, faults, age, is_free=True)

    def xids(self, uuid: str) -> None:
        """Never any: the program does not tell of events."""

    def close(self) -> None:
        """Nothing is held between two runs."""

    def _refresh(self) -> None:
        self._table, self._ran_at = Table(), self._clock()
        try:
            self._table = parse(self._run())
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
            text = self._output(process).decode(errors="replace")
        except SourceError:
            process.kill()
            self._stuck = process  # not waited for: in a call into the driver it may not even die
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
        if process.returncode:
            first = next(filter(str.strip, text.splitlines()), "no output")
            why = _EXITS.get(process.returncode, _quoted(first))
            raise SourceError(f"nvidia-smi failed ({process.returncode}): {why}")
        return text

    def _output(self, process: subprocess.Popen[bytes]) -> bytes:
        """All that it prints, until it has ended; not more than is believable, nor for longer."""
        if process.stdout is None:
            return b""
        output, descriptor = bytearray(), process.stdout.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        end = time.monotonic() + self._timeout
        while poller.poll(1000 * max(0.0, end - time.monotonic())):
            data = os.read(descriptor, _MOST_BYTES)
            output += data
            if len(output) > _MOST_BYTES:
                raise SourceError(f"nvidia-smi printed more than {_MOST_BYTES // 1024} KiB")
            if not data:
                break
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise SourceError(f"nvidia-smi gave no answer in {self._timeout:g} s") from error
        return bytes(output)


def _quoted(line: str) -> str:
    return clean(line.strip())[:_MOST_QUOTED]
