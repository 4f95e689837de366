"""Any program, run once per file, in a process group of its own."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from virnucpro_exporter.errors import ProcessorError, VirnucproError
from virnucpro_exporter.processors.base import Processed, ProgressCallback
from virnucpro_exporter.processors.progress_file import ProgressFile
from virnucpro_exporter.processors.staging import FOLDER, local_file
from virnucpro_exporter.sequences import OpenPart, copy_part
from virnucpro_exporter.workers import orphans

PLACEHOLDERS = ("input", "output", "gpu", "progress")
PLACEHOLDER = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")
PROGRESS_VARIABLE = "VIRNUCPRO_PROGRESS"
LOOK_SECONDS = 0.5  # between two looks at the progress of a command
TAIL_BYTES = 4096
LINE_CHARACTERS = 300
PIPE_SECONDS = 1.0  # for a pipe that a daemon of the command holds open

# Python 3.10 cannot set the process group, and its preexec_fn is unsafe beside threads.
GROUP_LEADER = "import os, sys; os.setpgid(0, 0); os.execvp(sys.argv[1], sys.argv[1:])"


class CommandError(VirnucproError):
    """The command failed."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.args = (message,)


class CommandProcessor:
    """Runs a program on each file; no shell is involved.

    Args:
        argv: The program and its arguments, in which `{input}`, `{output}`, `{gpu}` and
            `{progress}` stand for the file, the place of the result, the worker's id and the file
            into which the program may write how many sequences are done.
        output_suffix: Added to the name of the file, names the result.
        joins: How the results of parts of a file become one (`workers.joining`); None where the
            program needs whole files.

    Attributes:
        joins: The same; None too where there is no `{output}`, so that nothing can be joined.
        shrinks: False: the input of a program that runs cannot be shortened.
    """

    shrinks = False

    def __init__(
        self, argv: Sequence[str], output_suffix: str = ".out", joins: str | None = None
    ) -> None:
        self._argv = tuple(argv)
        self._suffix = output_suffix
        self._has_output = any("{output}" in argument for argument in argv)
        self.joins = joins if self._has_output else None
        self._gpu = ""
        self._lock = threading.Lock()
        self._cancelled: set[Path | None] = set()
        self._child: tuple[Path, int] | None = None

    def check(self) -> None:
        """Check that the program exists, and that no placeholder is misspelt.

        Raises:
            ProcessorError: It does not, or one is.
        """
        if not self._argv:
            raise ProcessorError("the command is empty")
        program = self._argv[0]
        if not PLACEHOLDER.search(program) and shutil.which(program) is None:
            raise ProcessorError(f"command not found: {program}")
        for name in re.findall(r"(?<!\$)\{([A-Za-z]+)\}", " ".join(self._argv)):
            near = difflib.get_close_matches(name.lower(), PLACEHOLDERS, n=1, cutoff=0.75)
            if name not in PLACEHOLDERS and near:
                raise ProcessorError(f"{{{name}}} in the command: did you mean {{{near[0]}}}?")

    def output_names(self, file: Path) -> Sequence[str]:
        """The file's name with the suffix; nothing where the command has no `{output}`."""
        return (file.name + self._suffix,) if self._has_output else ()

    def setup(self, gpu: str) -> None:
        """Store the worker's id, and check the command."""
        self.check()
        self._gpu = gpu

    def close(self) -> None:
        """Nothing to give back."""

    def cancel(self, folder: Path | None) -> None:
        """Kill the command of the attempt with this folder, now or once it starts; None: any."""
        with self._lock:
            self._cancelled.add(folder)
            if self._child is not None and folder in (None, self._child[0]):
                _kill_group(self._child[1])

    def process(self, file: Path | OpenPart, output: Path, progress: ProgressCallback) -> Processed:
        """Run the command, and pass on what it reports.

        A part of a file, or an object of a store, is written as a file first; where a part has no
        records, nothing is done.

        Raises:
            CommandError: It was cancelled, ended with another status than 0, or left no output.
            SequenceFileError: The part cannot be read.
            FileNotFoundError: It failed, and its input is gone.
        """
        if not isinstance(file, OpenPart) or file.is_whole:
            path = file.path if isinstance(file, OpenPart) else file
            with local_file(path, output.parent) as local:
                return self._process(local, output, progress)
        folder = output.parent / FOLDER
        folder.mkdir()
        try:
            copy = folder / file.name
            if not copy_part(file.part, copy):
                return Processed(0, 0)
            return self._process(copy, output, progress)
        finally:
            shutil.rmtree(folder)

    def _process(self, file: Path, output: Path, progress: ProgressCallback) -> Processed:
        folder = output.parent
        if not self._has_output:
            folder.mkdir(exist_ok=True)
        reported = ProgressFile(folder, _size(file))
        values = {
            "input": _as_argument(file),
            "output": _as_argument(output),
            "gpu": self._gpu,
            "progress": _as_argument(reported.path),
        }
        argv = [PLACEHOLDER.sub(lambda match: values[match[1]], text) for text in self._argv]

        def look(*, at_end: bool = False) -> None:
            if reported.read(at_end=at_end):
                progress(reported.done)

        status, tail = self._run(argv, folder, values["progress"], look)
        if self._is_cancelled(folder):
            raise CommandError("cancelled")
        if status:
            file.stat()  # a file that is gone is no fault of the command
            how = f"status {status}" if status > 0 else signal.strsignal(-status)
            raise CommandError(f"the command ended with {how}{_last_line(tail)}")
        if self._has_output and not output.exists():
            raise CommandError("the command succeeded but wrote no {output}")
        look(at_end=True)
        _remove(reported.path, folder if not self._has_output else None)
        return Processed()

    def _is_cancelled(self, folder: Path) -> bool:
        return not self._cancelled.isdisjoint((folder, None))

    def _run(
        self, argv: list[str], folder: Path, progress: str, look: Callable[[], None]
    ) -> tuple[int, bytes]:
        """The exit status, and the end of what it wrote to standard error."""
        with self._lock:
            if self._is_cancelled(folder):
                return 0, b""
            child = _start(argv, {**os.environ, PROGRESS_VARIABLE: progress})
            self._child = folder, child.pid
        tail = bytearray()
        reader = threading.Thread(target=_copy_errors, args=(child.stderr, tail), daemon=True)
        reader.start()
        try:
            _wait(child.pid, look)
        finally:
            with self._lock:
                # Before it is reaped: the number of the group cannot have a new owner.
                _kill_group(child.pid)
                self._child = None
            status = child.wait()
            if orphans.adopts():  # in a worker: what has left the group (`setsid`) came here
                orphans.clear_all()
            reader.join(PIPE_SECONDS)
        return status, bytes(tail)


