"""GPU values from the `nvidia-smi` program, for machines where NVML itself cannot be used."""

from __future__ import annotations

import logging
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
from virnucpro_exporter.snapshot import ECC_KINDS, THROTTLE_BITS
from virnucpro_exporter.text import clean

_log = logging.getLogger(__name__)

_MIB = 1024 * 1024
_MHZ = 1e6


@dataclass(frozen=True, slots=True)
class _Value:
    """A value, the columns that it is made of, and how.

    Attributes:
        name: Of the `GpuSample` field.
        columns: Names that `--query-gpu` accepts.
        convert: Makes the value of their cells; raises ValueError.
    """

    name: str
    columns: tuple[str, ...]
    convert: Callable[..., Any]


def _number(cell: str) -> float:
    number = float(cell)
    if not math.isfinite(number):
        raise ValueError(cell)
    return number


def _share(cell: str) -> float:
    return _number(cell) / 100


def _bytes(cell: str) -> int:
    return int(_number(cell) * _MIB)


def _clock(cell: str) -> float:
    return _number(cell) * _MHZ


def _state(cell: str) -> int:
    return int(cell.removeprefix("P"))


def _reasons(cell: str) -> frozenset[str]:
    bits = int(cell, 16)
    return frozenset(name for bit, name in THROTTLE_BITS.items() if bits & bit)


def _errors(*cells: str) -> dict[str, int]:
    return {kind: int(cell) for kind, cell in zip(ECC_KINDS, cells, strict=True)}


def _pages(single: str, double: str) -> dict[str, int]:
    return {"single_bit": int(single), "double_bit": int(double)}


def _flag(cell: str) -> bool:
    """Whether a cell is true, as a word or as a number."""
    return {"yes": True, "no": False}[cell.lower()] if cell.isalpha() else int(cell) > 0


def _ecc(when: str) -> tuple[str, ...]:
    return tuple(f"ecc.errors.{kind}.{when}.total" for kind in ECC_KINDS)


_CORE = (
    _Value("utilization_ratio", ("utilization.gpu",), _share),
    _Value("memory_used_bytes", ("memory.used",), _bytes),
    _Value("memory_size_bytes", ("memory.total",), _bytes),
    _Value("temperature_celsius", ("temperature.gpu",), _number),
    _Value("power_watts", ("power.draw",), _number),
)
# Not every driver has all of these, and one unknown column fails the whole query: only those that
# `--help-query-gpu` lists are queried. Of two values with one name, the first that it lists.
_EXTRAS = (
    _Value("memory_copy_ratio", ("utilization.memory",), _share),
    _Value("power_limit_watts", ("enforced.power.limit",), _number),
    _Value("sm_clock_hertz", ("clocks.current.sm",), _clock),
    _Value("throttle_reasons", ("clocks_event_reasons.active",), _reasons),
    _Value("throttle_reasons", ("clocks_throttle_reasons.active",), _reasons),
    _Value("memory_clock_hertz", ("clocks.current.memory",), _clock),
    _Value("sm_clock_max_hertz", ("clocks.max.sm",), _clock),
    _Value("memory_clock_max_hertz", ("clocks.max.memory",), _clock),
    _Value("memory_temperature_celsius", ("temperature.memory",), _number),
    _Value("fan_ratio", ("fan.speed",), _share),
    _Value("performance_state", ("pstate",), _state),
    _Value("ecc_errors", _ecc("volatile"), _errors),
    _Value("ecc_lifetime_errors", _ecc("aggregate"), _errors),
    _Value("remapped_rows", ("remapped_rows.correctable", "remapped_rows.uncorrectable"), _errors),
    _Value("row_remap_pending", ("remapped_rows.pending",), _flag),
    _Value("row_remap_failed", ("remapped_rows.failure",), _flag),
    _Value(
        "retired_pages",
        ("retired_pages.single_bit_ecc.count", "retired_pages.double_bit.count"),
        _pages,
    ),
    _Value("retired_pages_pending", ("retired_pages.pending",), _flag),
)
# Without one of these the other values of its query still stand.
_OPTIONAL = frozenset(
    ("memory_copy_ratio", "row_remap_pending", "row_remap_failed", "retired_pages_pending")
)
_IDENTITY = ("index", "uuid", "driver_version", "pci.bus_id")
_LISTED = re.compile(r'"([a-z0-9_.]+)"')


def known_values(help_text: str) -> tuple[_Value, ...]:
    """Which of the values that not every driver has can be queried.

    Args:
        help_text: What `--help-query-gpu` printed.
    """
    listed = frozenset(_LISTED.findall(help_text))
    known: dict[str, _Value] = {}
    for value in _EXTRAS:
        if listed.issuperset(value.columns):
            known.setdefault(value.name, value)
    return tuple(known.values())


