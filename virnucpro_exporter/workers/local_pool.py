"""Worker processes: start, messages, supervision, and kill with all they started.

Each worker leads a session of its own, so that whatever its processor starts can be found and
killed. Its death is seen by a descriptor of the process, not by the end of its channel, which a
forked child might hold open. All methods but `wake` belong to one thread.

Nothing is waited for without a limit. A process that hangs in the kernel (state D: a driver, a dead
file server) does not die when it is killed: its worker gets no other process until it does, and is
given up after a while.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from virnucpro_exporter.errors import OutputError
from virnucpro_exporter.scheduling.commands import KeepOutputs, ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.events import (
    LossCause,
    WorkerEvent,
    WorkerJoined,
    WorkerLoading,
    WorkerLost,
)
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.text import device_words
from virnucpro_exporter.workers import boot, orphans, sentinel, wire
from virnucpro_exporter.workers.guard import Guard
from virnucpro_exporter.workers.process import CANCEL_SECONDS, Child, launch, start_message
from virnucpro_exporter.workers.starts import NEVER, Starts
from virnucpro_exporter.workers.vitals import Silent, Vitals

log = logging.getLogger(__name__)

# So long does `close` wait for all that was killed to die.
CLOSE_SECONDS = 10.0

# How often the sentinel and adopted orphans are looked after, in seconds.
_LOOK_SECONDS = 1.0

# A `poll` that returns so much later than it should, in seconds, was held up: the machine or the
# program was paused, and the workers with it.
_LATE_SECONDS = 0.5

# What starting a process takes: its channel, log and slot, two ends of a pipe, and a margin.
# Killing one takes fewer. They are held, so that both can be done when all others are used up.
_RESERVED_DESCRIPTORS = 10

# So many packets of one worker are read in one round at most.
_PACKETS = 256


class LocalPool:
    """Workers on this machine.

    Args:
        spec: The processor, as the factory takes it; JSON values only.
        factory: `package.module:function` that makes a processor of the spec.
        attempts: Folder in which each attempt gets its own.
        logs: Folder of the workers' logs, one per worker.
        devices: Extra environment of each worker, which pins its GPU.
        folder: Working directory of the workers; the program's own when None.
        look_seconds: Workers that are silent for so long are looked at for signs of life.
        uses_gpu: Whether a worker's GPU is busy with its processes, where that is known.
        results: Where workers move outputs on request; None where that is not needed.
    """

    def __init__(  # noqa: PLR0913 - what a worker is given, most of it with a default
        self,
        spec: Mapping[str, Any],
        factory: str,
        attempts: Path,
        logs: Path,
        devices: Mapping[str, Mapping[str, str]],
        folder: str | None = None,
        look_seconds: float = 10.0,
        uses_gpu: Callable[[str], bool] | None = None,
        *,
        results: Path | None = None,
    ) -> None:
        self._folder = folder
        self._spec = dict(spec)
        self._factory = factory
        self._attempts = attempts
        self._results = results
        self._moved: list[AttemptNumber] = []
        self._logs = logs
        self._devices = devices
        self._workers: dict[str, Child] = {}
        self._dying: dict[str, Child] = {}  # killed, and not yet dead
        self._watched: set[Child] = set()  # those that have to do something within a limit
        self._starts = Starts()
        self._slots: dict[str, tuple[int, mmap.mmap]] = {}
        self._events: list[WorkerEvent] = []
        self._is_draining = self._is_closed = False
        self._next_look = 0.0
        self._adopts = orphans.adopts()
        self._reserve = _Reserve()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        for descriptor in (self._wake_reader, self._wake_writer):
            os.set_blocking(descriptor, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._guard = Guard(self._selector)

        self._look_seconds = look_seconds
        self._vitals = Vitals(self._silent, attempts, look_seconds, self.wake, uses_gpu)
        self._vitals.start()

    def log_path(self, worker_id: str) -> Path:
        """The file that takes what a worker prints."""
        return self._logs / f"worker-{worker_id.replace('/', '_')}.log"

    # -- requests of the run --

    def spawn(self, worker_id: str) -> None:
        """Start the process of a worker that has none; `WorkerReady` or `WorkerLost` follows.

        It starts later where the last one is not dead yet or the system cannot start one now. A
        worker whose last process could not be killed is lost, and joins again when that has died.

        Raises:
            OutputError: The output folder has vanished.
        """
        if not self._is_draining:
            self._starts.want(worker_id, time.monotonic())
            self._start_due()

    def start(self, worker_id: str, actions: Sequence[StartAttempt]) -> None:
        """Hand files to a worker, to be processed in this order.

        A worker that has died in the meantime takes none: its `WorkerLost` is under way.
        """
        messages = [start_message(action) for action in actions]
        if worker := self._workers.get(worker_id):
            worker.heard_at = time.monotonic()
            worker.held.update(action.attempt for action in actions)
            for packet in wire.packets(messages):
                self._send(worker, packet)

    def shrink(self, action: ShrinkAttempt) -> None:
        """Have a worker give a share of its range away; `AttemptShrunk` follows while it lives."""
        if worker := self._workers.get(action.worker_id):
            asked = wire.SHRINK, action.attempt, action.share, action.least_seconds
            self._send(worker, wire.encode([asked]))

    def move(self, worker_id: str, moves: Sequence[KeepOutputs]) -> bool:
        """Have a worker move outputs of its attempts to their place; False where it cannot."""
        worker = self._workers.get(worker_id)
        if self._results is None or worker is None:
            return False
        messages: list[wire.Message] = [
            (wire.MOVE, move.attempt, tuple(map(os.fsencode, move.outputs))) for move in moves
        ]
        for packet in wire.packets(messages):
            self._send(worker, packet)
        return True

    def moved(self) -> list[AttemptNumber]:
        """The attempts whose outputs workers have moved since the last call."""
        moved, self._moved = self._moved, []
        return moved

    def cancel(self, worker_id: str, attempt: int) -> None:
        """Stop an attempt: within the worker where its processor can, else with its process."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        if worker.cancellable:
            if attempt in worker.held:
                worker.cancels[attempt] = time.monotonic()
                self._watched.add(worker)
            self._send(worker, wire.encode([(wire.CANCEL, attempt)]))
        else:
            self._give_up(worker, "cancelled")
            self.wake()

    def kill(self, worker_id: str) -> None:
        """Kill a worker and all it started; its pending messages are discarded."""
        self._starts.forget(worker_id)
        if worker := self._workers.get(worker_id):
            self._bury(worker)
        self._events = [event for event in self._events if event.worker_id != worker_id]

    def poll(self, timeout: float | None) -> list[WorkerEvent]:
        """What happened, in the order in which each worker reported it.

        Args:
            timeout: Seconds to wait for something to happen; None waits until something does.

        Raises:
            OutputError: The output folder has vanished before a process was started again.
        """
        begin = time.monotonic()
        wait = 0.0 if self._events else self._until_due(begin, timeout)
        ready = self._selector.select(wait)
        if wait is not None and (late := time.monotonic() - begin - wait) > _LATE_SECONDS:
            self._excuse(late)
        for key, mask in ready:
            if key.data is None:
                with contextlib.suppress(BlockingIOError):  # another wake-up has emptied it
                    os.read(self._wake_reader, 4096)
                continue
            if key.data is self._guard:
                self._guard.look()
                continue
            worker: Child = key.data
            if self._workers.get(worker.worker_id) is worker:
                self._serve(worker, key.fd, mask)
            elif self._dying.get(worker.worker_id) is worker:
                self._reap(worker)
            # Any other was killed, and has died, within this round.
        self._look_after(time.monotonic())
        events, self._events = [*self._events, *self._vitals.take()], []
        return events

    def wake(self) -> None:
        """End a `poll` early; may be called from any thread."""
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups already
            os.write(self._wake_writer, b"\0")

    def want(self, workers: int) -> None:
        """No more workers come."""

    def drain(self) -> None:
        """No process is started any more."""
        self._is_draining = True
        self._starts.forget_all()

    def close_idle(self, seconds: float) -> None:
        """Have the workers that process nothing close their processors and leave.

        Args:
            seconds: Those that take longer are killed by `close`.
        """
        leaving = {w.death: w for w in self._workers.values() if w.ready and not self._running(w)}
        with selectors.DefaultSelector() as deaths:
            for descriptor, worker in leaving.items():
                deaths.register(descriptor, selectors.EVENT_READ)
                with contextlib.suppress(OSError):  # it is dead already
                    worker.channel.shutdown(socket.SHUT_WR)
            end = time.monotonic() + seconds
            while leaving and (left := end - time.monotonic()) > 0:
                for key, _ in deaths.select(left):
                    deaths.unregister(key.fd)
                    self._bury(leaving.pop(key.fd))

    def close(self) -> None:
        """Kill every worker, and let the sentinel exit; those that cannot be killed are left."""
        if self._is_closed:
            return
        self._is_closed = True
        self._vitals.stop()
        self.drain()
        for worker in list(self._workers.values()):
            self._bury(worker)
        self._await_deaths()
        self._guard.close()
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        self._reserve.release()
        for descriptor, slot in self._slots.values():
            slot.close()
            os.close(descriptor)
        self._slots.clear()

    # -- starting processes --

    def _start_due(self) -> None:
        while worker_id := self._starts.due(time.monotonic()):
            if worker_id in self._dying:
                if self._dying[worker_id].is_unkillable:
                    self._lose_slot(self._dying[worker_id])
                else:
                    self._starts.want(worker_id, NEVER)  # until `_reap`
                continue
            try:
                with self._reserve:
                    self._launch(worker_id)
            except OSError as error:
                self._refuse(worker_id, error)

    def _refuse(self, worker_id: str, error: OSError) -> None:
        what = f"{os.fsdecode(error.filename)!r}: " if error.filename is not None else ""
        reason = f"its process cannot be started: {what}{error.strerror or error}"
        pause = self._starts.refused(worker_id, time.monotonic())
        if pause is None:
            self._events.append(WorkerLost(WorkerId(worker_id), reason, LossCause.CANNOT_START))
        else:
            log.warning("%s: %s; next attempt in %g s", device_words(worker_id), reason, pause)

    def _launch(self, worker_id: str) -> None:
        """Start a process.

        Raises:
            OSError: The system could not.
            OutputError: The output folder has vanished.
        """
        descriptor, slot = self._slot(worker_id)
        slot[:8] = bytes(8)
        with contextlib.ExitStack() as on_error:
            channel, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            on_error.callback(channel.close)
            channel.setblocking(False)  # noqa: FBT003 - the standard library's signature
            config = {
                "gpu": worker_id,
                "factory": self._factory,
                "spec": self._spec,
                "attempts": str(self._attempts),
                "results": None if self._results is None else str(self._results),
                "channel": remote.fileno(),
                "slot": descriptor,
                "path": sys.path,
                "mark": self._guard.mark,
            }
            with remote, self._open_log(worker_id) as output:
                process = launch(
                    [sys.executable, boot.__file__, json.dumps(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self._folder,
                    env={**os.environ, **self._devices.get(worker_id, {})},
                    pass_fds=(remote.fileno(), descriptor),
                )
            on_error.callback(process.wait)
            on_error.callback(process.kill)
            worker = Child(WorkerId(worker_id), process, channel)
            on_error.pop_all()
        self._guard.add(process.pid)
        self._starts.started(worker_id)
        self._events.append(WorkerLoading(worker.worker_id))
        self._workers[worker_id] = worker
        self._selector.register(channel, selectors.EVENT_READ, worker)
        self._selector.register(worker.death, selectors.EVENT_READ, worker)

    def _open_log(self, worker_id: str) -> IO[bytes]:
        try:
            self._logs.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise OutputError(f"{str(self._logs.parent)!r} has vanished") from error
        return self.log_path(worker_id).open("ab")

    def _slot(self, worker_id: str) -> tuple[int, mmap.mmap]:
        """The shared memory in which a worker keeps the number of its attempt, plus one."""
        if worker_id not in self._slots:
            descriptor = os.memfd_create("attempt")
            try:
                os.ftruncate(descriptor, mmap.PAGESIZE)
                self._slots[worker_id] = descriptor, mmap.mmap(descriptor, mmap.PAGESIZE)
            except OSError:
                os.close(descriptor)
                raise
        return self._slots[worker_id]

    # -- messages --

    def _running(self, worker: Child) -> AttemptNumber | None:
        """The attempt that a worker processes, or None."""
        (number,) = struct.unpack("q", self._slots[worker.worker_id][1][:8])
        return AttemptNumber(number - 1) if number else None

    def _silent(self) -> Iterator[Silent]:
        """The workers whose processes are looked at; called by another thread."""
        since = time.monotonic() - self._look_seconds
        for worker in list(self._workers.values()):
            if worker.heard_at <= since and (attempt := self._running(worker)) is not None:
                yield Silent(worker.worker_id, worker.process.pid, attempt)

    def _send(self, worker: Child, packet: bytes) -> None:
        worker.outgoing.append(packet)
        self._flush(worker)

    def _flush(self, worker: Child) -> None:
        """Send what the worker takes now; the rest when it reads again."""
        wanted = selectors.EVENT_READ
        try:
            while worker.outgoing:
                worker.channel.send(worker.outgoing[0])
                worker.outgoing.popleft()
        except BlockingIOError:
            wanted |= selectors.EVENT_WRITE
        except ConnectionError:  # it is dying; `poll` reports its death
            worker.outgoing.clear()
        known = self._selector.get_map().get(worker.channel)
        if known is not None and known.events != wanted:
            self._selector.modify(worker.channel, wanted, worker)

    def _serve(self, worker: Child, descriptor: int, mask: int) -> None:
        if descriptor == worker.death:
            while self._receive(worker):
                pass
            self._lose(worker)
            return
        if mask & selectors.EVENT_WRITE:
            self._flush(worker)
        if mask & selectors.EVENT_READ:
            for _ in range(_PACKETS):
                if not self._receive(worker):
                    break

    def _receive(self, worker: Child) -> bool:
        """Take one packet; False when there is none."""
        try:
            packet = worker.channel.recv(wire.RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # it died with messages unread; its own come after this
            return True
        if not packet:  # closed: it is dying, or its processor closed what is not its own
            worker.closed_at = time.monotonic()
            self._watched.add(worker)
            if worker.channel in self._selector.get_map():
                self._selector.unregister(worker.channel)
            return False
        worker.heard_at = time.monotonic()
        was_ready = worker.ready
        heard = map(worker.hear, wire.decode(packet))
        self._events += [event for event in heard if event is not None]
        if worker.moved:
            self._moved += worker.moved
            worker.moved.clear()
        if worker.ready and not was_ready:
            self._starts.loaded(worker.worker_id)
        return True

    # -- deadlines --

    def _until_due(self, now: float, timeout: float | None) -> float | None:
        """Seconds until the next deadline, `timeout` at most, or None."""
        due = min((worker.deadline() for worker in self._watched), default=NEVER)
        due = min(due, self._starts.next_due())
        if due == NEVER:
            return timeout
        left = max(0.0, due - now)
        return left if timeout is None else min(left, timeout)

    def _excuse(self, seconds: float) -> None:
        """Move all deadlines by the time for which the program and its workers were paused."""
        for worker in self._watched:
            worker.excuse(seconds)

    def _look_after(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        for worker in list(self._watched):
            if now >= worker.deadline():
                self._enforce(worker, now)
            elif worker.deadline() == NEVER:
                self._watched.discard(worker)
        self._start_due()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._guard.look()
            self._clear_orphans()

    def _enforce(self, worker: Child, now: float) -> None:
        if worker.killed_at is not None:
            self._declare_unkillable(worker)
        elif worker.closed_at is not None:  # it lives on without a channel
            worker.is_expelled = True
            worker.process.kill()
        elif self._running(worker) in worker.cancels:
            self._give_up(worker, f"no answer to a cancellation for {CANCEL_SECONDS:g} s")
        else:  # what was cancelled waits for the file before it
            worker.cancels = dict.fromkeys(worker.cancels, now)

    def _declare_unkillable(self, worker: Child) -> None:
        worker.is_unkillable = True
        log.error(
            "%s: process %d cannot be killed: it hangs in the kernel (a driver, a disk or a"
            " file server that does not answer); the run goes on without it",
            *(device_words(worker.worker_id), worker.process.pid),
        )
        if self._starts.is_wanted(worker.worker_id):
            self._lose_slot(worker)

    def _lose_slot(self, worker: Child) -> None:
        """The worker's last process cannot be killed, so that it gets no other."""
        self._starts.forget(worker.worker_id)
        worker.is_missed = True
        reason = f"its process {worker.process.pid} cannot be killed"
        self._events.append(WorkerLost(worker.worker_id, reason, LossCause.CANNOT_BE_KILLED))

    def _clear_orphans(self) -> None:
        if self._adopts:
            known = [*self._workers.values(), *self._dying.values()]
            own = {worker.process.pid for worker in known} | {self._guard.pid}
            orphans.clear(own)

    # -- deaths --

    def _give_up(self, worker: Child, reason: str) -> None:
        """Kill a worker of which an attempt is to be stopped; no file is charged."""
        self._bury(worker)
        self._events.append(WorkerLost(worker.worker_id, reason, LossCause.CANCELLED))

    def _lose(self, worker: Child) -> None:
        """Report how a worker died, once all its messages have been received."""
        worker_id, running = worker.worker_id, self._running(worker)
        self._bury(worker)
        if worker.was_killed_loading and not self._is_draining:
            pause = self._starts.killed_while_loading(worker_id, time.monotonic())
            if pause is not None:
                log.warning(
                    "%s: the worker %s while loading; it restarts in %g s, and only one worker"
                    " loads at a time",
                    *(device_words(worker_id), worker.how_it_ended(), pause),
                )
                return
        self._starts.forget(worker_id)
        self._events.append(worker.loss(running))

    def _bury(self, worker: Child) -> None:
        """Kill a worker's whole family and forget it, reaped now or when it dies."""
        with self._reserve:
            sentinel.kill_family(worker.process.pid)  # the number cannot have a new owner yet
        worker.killed_at = time.monotonic()
        if worker.channel in self._selector.get_map():
            self._selector.unregister(worker.channel)
        worker.channel.close()
        del self._workers[worker.worker_id]
        self._dying[worker.worker_id] = worker
        self._watched.add(worker)
        self._reap(worker)

    def _reap(self, worker: Child) -> None:
        """Reap a worker that was killed, if it has died."""
        if worker.process.poll() is None:
            return
        del self._dying[worker.worker_id]
        self._watched.discard(worker)
        self._guard.remove(worker.process.pid)
        if worker.death in self._selector.get_map():
            self._selector.unregister(worker.death)
        os.close(worker.death)
        self._clear_orphans()
        if worker.is_missed and not self._is_draining:
            log.info(
                "%s: process %d has ended after all",
                device_words(worker.worker_id),
                worker.process.pid,
            )
            self._events.append(WorkerJoined(worker.worker_id))
        elif self._starts.is_wanted(worker.worker_id):
            self._starts.want(worker.worker_id, time.monotonic())

    def _await_deaths(self) -> None:
        end = time.monotonic() + CLOSE_SECONDS
        while (left := end - time.monotonic()) > 0 and any(
            not worker.is_unkillable for worker in self._dying.values()
        ):
            for key, _ in self._selector.select(left):
                if key.data is None:
                    os.read(self._wake_reader, 4096)
                elif key.data is self._guard:
                    self._guard.look()
                else:
                    self._reap(key.data)
        for worker in self._dying.values():
            if not worker.is_unkillable:
                self._declare_unkillable(worker)
            os.close(worker.death)


class _Reserve:
    """Descriptors that are set free while a process is started."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._refill()

    def __enter__(self) -> None:
        self.release()

    def __exit__(self, *_: object) -> None:
        self._refill()

    def release(self) -> None:
        """Set them free."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _refill(self) -> None:
        with contextlib.suppress(OSError):  # they are used up; it is tried again next time
            while len(self._descriptors) < _RESERVED_DESCRIPTORS:
                self._descriptors.append(os.open(os.devnull, os.O_RDONLY))