def _as_argument(path: Path) -> str:
    """The path as a program is given it: never one that looks like an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def _size(file: Path) -> int:
    """Bytes of the input; 0 where that is unknown."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove(path: Path, folder: Path | None) -> None:
    """Leave nothing of the progress among the results, nor a folder where there are none."""
    path.unlink(missing_ok=True)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(pid: int, look: Callable[[], None]) -> None:
    """Wait for the end of a child without reaping it, and look at its progress meanwhile."""
    descriptor = os.pidfd_open(pid)
    try:
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        while not end.poll(LOOK_SECONDS * 1000):
            look()
    finally:
        os.close(descriptor)


def _start(argv: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command that leads its own process group, its output going where ours goes."""
    if sys.version_info >= (3, 11):
        return subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )
    else:  # noqa: RET505 - mypy understands only this form
        wrapped = [sys.executable, "-I", "-S", "-c", GROUP_LEADER, *argv]
        return subprocess.Popen(  # noqa: S603 - likewise
            wrapped, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or only zombies
        os.killpg(group, signal.SIGKILL)


def _copy_errors(pipe: IO[bytes], tail: bytearray) -> None:
    """Pass standard error on to our own, and keep its end."""
    with pipe:
        while block := os.read(pipe.fileno(), 65536):
            os.write(2, block)
            tail += block
            del tail[:-TAIL_BYTES]


def _last_line(tail: bytes) -> str:
    lines = tail.decode("utf-8", "backslashreplace").strip().splitlines()
    return f": {lines[-1][:LINE_CHARACTERS]}" if lines else ""
