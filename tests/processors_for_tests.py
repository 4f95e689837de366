"""Processors that real worker processes load in tests."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnucpro_exporter.errors import SequenceFileError
from virnucpro_exporter.processors.base import Processed, ProgressCallback


class Scripted:
    """Does what the name of the file says."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.gpu = ""
        if spec.get("cancel"):
            self.cancel = self._do_not_cancel

    def _do_not_cancel(self, folder: Path | None) -> None:
        """Take notice, and go on."""

    def output_names(self, file: Path) -> Sequence[str]:
        """One output, unless the spec wants none."""
        return (f"{file.name}.out",) if self.spec.get("outputs") else ()

    def setup(self, gpu: str) -> None:
        """Fail or die where the spec says so."""
        self.gpu = gpu
        if self.spec.get("setup") == "raise":
            raise ValueError("no model\nhere")
        if self.spec.get("setup") == "exit":
            os._exit(4)
        if self.spec.get("setup") == "sigkill":
            with Path(self.spec["mark"]).open("a") as mark:
                mark.write("x")
                mark.flush()
                if mark.tell() <= self.spec["times"]:
                    os.kill(os.getpid(), signal.SIGKILL)

    def close(self) -> None:
        """Leave a mark, or hang, where the spec says so."""
        mark = self.spec.get("close")
        if mark == "hang":
            time.sleep(1000)
        elif mark:
            Path(mark).write_text(self.gpu)

    def process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        """Act out the file's name."""
        what = file.name.partition(".")[0]
        if what == "raise":
            raise RuntimeError("bad\nluck")
        if what == "permanent":
            raise SequenceFileError("it is empty")
        if what == "exit":
            os._exit(3)
        if what == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "closechannel":
            os.closerange(3, 256)
            time.sleep(1000)
        if what == "hang":
            subprocess.Popen(["sleep", "1000"])  # noqa: S607 - found on every machine
            time.sleep(0.15)  # a worker passes progress on at most every 0.1 s
            progress(1, 10)
            time.sleep(1000)
        if what in {"compute", "grow", "sleep"}:
            _say_nothing(what, output)
        self._act(what)
        if self.spec.get("outputs"):
            output.write_text(os.environ.get("PINNED", "") + self.gpu)
        return Processed(1, len(file.name))

    def _act(self, what: str) -> None:
        """What a file may do without dying of it."""
        if what == "read":
            Path(self.spec["file"]).read_bytes()
        if what == "leave":
            subprocess.run(["sh", "-c", "setsid sleep 1000 &"], check=True)  # noqa: S607 - likewise
        if what == "signals":
            expect_signals_to_be_ignored()
        if what == "print":
            print("to standard output")  # noqa: T201 - that is what is tested


def expect_signals_to_be_ignored() -> None:
    """What is sent to the whole job is for the program; what is started dies of it as usual."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
        program = subprocess.run(["sh", "-c", f"kill -{number} $$; echo on"], check=False)  # noqa: S607 - likewise
        assert program.returncode == -number
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    forked.start()
    forked.terminate()
    forked.join()
    assert forked.exitcode == -signal.SIGTERM


def _say_nothing(what: str, output: Path) -> None:
    """Never end, and report nothing, whatever is done."""
    while True:
        if what == "grow":
            with output.open("a") as growing:
                growing.write("more")
        if what != "compute":
            time.sleep(0.01 if what == "grow" else 1000)


def scripted(spec: dict[str, Any]) -> Scripted:
    """The factory that the pool's tests name."""
    return Scripted(spec)
