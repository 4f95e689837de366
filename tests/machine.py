"""A machine of its own: `serve`, and runs that announce themselves to it."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from tests.run_program import PROGRAM, READS, ROOT, address, ask


class Machine:
    """A machine of its own: a folder for runs, and what `serve` remembers.

    Args:
        folder: For all of it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.registry = folder / "registry"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Machine:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, command: str, *words: str | Path) -> subprocess.Popen[str]:
        """Start a command; it does not outlive the test."""
        process = subprocess.Popen(
            [*PROGRAM, command, f"--run-registry={self.registry}", *words],
            cwd=ROOT,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._stack.callback(_end, process)
        return process

    def serve(self) -> tuple[subprocess.Popen[str], str]:
        """Start `serve`; its process and address."""
        words = ["--web-listen-address=127.0.0.1:0", f"--state-dir={self._folder / 'state'}"]
        process = self.start("serve", "--simulate-gpus=2", *words)
        return process, address(process)

    def run(self, name: str, command: str, *words: str) -> subprocess.Popen[str]:
        """Start a run of a shell command for each file."""
        output = self._folder / name
        fixed = ["--gpus=cpu:1", "--no-dashboard", f"--output={output}", *words]
        return self.start("run", READS, *fixed, "--", "sh", "-c", command)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def results(where: str) -> dict[str, str]:
    """How each run ended, as `serve` tells."""
    found = {}
    for line in ask(where, "/metrics")[1].splitlines():
        if line.startswith("virnucpro_run_result{") and line.endswith(" 1.0"):
            labels = dict(part.split("=") for part in line[line.index("{") + 1 : -5].split(","))
            found[labels["run"].strip('"')] = labels["result"].strip('"')
    return found