def _columns(values: tuple[_Value, ...]) -> tuple[str, ...]:
    """The columns of a query. The name comes last: it is not quoted.

    A comma in it, or a decimal comma, makes a row too long.
    """
    return (*_IDENTITY, *(column for value in values for column in value.columns), "name")


_LOST = "[GPU is lost]"
_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")
_WORDS = {
    "[N/A]": NOT_SUPPORTED,
    "N/A": NOT_SUPPORTED,
    "[Not Supported]": NOT_SUPPORTED,
    "[Insufficient Permissions]": NO_PERMISSION,
    "[GPU requires reset]": RESET_REQUIRED,
    _LOST: GPU_IS_LOST,
    "[Timeout]": TIMEOUT,
}
# A row has about 300 bytes, the help 20 KiB, and no machine has five hundred GPUs.
_MOST_BYTES = 2**18
_MOST_QUOTED = 120  # characters of a line that is quoted in a message

_EXITS = {
    9: "the NVIDIA driver is not loaded",
    18: "the NVIDIA driver and library versions do not match; reboot, or reload the driver",
}


@dataclass(frozen=True, slots=True)
class Table:
    """The output of one run.

    Attributes:
        gpus: The GPUs and their values, by uuid.
        lost: Rows of lost GPUs, which do not identify them.
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


def parse(text: str, values: tuple[_Value, ...] = _CORE) -> Table:
    """The rows of a successful run. One without exactly the columns requested is refused.

    Args:
        text: The output.
        values: What was requested.

    Raises:
        SourceError: There are rows, and none of them is a GPU's.
    """
    gpus, lost, refused = {}, 0, ""
    columns = _columns(values)
    for line in filter(str.strip, text.splitlines()):
        cells = [cell.strip() for cell in line.split(",")]
        if set(cells) == {_LOST}:
            lost += 1
        elif len(cells) == len(columns) and cells[0].isdecimal() and _UUID.fullmatch(cells[1]):
            row = dict(zip(columns, cells, strict=True))
            found = Found(
                row["index"], row["uuid"], row["name"], row["pci.bus_id"], row["driver_version"]
            )
            gpus[found.uuid] = (found, _reading(row, values))
        else:
            refused = refused or line
    if refused and not (gpus or lost):
        raise SourceError(f"nvidia-smi printed no table of GPUs: {_quoted(refused)}")
    return Table(gpus, lost, refused)


def _reading(row: Mapping[str, str], asked: tuple[_Value, ...]) -> Reading:
    values: dict[str, Any] = {}
    faults: dict[str, int] = {}
    for value in asked:
        cells = [row[column] for column in value.columns]
        try:
            values[value.name] = value.convert(*cells)
        except (ValueError, KeyError):
            if value.name not in _OPTIONAL:
                words = (_WORDS[cell] for cell in cells if cell in _WORDS)
                faults[query_of(value.name)] = next(words, UNKNOWN)
    values = {name: value for name, value in values.items() if query_of(name) not in faults}
    return Reading(values, faults, is_free=True)


class NvidiaSmiSource:
    """Runs `nvidia-smi` at most once per `max_age`, for all GPUs together.

    Args:
        program: Its path or name.
        timeout: Seconds after which a run is killed.
        max_age: Seconds for which the output of one run serves all GPUs.
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
        self._program = program
        self._extras: tuple[_Value, ...] | None = None  # None until the program was queried
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
        """The values of the latest run; what it has no column for is not supported.

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
        """Never any: the program does not report events."""

    def close(self) -> None:
        """Nothing is held between two runs."""

    def _refresh(self) -> None:
        self._table, self._ran_at = Table(), self._clock()
        try:
            self._table = self._query()
            if self._extras is None and self._table.gpus:
                self._table = self._with_extras(self._table)
            self._error = ""
        except SourceError as error:
            self._extras = None  # perhaps of another driver by now
            self._table, self._error = Table(), str(error)
            raise

    def _query(self) -> Table:
        values = (*_CORE, *(self._extras or ()))
        query = f"--query-gpu={','.join(_columns(values))}"
        return parse(self._run(query, "--format=csv,noheader,nounits"), values)

    def _with_extras(self, core: Table) -> Table:
        """Find this driver's values beyond the core, and query them; the core if that fails."""
        try:
            self._extras = known_values(self._run("--help-query-gpu"))
            return self._query()
        except SourceError as error:
            self._extras = ()
            _log.warning("no GPU health from nvidia-smi: %s", error)
            return core

    def _run(self, *arguments: str) -> str:
        if self._stuck is not None and self._stuck.poll() is None:
            raise SourceError("nvidia-smi hangs and cannot be killed")
        try:
            process = subprocess.Popen(  # noqa: S603 - fixed arguments
                [self._program, *arguments],
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
        """All that it prints, until it has ended; within limits of size and time."""
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
            raise SourceError(f"nvidia-smi did not answer within {self._timeout:g} s") from error
        return bytes(output)


def _quoted(line: str) -> str:
    return clean(line.strip())[:_MOST_QUOTED]
