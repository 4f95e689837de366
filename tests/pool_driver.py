"""One worker of the real pool, driven by a test."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.facts import start
from virnucpro_exporter.scheduling.events import Event
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.workers.local_pool import LocalPool

FACTORY = "tests.processors_for_tests:scripted"
DEADLINE = 100


def until(condition: Callable[[], object]) -> None:
    """Wait for something that has to happen."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Driver:
    """One worker, and what it told."""

    def __init__(self, folder: Path, spec: dict[str, Any], factory: str = FACTORY) -> None:
        self.attempts = folder / "attempts"
        self.attempts.mkdir()
        self.pool = LocalPool(
            spec,
            factory,
            self.attempts,
            folder,
            {"a": {"PINNED": "pin"}},
            look_seconds=0.1,
            uses_gpu=lambda gpu: bool(spec.get("uses_gpu")) and gpu == "a",
        )
        self.pool.spawn("a")

    def start(self, *names: str, first: int = 1) -> None:
        """Hand these files to the worker, with attempts numbered from `first`."""
        files = [start("a", i, SequenceFile(name)) for i, name in enumerate(names, first)]
        self.pool.start("a", files)

    def wait(self, kind: type[Event], number: int = 1) -> list[Any]:
        """The first events of a kind; others are dropped."""
        found: list[Any] = []
        end = time.monotonic() + DEADLINE
        while len(found) < number:
            assert time.monotonic() < end, found
            found += [event for event in self.pool.poll(0.1) if isinstance(event, kind)]
        return found

    @property
    def pid(self) -> int:
        """The worker's process."""
        return self.pool._workers["a"].process.pid
