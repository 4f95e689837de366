"""`virnucpro-exporter simulate` in a process of its own, to be scraped."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.monitoring.programs import eventually
from tests.run_program import PROGRAM, ROOT

if TYPE_CHECKING:
    from typing_extensions import Self

_METRICS = re.compile(r"metrics: http://(\S+)/metrics")


class Simulated:
    """A simulation, at the address that it chose; it serves its end until it is left.

    Args:
        folder: For its output; made if there is none.
        options: Of the command.

    Attributes:
        address: Host and port of its metrics, once it is entered.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = ""
        self._options = options
        self._log = folder / "log"

    def __enter__(self) -> Self:
        fixed = ("--web-listen-address=127.0.0.1:0", "--linger=3600", "--no-dashboard")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*PROGRAM, "simulate", *self._options, *fixed], cwd=ROOT, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        status = self._process.wait(60)
        assert status == 0, self._log.read_text()

    def wait(self) -> str:
        """The address, once it listens."""
        self.address = eventually(self._listening, self._log.read_text)
        return self.address

    def _listening(self) -> str:
        assert self._process.poll() is None, self._log.read_text()
        found = _METRICS.search(self._log.read_text())
        return found[1] if found else ""
