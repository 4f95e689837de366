"""What runs in a worker's process: load the processor once, then file after file.

Results of quick files go out together, at the latest every 20 ms. The number of the attempt in
process stands in shared memory, so that the pool can find which file killed a worker.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import mmap
import operator
import os
import queue
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from virnucpro_exporter.errors import SequenceFileError, VirnucproError
from virnucpro_exporter.sequences import OpenPart, Part, Shrunk
from virnucpro_exporter.stores.paths import path_of
from virnucpro_exporter.workers import joining, orphans, sentinel, wire
from virnucpro_exporter.workers.process import JOB_SIGNALS
from virnucpro_exporter.workers.storage import is_storage_trouble

FLUSH_SECONDS = 0.02
PROGRESS_SECONDS = 0.1
ERROR_CHARACTERS = 1000
MOST = 10**15  # sequences or residues of a file; the journal and the metrics take larger ones badly


def describe(error: BaseException) -> str:
    """An exception in one line of bounded length."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{os.fsdecode(error.filename)!r}: {error.strerror}"
    elif not isinstance(error, VirnucproError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:ERROR_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def log_traceback() -> None:
    """Write the exception in hand to the worker's log, unless the disk is full."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


class Outbox:
    """Collects messages to the pool; a thread ensures that none waits longer than 20 ms."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._messages: list[wire.Message] = []
        self._busy = threading.Event()
        self._current: int | None = None
        self._seen: int | None = None

    def add(self, message: wire.Message) -> None:
        """Send the message with the next packet."""
        with self._lock:
            self._messages.append(message)

    def begin(self, attempt: int, *, alone: bool) -> None:
        """An attempt begins; alone in its batch it is announced at once."""
        self._current = attempt
        if alone:
            self._seen = attempt
            self.add((wire.STARTED, attempt))
            self.flush()
        elif not self._busy.is_set():
            self._busy.set()

    def rest(self) -> None:
        """The batch is done."""
        self._current = None
        self._busy.clear()
        self.flush()

    def flush(self) -> None:
        """Send what has been collected."""
        with self._lock:
            for packet in wire.packets(self._messages):
                self._channel.send(packet)
            self._messages.clear()

    def tick_forever(self) -> None:
        """Every 20 ms of a batch, announce an attempt that takes long, and send."""
        last: int | None = None
        while True:
            self._busy.wait()
            time.sleep(FLUSH_SECONDS)
            with self._lock:
                current = self._current
                if current is not None and current == last != self._seen:
                    self._seen = current
                    self._messages.append((wire.STARTED, current))
            last = current
            try:
                self.flush()
            except OSError:  # the pool is gone; the main thread sees it too
                return


class ProcessorFaultError(VirnucproError):
    """The processor is at fault."""


def whole(value: object, what: str) -> int:
    """A count that a processor gave, checked before it reaches metrics and journal.

    Raises:
        ProcessorFaultError: It is not a whole number from 0 to `MOST`.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # numpy's integers count as well
    except TypeError:
        number = -1
    if not 0 <= number <= MOST:
        raise ProcessorFaultError(
            f"it reports {value!r:.50} {what}; return a whole number, 0 or more"
        )
    return number


def plain_names(names: Iterable[Any]) -> Sequence[str]:
    """The names of outputs that a processor gave, each of which must lie in the attempt's folder.

    Raises:
        ProcessorFaultError: One of them is not a plain file name.
    """
    found = tuple(names)
    odd = [n for n in found if not isinstance(n, str) or n in {"", ".", ".."} or "/" in n]
    if odd or isinstance(names, str):
        raise ProcessorFaultError(
            f"its output_names returns {names!r:.100}; return a list of plain file names"
        )
    return found


def make_empty(folder: str) -> None:
    """Make the folder of an attempt, or empty the one that the run has provided.

    That is empty already, unless a process which an earlier attempt left behind still writes there.
    """
    try:
        is_empty = not os.listdir(folder)  # noqa: PTH208 - names alone are wanted
    except FileNotFoundError:
        is_empty = False
    else:
        if not is_empty:
            shutil.rmtree(folder)
    if not is_empty:
        os.mkdir(folder)  # noqa: PTH102 - paths as text, of which there are very many


def has_children() -> bool:
    """Whether this process has started another that is still there, be it dead or alive.

    Those of which the parent has died count as well, since a worker adopts them.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class Progress:
    """The progress callback of one attempt."""

    __slots__ = ("_attempt", "_beside", "_held", "_next", "_outbox")

    def __init__(
        self,
        outbox: Outbox,
        attempt: int,
        now: float,
        beside: Callable[[], None] = lambda: None,
    ) -> None:
        self._outbox = outbox
        self._beside = beside  # adds other pending messages to the same packet
        self._attempt = attempt
        self._next = now + PROGRESS_SECONDS
        self._held: tuple[int, int | None] | None = None  # reported, and not sent yet

    def __call__(self, sequences: int, residues: int | None = None) -> None:
        """Pass progress on, at most every 0.1 s.

        Raises:
            ProcessorFaultError: It is none.
        """
        if type(sequences) is not int or not 0 <= sequences <= MOST:
            sequences = whole(sequences, "sequences done")
        if residues is not None:
            residues = whole(residues, "residues done")
        self._held = sequences, residues
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + PROGRESS_SECONDS
            self.pass_on()
            self._beside()
            self._outbox.flush()

    def pass_on(self) -> None:
        """Send what was held back with the next packet."""
        if self._held is not None:
            self._outbox.add((wire.PROGRESS, self._attempt, *self._held))
            self._held = None


class _Held(NamedTuple):
    """What a worker was handed.

    Attributes:
        attempt: Its number.
        path: The file.
        source: What the processor is given of it.
        joins: The attempts that made its parts, where these are to be joined.
        is_misfit: It is a part, or is to be joined of some, and the processor takes whole files.
    """

    attempt: int
    path: Path
    source: Path | OpenPart
    joins: Sequence[int]
    is_misfit: bool = False


class PartsRefusedError(VirnucproError):
    """The processor takes whole files, and an earlier run has done parts of this one."""


class Worker:
    """Runs the attempts that arrive on the channel until it ends.

    Args:
        channel: To the pool.
        slot: Shared memory for the number of the attempt in process.
        attempts: The folder in which each attempt has its own.
        part_bytes: The most bytes of a file that one part has, or None for no limit.
        results: Where the worker moves outputs on request, or None.
    """

    def __init__(
        self,
        channel: socket.socket,
        slot: mmap.mmap,
        attempts: str,
        part_bytes: int | None = None,
        results: str | None = None,
    ) -> None:
        self._channel = channel
        self._slot = memoryview(slot).cast("q")
        self._attempts = attempts
        self._part_bytes = part_bytes
        self._results = results
        self._spare: deque[int] = deque()  # attempts whose folders are left, and empty
        self._is_alone = True  # no attempt has left a process, which might write to its folder
        self._outbox = Outbox(channel)
        self._processor: Any = None
        self._can_split = False
        self._shortages = 0  # those reported to the pool
        self._lock = threading.Lock()  # guards the part in process
        self._part: tuple[int, OpenPart, float] | None = None  # of which attempt, and since when

    def set_up(self, build: Callable[[], Any], gpu: str) -> bool:
        """Load the processor; report to the pool whether it worked."""
        try:
            self._processor = build()
            self._processor.setup(gpu)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            log_traceback()
            self._outbox.add((wire.SETUP_FAILED, describe(error)))
            self._outbox.flush()
            return False
        self._can_split = joining.can_split(self._processor)
        shrinks = joining.shrinks(self._processor)
        cuts_first = joining.cuts_first(self._processor)
        self._outbox.add((wire.READY, hasattr(self._processor, "cancel"), shrinks, cuts_first))
        self._outbox.flush()
        return True

    def serve(self) -> None:
        """Process batches until the pool closes the channel."""
        threading.Thread(target=self._outbox.tick_forever, daemon=True).start()
        for batch in self._batches():
            alone, half = len(batch) == 1, len(batch) // 2
            held = [self._held(*message[1:]) for message in batch]
            if hasattr(self._processor, "expect"):
                self._processor.expect([file.source for file in held if not file.joins])
            for number, file in enumerate(held):
                if number == half and number:
                    self._outbox.flush()  # so that more are here when these are done
                self._slot[0] = file.attempt + 1  # first: readers of the start find it there
                self._outbox.begin(file.attempt, alone=alone)
                self._outbox.add(self._run(file))
                self._tell_shortages()
                self._slot[0] = 0
            self._outbox.rest()
        try:
            self._processor.close()
        except Exception:  # noqa: BLE001 - the user's code may raise anything; all files are done
            log_traceback()

    def _batches(self) -> Iterator[list[wire.Message]]:
        """Batches of files, read by a thread where a message may cancel the file in process."""
        if not (hasattr(self._processor, "cancel") or joining.shrinks(self._processor)):
            while packet := self._receive():
                messages = wire.decode(packet)
                if messages[0][0] == wire.MOVE:
                    self._move(messages)
                else:
                    yield messages
            return
        batches: queue.SimpleQueue[list[wire.Message]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(batches,), daemon=True).start()
        while batch := batches.get():
            yield batch

    def _listen(self, batches: queue.SimpleQueue[list[wire.Message]]) -> None:
        cancel = getattr(self._processor, "cancel", None)
        while packet := self._receive():
            messages = wire.decode(packet)
            if messages[0][0] == wire.MOVE:
                self._move(messages)
                continue
            for message in messages:
                if message[0] == wire.CANCEL and cancel is not None:
                    cancel(self._folder(message[1]))
                elif message[0] == wire.SHRINK:
                    self._shrink(*message[1:])
            if files := [message for message in messages if message[0] == wire.START]:
                batches.put(files)
        if cancel is not None:
            cancel(None)
        batches.put([])

    def _move(self, messages: Sequence[wire.Message]) -> None:
        """Move outputs of attempts that won to their place, and report the attempts fully moved.

        What cannot be moved, or is not there, is left to the run.
        """
        moved = []
        for _, attempt, names in messages:
            folder = self._place(attempt)
            try:
                for name in map(os.fsdecode, names):
                    os.rename(f"{folder}/{name}", f"{self._results}/{name}")  # noqa: PTH104 - paths as text, of which there are very many
            except OSError:
                continue
            self._spare.append(attempt)
            moved.append(attempt)
        self._outbox.add((wire.MOVED, moved))
        with contextlib.suppress(OSError):  # the pool is gone; the main thread sees it too
            self._outbox.flush()

    def _take_folder(self, folder: str) -> None:
        """Take a folder that an attempt of this worker has left empty, or make one.

        To rename a folder takes a fraction of the time of making one and removing another.
        """
        is_empty = False
        if self._spare:
            with contextlib.suppress(OSError):  # it was removed, or the disk is in trouble
                os.rename(self._place(self._spare.pop()), folder)  # noqa: PTH104 - likewise
                is_empty = self._is_alone
        if not is_empty:
            make_empty(folder)

    def _found_in(self, folder: str) -> tuple[bytes, ...]:
        """The names of what an attempt has left in its folder."""
        self._is_alone = self._is_alone and not has_children()
        return tuple(map(os.fsencode, sorted(os.listdir(folder))))  # noqa: PTH208 - names alone are wanted

    def _shrink(self, attempt: int, share: float, least_seconds: float) -> None:
        """Give away a share of the range in process, and report where it ends now.

        The answer is on its way before the attempt can say that it has completed.
        """
        with self._lock:
            cut: Shrunk | None = None
            is_final = False
            if self._part is not None and self._part[0] == attempt:
                _, part, since = self._part
                seconds = time.perf_counter() - since

                def is_worth(cut: Shrunk) -> bool:
                    done = cut.position - part.part.start
                    return (cut.end - cut.at) * seconds >= least_seconds * done

                cut = part.shrink(share, is_worth)
                is_final = not part.can_shrink
            where = None if cut is None else tuple(cut)
            self._outbox.add((wire.SHRUNK, attempt, where, is_final))
        with contextlib.suppress(OSError):  # the pool is gone; the main thread sees it too
            self._outbox.flush()

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(wire.RECEIVE_BYTES)
        except ConnectionResetError:  # the pool died with messages unread
            return b""

    def _folder(self, attempt: int) -> Path:
        return Path(self._place(attempt))

    def _place(self, attempt: int) -> str:
        # As text, since path objects cost more than all else that is done for a short file.
        return f"{self._attempts}/{attempt}"

    def _tell_shortages(self) -> None:
        """Report how often the processor has lacked memory since the last report."""
        shortages = getattr(self._processor, "shortages", 0)
        if shortages > self._shortages:
            self._outbox.add((wire.MEMORY_SHORT, shortages - self._shortages))
            self._shortages = shortages

    def _held(
        self,
        attempt: int,
        path: bytes,
        stretch: tuple[int, int | None] | None = None,
        share: float = 1.0,
        joins: Sequence[int] = (),
    ) -> _Held:
        file = path_of(os.fsdecode(path))
        if not self._can_split or joins:
            is_misfit = not self._can_split and (stretch is not None or bool(joins))
            return _Held(attempt, file, file, joins, is_misfit)
        part = Part(file, *(stretch or ()))
        return _Held(attempt, file, self._cut(attempt, part, share), joins)

    def _cut(self, attempt: int, part: Part, share: float) -> OpenPart:
        """Give away what of a part another attempt is to do, before anything of it is read.

        Args:
            attempt: The attempt at it.
            part: The part.
            share: What this attempt is to do of it at most.

        Returns:
            What is left for this attempt.
        """
        cut = OpenPart(part).keep(share, self._part_bytes)
        if cut is not None or share < 1.0:
            where = None if cut is None else tuple(cut)
            self._outbox.add((wire.SHRUNK, attempt, where, cut is None))
            self._outbox.flush()
        return OpenPart(part if cut is None else Part(part.path, part.start, cut.at))

    def _process(self, held: _Held, output: Path, progress: Progress) -> Any:
        """Process a file, or the part of it that a processor is handed which can do parts."""
        source = held.source
        if not isinstance(source, OpenPart):
            return self._processor.process(source, output, progress)
        with self._lock:
            self._part = held.attempt, source, time.perf_counter()
        try:
            return self._processor.process(source, output, progress)
        finally:
            with self._lock:  # from here on it gives nothing away
                self._part = None

    def _join(self, attempt: int, file: Path, parts: Sequence[int]) -> wire.Message:
        """Join the results of the parts of a file, and report the outcome."""
        start = time.perf_counter()
        folder = self._folder(attempt)
        try:
            make_empty(str(folder))
            joining.join(self._processor, file, [self._folder(number) for number in parts], folder)
            found = self._found_in(str(folder))
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            log_traceback()
            is_storage = is_storage_trouble(error, folder)
            is_permanent = isinstance(error, joining.JoinError)
            return wire.FAILED, attempt, f"joining: {describe(error)}", is_permanent, is_storage
        return self._completed(attempt, None, None, time.perf_counter() - start, found)

    def _run(self, held: _Held) -> wire.Message:
        """Process one file or a part of it, or join its parts, and report the outcome."""
        attempt, file = held.attempt, held.path
        if held.is_misfit:
            refused = PartsRefusedError("say how its results are joined, or use --fresh")
            return wire.FAILED, attempt, str(refused), True, False
        if held.joins:
            return self._join(attempt, file, held.joins)
        start = time.perf_counter()
        try:
            names = plain_names(self._processor.output_names(file))
            folder = self._place(attempt)
            if names:
                self._take_folder(folder)
            output = Path(f"{folder}/{names[0] if names else 'output'}")
            progress = Progress(self._outbox, attempt, start, self._tell_shortages)
            done = self._process(held, output, progress)
            sequences, residues = done.sequences, done.residues
            if sequences is not None:
                sequences = whole(sequences, "sequences")
            if residues is not None:
                residues = whole(residues, "residues")
            found = self._found_in(folder) if names else ()
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            log_traceback()
            is_gone = isinstance(error, FileNotFoundError) and not file.exists()
            why = "its input is gone" if is_gone else describe(error)
            is_storage = not is_gone and is_storage_trouble(error, self._folder(attempt))
            is_permanent = isinstance(error, SequenceFileError) and not is_storage
            return wire.FAILED, attempt, why, is_permanent, is_storage
        if sequences is None:
            progress.pass_on()
        seconds = time.perf_counter() - start if done.seconds is None else done.seconds
        return self._completed(attempt, sequences, residues, seconds, found)

    def _completed(
        self,
        attempt: int,
        sequences: int | None,
        residues: int | None,
        duration: float,
        found: tuple[bytes, ...],
    ) -> wire.Message:
        """The message that an attempt left these files; all but the last names are sent before."""
        while len(found) > wire.NAMES:
            self._outbox.add((wire.OUTPUTS, attempt, found[: wire.NAMES]))
            found = found[wire.NAMES :]
        return wire.COMPLETED, attempt, sequences, residues, duration, found


def _builder(factory: str, spec: dict[str, Any]) -> Callable[[], Any]:
    def build() -> Any:
        module, _, name = factory.partition(":")
        return getattr(importlib.import_module(module), name)(spec)

    return build


def _leave_signals_to_the_program() -> None:
    """Go on with the file when a signal is sent to the whole job (`Ctrl-C`, systemd, SLURM).

    A handler that does nothing, and not `SIG_IGN`, so that programs that are started get the
    default back. Forked processes get it here, and see no signal before they have it: or
    `Process.terminate()` would wait for ever.
    """
    handlers = {number: signal.getsignal(number) for number in JOB_SIGNALS}
    of_thread = threading.local()

    def block() -> None:
        of_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, of_thread.mask)

    def give_back() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        unblock()

    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # by nohup
            signal.signal(number, lambda *_: None)
            signal.siginterrupt(number, False)  # noqa: FBT003 - the standard library's signature
    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=give_back)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, JOB_SIGNALS)


def main() -> None:
    """Run a worker as specified by its one argument, in JSON."""
    _leave_signals_to_the_program()
    orphans.adopt()
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text file, always
    config = json.loads(sys.argv[1])
    part_bytes = config["spec"].get("part_bytes")
    sys.path += [entry for entry in (*config["path"], "") if entry not in sys.path]
    for descriptor in (config["channel"], config["slot"]):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the standard library's signature
    with (
        socket.socket(fileno=config["channel"]) as channel,
        mmap.mmap(config["slot"], mmap.PAGESIZE) as slot,
    ):
        worker = Worker(channel, slot, config["attempts"], part_bytes, config["results"])
        if worker.set_up(_builder(config["factory"], config["spec"]), config["gpu"]):
            worker.serve()
        sys.stdout.flush()
        sentinel.kill_descendants()
        # Threads and exit handlers of the user's libraries must not delay the end.
        os._exit(0)
