"""Worker processes: spawned, talked to, watched, and killed with all they started.

Each worker leads a session of its own, so that whatever its processor starts can be found and
killed. Its death is seen by a descriptor of the process, not by the end of its channel, which a
forked child might hold open. All methods but `wake` belong to one thread.
"""

from __future__ import annotations

import contextlib
import json
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
from virnucpro_exporter.scheduling.events import Event, StartAttempt, WorkerLoading, WorkerLost
from virnucpro_exporter.workers import sentinel, wire
from virnucpro_exporter.workers.process import Child
from virnucpro_exporter.workers.vitals import Silent, Vitals

# A worker whose channel is closed is on its way out; one that is still there then is killed.
LEAVE_SECONDS = 1.0


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
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        factory: str,
        attempts: Path,
        logs: Path,
        devices: Mapping[str, Mapping[str, str]],
        folder: str | None = None,
        look_seconds: float = 10.0,
        uses_gpu: Callable[[str], bool] | None = None,
    ) -> None:
        self._folder = folder
        self._spec = dict(spec)
        self._factory = factory
        self._attempts = attempts
        self._logs = logs
        self._devices = devices
        self._workers: dict[str, Child] = {}
        self._slots: dict[str, tuple[int, mmap.mmap]] = {}
        self._events: list[Event] = []
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        for descriptor in (self._wake_reader, self._wake_writer):
            os.set_blocking(descriptor, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._sentinel = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-I", "-S", sentinel.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )

        self._look_seconds = look_seconds
        self._vitals = Vitals(self._silent, attempts, look_seconds, self.wake, uses_gpu)
        self._vitals.start()

    def log_path(self, gpu: str) -> Path:
        """The file that takes what a worker prints."""
        return self._logs / f"worker-{gpu.replace('/', '_')}.log"

    def _open_log(self, gpu: str) -> IO[bytes]:
        path = self.log_path(gpu)
        try:
            return path.open("ab")
        except OSError as error:
            raise OutputError(f"{str(path)!r}: {error.strerror}") from error

    def spawn(self, gpu: str) -> None:
        """Start the process of a worker that has none; `WorkerReady` or `WorkerLost` follows.

        Raises:
            OutputError: The worker's log cannot be written.
        """
        descriptor, slot = self._slot(gpu)
        slot[:8] = bytes(8)
        channel, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.setblocking(False)  # noqa: FBT003 - the standard library's signature
        config = {
            "gpu": gpu,
            "factory": self._factory,
            "spec": self._spec,
            "attempts": str(self._attempts),
            "channel": remote.fileno(),
            "slot": descriptor,
            "path": sys.path,
        }
        with remote, self._open_log(gpu) as log:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "virnucpro_exporter.workers.main", json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, **self._devices.get(gpu, {})},
                pass_fds=(remote.fileno(), descriptor),
                start_new_session=True,
            )
        self._tell_sentinel("+", process.pid)
        worker = self._workers[gpu] = Child(gpu, process, channel)
        self._selector.register(channel, selectors.EVENT_READ, worker)
        self._selector.register(worker.death, selectors.EVENT_READ, worker)
        self._events.append(WorkerLoading(gpu))

    def start(self, gpu: str, actions: Sequence[StartAttempt]) -> None:
        """Hand files to a worker, to be processed in this order.

        A worker that has died in the meantime takes none: its `WorkerLost` is under way.
        """
        messages = ((wire.START, a.attempt, os.fsencode(a.file.path)) for a in actions)
        if worker := self._workers.get(gpu):
            worker.heard_at = time.monotonic()
            for part in wire.split(messages):
                self._send(worker, wire.encode(part))

    def cancel(self, gpu: str, attempt: int) -> None:
        """Stop an attempt: within the worker where its processor can, else with its process."""
        worker = self._workers.get(gpu)
        if worker is None:
            return
        if worker.cancellable:
            self._send(worker, wire.encode([(wire.CANCEL, attempt)]))
        else:
            self.kill(gpu)
            self._events.append(WorkerLost(gpu, "cancelled", restart=True, blame=False))
            self.wake()

    def kill(self, gpu: str) -> None:
        """Kill a worker and all it started; `WorkerLost` does not follow."""
        if worker := self._workers.get(gpu):
            self._bury(worker)

    def poll(self, timeout: float | None) -> list[Event]:
        """What happened, in the order in which each worker told it.

        Args:
            timeout: Seconds to wait for something to happen; None waits until something does.
        """
        if closed := [w for w in self._workers.values() if w.closed_at is not None]:
            timeout = min(LEAVE_SECONDS, LEAVE_SECONDS if timeout is None else timeout)
        for key, mask in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):  # another wake-up has emptied it
                    os.read(self._wake_reader, 4096)
            elif (worker := self._workers.get(key.data.gpu)) and worker is key.data:
                # Any other was killed within this round.
                self._serve(worker, key.fd, mask)
        for worker in closed:
            self._expel(worker)
        events, self._events = [*self._events, *self._vitals.take()], []
        return events

    def wake(self) -> None:
        """End a `poll` early; may be called from any thread and signal handler."""
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups already
            os.write(self._wake_writer, b"\0")

    def drain(self) -> None:
        """Nobody is waited for."""

    def close_idle(self, seconds: float) -> None:
        """Let the workers that process nothing close their processors and leave.

        Args:
            seconds: Whoever takes longer is killed by `close`.
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
        """Kill every worker, and let the sentinel go."""
        self._vitals.stop()
        for worker in list(self._workers.values()):
            self._bury(worker)
        with contextlib.suppress(BrokenPipeError):  # someone killed the sentinel
            self._sentinel.communicate()
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        for descriptor, slot in self._slots.values():
            slot.close()
            os.close(descriptor)
        self._slots.clear()

    def _slot(self, gpu: str) -> tuple[int, mmap.mmap]:
        """The shared memory in which a worker keeps the number of its attempt, plus one."""
        if gpu not in self._slots:
            descriptor = os.memfd_create("attempt")
            os.ftruncate(descriptor, mmap.PAGESIZE)
            self._slots[gpu] = descriptor, mmap.mmap(descriptor, mmap.PAGESIZE)
        return self._slots[gpu]

    def _running(self, worker: Child) -> int | None:
        """The attempt that a worker processes, or None."""
        (number,) = struct.unpack("q", self._slots[worker.gpu][1][:8])
        return number - 1 if number else None

    def _silent(self) -> Iterator[Silent]:
        """The workers whose processes are looked at; called by another thread."""
        since = time.monotonic() - self._look_seconds
        for worker in list(self._workers.values()):
            if worker.heard_at <= since and (attempt := self._running(worker)) is not None:
                yield Silent(worker.gpu, worker.process.pid, attempt)

    def _tell_sentinel(self, sign: str, pid: int) -> None:
        stdin = self._sentinel.stdin
        with contextlib.suppress(BrokenPipeError):  # someone killed it; workers still leave at EOF
            if stdin is not None:
                stdin.write(f"{sign}{pid}\n".encode())

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
        except ConnectionError:  # it is dying; its death is told by `poll`
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
            self._receive(worker)

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
            if worker.channel in self._selector.get_map():
                self._selector.unregister(worker.channel)
            return False
        worker.heard_at = time.monotonic()
        heard = map(worker.hear, wire.decode(packet))
        self._events += [event for event in heard if event is not None]
        return True

    def _expel(self, worker: Child) -> None:
        """Kill a worker that lives on without a channel, once it had the time to leave."""
        since = worker.closed_at
        if since is not None and time.monotonic() - since >= LEAVE_SECONDS:
            worker.is_expelled = True
            worker.process.kill()

    def _lose(self, worker: Child) -> None:
        """Tell how a worker died, once all it said has been heard."""
        running = self._running(worker)
        self._bury(worker)
        self._events.append(worker.loss(running))

    def _bury(self, worker: Child) -> None:
        """Kill a worker's whole session, reap it and forget it."""
        pid = worker.process.pid
        sentinel.kill_session(pid)  # before it is reaped: the number cannot have a new owner
        worker.process.wait()
        self._tell_sentinel("-", pid)
        for registered in (worker.channel, worker.death):
            if registered in self._selector.get_map():
                self._selector.unregister(registered)
        worker.channel.close()
        os.close(worker.death)
        del self._workers[worker.gpu]
