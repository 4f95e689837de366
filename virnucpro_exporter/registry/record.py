"""The record of a run: encoding, and decoding of untrusted bytes.

Any user can write an entry. So its size is bounded, texts are sanitized and truncated, numbers are
checked to be finite, and a record that would disturb the metrics of other runs is rejected.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from virnucpro_exporter.snapshot import DURATION_BUCKETS, DurationHistogram, RunSnapshot
from virnucpro_exporter.text import clean

LONGEST_ENTRY = 4 * 2**20  # bytes; a run on a thousand GPUs needs a third of it
LONGEST_STATE = 16 * 2**20  # bytes; with names of files and errors

_DEEPEST = 12
_LONGEST_TEXT = 1000  # characters
_LONGEST_LABEL = 120
_LARGEST = 1e18
_MOST_WORKERS = 4096
_MOST_FAILURES = 20  # that are sent
_MOST_STEALS = 20_000  # pairs


class RecordError(ValueError):
    """The record of a run cannot be used."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a run's own metrics.

    Attributes:
        port: The TCP port.
        path: The path of the metrics.
        scheme: `http` or `https`.
        is_local: Whether only programs on this machine can connect.
    """

    port: int
    path: str = "/metrics"
    scheme: str = "http"
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a run.

    Attributes:
        run: The state of the run.
        origin: A text that identifies the output folder; see `origin_of`.
        address: The address of the run's own metrics, if it serves them.
    """

    run: RunSnapshot
    origin: str = ""
    address: Address | None = None


_ADAPTER = TypeAdapter(Record)


def origin_of(folder: str) -> str:
    """A short text that stands for an output folder, and does not show its path."""
    return hashlib.sha256(folder.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def encode(record: Record) -> bytes:
    """A record as JSON, with the newest failures only."""
    run = replace(record.run, failures=record.run.failures[-_MOST_FAILURES:])
    return json.dumps(replace(record, run=run), default=_plain).encode()


def public(record: Record) -> Record:
    """The record without names of files and texts of errors, which any user may read."""
    end = record.run.end
    workers = tuple(
        replace(
            worker,
            current_file=None,
            durations=DurationHistogram(worker.durations.counts, worker.durations.total_seconds),
        )
        for worker in record.run.workers
    )
    return replace(
        record,
        run=replace(
            record.run,
            workers=workers,
            recent_steals=(),
            failures=(),
            end=None if end is None else replace(end, reason=""),
        ),
    )


def decode(data: bytes) -> Record:
    """Decode and check a record.

    Raises:
        RecordError: It cannot be decoded, or must not be shown.
    """
    try:
        values = _harmless(json.loads(data), 0)
        record = _ADAPTER.validate_python(values)
    except (ValidationError, ValueError, RecursionError) as error:
        raise RecordError(f"it cannot be read: {type(error).__name__}") from error
    run, address = record.run, record.address
    if why := next(_faults(run), ""):
        raise RecordError(why)
    if address is not None and not (
        0 < address.port < 65536
        and address.scheme in ("http", "https")
        and address.path.startswith("/")
    ):
        raise RecordError("its address is invalid")
    return record


def _faults(run: RunSnapshot) -> Iterator[str]:
    """The reasons why a state must not be shown."""
    if not run.name:
        yield "it has no name"
    labels = [run.name, run.run_id, run.processor, run.balancer]
    labels += [worker.gpu for worker in run.workers]
    labels += [
        gpu for pairs in (run.steals, run.stolen_residues) for pair, _ in pairs for gpu in pair
    ]
    if any(len(label) > _LONGEST_LABEL for label in labels):
        yield "a name in it is too long"
    gpus = {worker.gpu for worker in run.workers}
    if len(gpus) < len(run.workers):
        yield "two workers have the same name"
    if len(gpus) > _MOST_WORKERS or len(run.steals) + len(run.stolen_residues) > _MOST_STEALS:
        yield "it has too many workers"
    buckets = len(DURATION_BUCKETS) + 1
    for worker in run.workers:
        kept = worker.durations
        if len(kept.counts) != buckets or len(kept.exemplars) != buckets:
            yield "it comes from another version of this program; use one version for all"


def _plain(value: Any) -> Any:
    """A dataclass as a table, an enumeration as its value."""
    if isinstance(value, enum.Enum):
        return value.value
    return {name: getattr(value, name) for name in value.__slots__}


def _harmless(value: Any, depth: int) -> Any:
    """A JSON value with sanitized texts; refuses huge or non-finite numbers and deep nesting."""
    if isinstance(value, str):
        return clean(value[:_LONGEST_TEXT])
    if isinstance(value, float | int):
        if not abs(value) <= _LARGEST:  # nor NaN
            raise RecordError("a number in it is too large")
        return value
    if value is None:
        return None
    if depth == _DEEPEST:
        raise RecordError("it is nested too deeply")
    if isinstance(value, list):
        return [_harmless(item, depth + 1) for item in value]
    return {key: _harmless(item, depth + 1) for key, item in value.items()}
