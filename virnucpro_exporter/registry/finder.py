"""The end of `serve`: finds the runs of this machine, polls their state, and detects their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pwd
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from virnucpro_exporter.registry.announcement import LENGTH
from virnucpro_exporter.registry.folder import Folder, Peer, peer_of
from virnucpro_exporter.registry.kept import Kept, KeptRuns
from virnucpro_exporter.registry.record import (
    LONGEST_ENTRY,
    LONGEST_STATE,
    Record,
    RecordError,
    decode,
)
from virnucpro_exporter.registry.storage import RunStorage
from virnucpro_exporter.snapshot import Latest, RunSnapshot

_log = logging.getLogger(__name__)

_SCAN_SECONDS = 1.0  # between two scans of the folders
ASK_SECONDS = 2.0  # between two requests to a run
_ANSWER_SECONDS = 10.0  # the time limit for an answer; the run may be stopped (SIGSTOP)
_CONNECT_SECONDS = 2.0
_REMEMBER_SECONDS = 30.0  # between two writes of the runs to the storage
_FORGET_SECONDS = 600.0  # after which an entry that was refused is read again
_RETURN_SECONDS = 15.0  # for a run to be announced again in a folder that was cleared
_MOST_ENTRIES = 1000  # in one folder


class RunFinder:
    """Watches folders of runs from a thread of its own.

    Args:
        folders: The folders of the registry; they may be created and removed at any time.
        keep: Seconds for which a run is shown after its end.
        storage: Keeps runs across a restart of `serve`.
        clock: Unix seconds.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        keep: float,
        storage: RunStorage,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._paths = tuple(folders)
        self._clock = clock
        self._storage = storage
        self._kept = KeptRuns(keep)
        self._latest: Latest[tuple[RunSnapshot, ...]] = Latest(())
        self._live: Latest[tuple[Kept, ...]] = Latest(())
        self._folders: dict[Path, Folder] = {}
        self._presence: dict[Path, socket.socket] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, float] = {}
        self._missing: dict[str, float] = {}
        self._remembered_at = float("-inf")
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None

    def latest(self) -> tuple[RunSnapshot, ...]:
        """All runs, in the order in which they began; those that have ended have a result."""
        return self._latest.latest()

    def live(self) -> tuple[Kept, ...]:
        """Those that go on, with their processes and addresses."""
        return self._live.latest()

    def processes(self) -> frozenset[int]:
        """The processes of the runs that go on."""
        return frozenset(kept.pid for kept in self.live() if kept.pid)

    def start(self) -> None:
        """Read the stored runs, and start the thread."""
        self._kept.restore(self._storage.read())
        loop, stopped = asyncio.new_event_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        self._thread = threading.Thread(
            target=self._run, args=(loop, stopped), name="run-finder", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, which stores the runs."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop()
            thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
        try:
            loop.run_until_complete(self._watch(stopped))
        finally:
            loop.close()

    async def _watch(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - entries of other users must not end the search; logged
                _log.exception("error while looking for runs; the search continues")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopped.wait(), _SCAN_SECONDS)
        for task in self._following.values():
            task.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        self._storage.write(dict(self._kept))
        for path, folder in self._folders.items():
            if (presence := self._presence.pop(path, None)) is not None:
                presence.close()
                folder.disappear()
            folder.close()

    def _turn(self) -> None:
        """Scan all folders once."""
        now = self._clock()
        seen: set[str] = set()
        for path in self._paths:
            folder = self._open(path)
            if folder is not None:
                for run_id in folder.entries()[:_MOST_ENTRIES]:
                    seen.add(run_id)
                    self._look_at(folder, run_id, now)
        for key, kept in list(self._kept):
            # Neither announced nor followed: the folder was cleared, by a reboot for example.
            if not kept.is_live or key in seen or key in self._following:
                self._missing.pop(key, None)
            elif now - self._missing.setdefault(key, now) >= _RETURN_SECONDS:
                self._kept.vanish(key, now)
        for key in self._kept.expire(now):
            for folder in self._folders.values():
                folder.remove(key)
        self._refused = {k: at for k, at in self._refused.items() if now - at < _FORGET_SECONDS}
        self._publish()
        if now - self._remembered_at >= _REMEMBER_SECONDS:
            self._remembered_at = now
            self._storage.write(dict(self._kept))

    def _open(self, path: Path) -> Folder | None:
        """The folder at a path, if it exists; creates the socket by which runs detect `serve`."""
        folder = self._folders.get(path)
        if folder is None or not folder.is_the_same():
            if folder is not None:
                folder.close()
                del self._folders[path]
                if (gone := self._presence.pop(path, None)) is not None:
                    gone.close()
            try:
                folder = self._folders[path] = Folder(path)
            except OSError:  # it may be created later
                return None
        if path not in self._presence and (presence := folder.appear()) is not None:
            self._presence[path] = presence
        self._drain(path)
        return folder

    def _drain(self, path: Path) -> None:
        """Close the connections of runs that have checked for a `serve`."""
        presence = self._presence.get(path)
        with contextlib.suppress(BlockingIOError):
            while presence is not None:
                presence.accept()[0].close()

    def _look_at(self, folder: Folder, run_id: str, now: float) -> None:
        """Follow a run that is not followed yet."""
        kept = self._kept.get(run_id)
        is_over = kept is not None and not kept.is_live
        if run_id in self._following or run_id in self._refused or is_over:
            return
        try:
            record, uid = self._read(folder, run_id, kept)
        except (OSError, RecordError) as error:
            self._refused[run_id] = now
            _log.warning("a run in %s is not shown: %s", folder.path, error)
            return
        end = record.run.end
        if end is not None and now - end.timestamp > self._kept.keep:
            self._refused[run_id] = now  # it was shown for as long as it may be
            return
        # What was remembered of a run that goes on is newer than its entry.
        is_news = kept is None or end is not None
        if is_news and not self._kept.update(run_id, record, uid, _user(uid)):
            self._refused[run_id] = now
            _log.warning("user %s has too many runs at once; some are not shown", _user(uid))
            return
        if end is not None:
            self._settle()
            return
        if kept is None:
            _log.info("found run %s of %s", _shown(self._kept.get(run_id)), _user(uid))
        task = asyncio.get_running_loop().create_task(self._follow(folder, run_id, uid))
        self._following[run_id] = task
        task.add_done_callback(lambda done: self._forget(run_id, done))

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        """Remove the task of a run that has ended; an unexpected error is logged."""
        self._following.pop(run_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._refused[run_id] = self._clock()
            _log.error("a run is no longer shown: %r", error)

    def _read(self, folder: Folder, run_id: str, kept: Kept | None) -> tuple[Record, int]:
        """The record in the entry of a run, and the user id of its owner."""
        data, uid, _ = folder.read(run_id, LONGEST_ENTRY)
        if kept is not None and kept.uid != uid:
            raise RecordError("its id belongs to a run of another user")
        record, now = decode(data), self._clock()
        end = record.run.end
        if end is not None and end.timestamp > now:  # or it would be shown for ever
            run = replace(record.run, end=replace(end, timestamp=now))
            record = replace(record, run=run)
        return record, uid

    async def _follow(self, folder: Folder, run_id: str, uid: int) -> None:
        """Request the state of a run repeatedly until it has ended."""
        while True:
            is_there = False
            try:
                is_there = await self._converse(folder, run_id, uid)
            except RecordError as error:
                self._refused[run_id] = self._clock()
                _log.warning("run %s: %s", _shown(self._kept.get(run_id)), error)
                self._kept.disown(run_id, self._clock())
                self._publish()
                return
            except (OSError, EOFError, asyncio.TimeoutError):
                is_there = await self._is_listening(folder, run_id)
            kept = self._kept.get(run_id)
            if kept is None or not kept.is_live:
                self._settle()
                return
            if not is_there:
                self._end(folder, run_id)
                return

    async def _converse(self, folder: Folder, run_id: str, uid: int) -> bool:
        """Request the state over one connection until it ends; False where none can be made."""
        connected = await self._connect(folder, run_id)
        if connected is None:
            return False
        reader, writer, peer = connected
        try:
            if peer.uid != uid:
                raise RecordError("its socket belongs to another user")
            answer = asyncio.ensure_future(_frame(reader))
            try:
                while True:
                    if not answer.done():
                        writer.write(b"?")
                    record = decode(await asyncio.wait_for(answer, _ANSWER_SECONDS))
                    self._kept.update(run_id, record, uid, _user(uid), peer.pid)
                    if record.run.end is not None:
                        return True
                    self._publish()
                    # At its end a run sends its last state without a request.
                    answer = asyncio.ensure_future(_frame(reader))
                    await asyncio.wait({answer}, timeout=ASK_SECONDS)
            finally:
                answer.cancel()
        finally:
            writer.close()

    async def _connect(
        self, folder: Folder, run_id: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Peer] | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        loop = asyncio.get_running_loop()
        try:
            where = folder.address(f"{run_id}.sock")
            await asyncio.wait_for(loop.sock_connect(connection, where), _CONNECT_SECONDS)
            peer = peer_of(connection)
            reader, writer = await asyncio.open_unix_connection(sock=connection)
        except (ConnectionError, FileNotFoundError):
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        return reader, writer, peer

    async def _is_listening(self, folder: Folder, run_id: str) -> bool:
        """Whether the process of a run is there."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            connected = await self._connect(folder, run_id)
            if connected is None:
                return False
            connected[1].close()
        return True

    def _end(self, folder: Folder, run_id: str) -> None:
        """The process of a run has gone: it has left word of its end, or was killed."""
        kept = self._kept.get(run_id)
        with contextlib.suppress(OSError, RecordError):
            record, uid = self._read(folder, run_id, kept)
            if kept is not None and record.run.end is not None:
                self._kept.update(run_id, record, uid, kept.user)
        self._kept.vanish(run_id, self._clock())
        self._settle()
        folder.unlisten(run_id)

    def _settle(self) -> None:
        """A run has ended: that is remembered at once."""
        self._publish()
        self._storage.write(dict(self._kept))

    def _publish(self) -> None:
        runs = sorted((kept for _, kept in self._kept), key=_start)
        live = tuple(kept for kept in runs if kept.is_live)
        self._live.publish(live)
        self._latest.publish(tuple(kept.shown for kept in runs))


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > LONGEST_STATE:
        raise RecordError("its state is too large")
    return await reader.readexactly(length)


def _start(kept: Kept) -> float:
    return kept.record.run.start_timestamp


def _shown(kept: Kept | None) -> str:
    return "" if kept is None else repr(kept.name)


_users: dict[int, str] = {}


def _user(uid: int) -> str:
    """The name of a user, or the number."""
    if uid not in _users:
        try:
            _users[uid] = pwd.getpwuid(uid).pw_name
        except KeyError:
            _users[uid] = str(uid)
    return _users[uid]
