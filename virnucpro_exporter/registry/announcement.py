"""The run's end of the registry: its entry, a socket that sends its state, and its result."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from virnucpro_exporter.registry.folder import Folder, peer_of
from virnucpro_exporter.registry.record import LONGEST_ENTRY, Address, Record, encode, public
from virnucpro_exporter.snapshot import RunSnapshot

_log = logging.getLogger(__name__)

LENGTH = struct.Struct(">I")  # the length in bytes, before each state that is sent

_MOST_READERS = 8
_SEND_SECONDS = 1.0  # the time limit for sending a state to a reader
_OLD_SECONDS = 86400.0
_MOST_TIDIED = 200
_LOOK_SECONDS = 5.0  # between two checks that the entry still exists


class Announcement:
    """The announcement of a run, which `serve` on the same machine can find.

    A thread answers each byte from a reader with the newest state. Without a reader it only checks
    every few seconds that the entry exists; one that was removed is written again.

    Args:
        path: The folder of runs.
        run_id: The id of the run.
        latest: Returns the newest state of the run; may be replaced.
        origin: A text that stands for the output folder; see `record.origin_of`.
        address: Where the run serves metrics of its own, if it does.

    Attributes:
        latest: As given.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        run_id: str,
        latest: Callable[[], RunSnapshot],
        origin: str = "",
        address: Address | None = None,
    ) -> None:
        self.latest = latest
        self._path = path
        self._run_id = run_id
        self._origin = origin
        self._address = address
        self._lock = threading.Lock()
        self._readers: set[socket.socket] = set()
        self._end: Record | None = None
        self._folder, self._listener = self._open()
        _tidy(self._folder)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="run-registry", daemon=True)
        self._thread.start()

    def serves_at(self, address: Address) -> None:
        """Add the address of the run's own metrics to the entry."""
        self._address = address
        with contextlib.suppress(OSError):  # it is written again later
            self._write()

    def close(self, end: RunSnapshot) -> None:
        """Write the result into the entry and close the socket. A second call does nothing.

        Args:
            end: The last state, with the result of the run.
        """
        if self._end is not None:
            return
        self._end = Record(end, self._origin)
        self._wake.send(b"!")
        self._thread.join()
        self._wake.close()
        self._woken.close()
        self._folder.close()

    def _open(self) -> tuple[Folder, socket.socket]:
        folder = Folder(self._path)
        try:
            listener = folder.listen(self._run_id)
            try:
                folder.write(self._run_id, encode(public(self._record())))
            except BaseException:
                listener.close()
                folder.unlisten(self._run_id)
                raise
        except BaseException:
            folder.close()
            raise
        return folder, listener

    def _record(self) -> Record:
        return Record(self.latest(), self._origin, self._address)

    def _write(self) -> None:
        with self._lock:
            self._folder.write(self._run_id, encode(public(self._end or self._record())))

    def _run(self) -> None:
        """The loop of the thread."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while self._end is None:
                for key, _ in selector.select(_LOOK_SECONDS):
                    ready = key.fileobj
                    if ready is self._listener:
                        self._accept(selector)
                    elif isinstance(ready, socket.socket) and ready in self._readers:
                        self._answer(ready, selector)
                self._look(selector)
            self._finish(self._end)

    def _look(self, selector: selectors.BaseSelector) -> None:
        """Announce the run again where its entry was removed."""
        if self._folder.is_the_same() and self._folder.has_entry(self._run_id):
            return
        try:
            folder, listener = self._open()
        except OSError:  # the folder does not exist; it may return
            return
        selector.unregister(self._listener)
        self._listener.close()
        with self._lock:
            before, self._folder = self._folder, folder
        before.close()
        self._listener = listener
        selector.register(listener, selectors.EVENT_READ)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            reader, _ = self._listener.accept()
        except OSError:  # it has gone again, or there are no file descriptors
            return
        if peer_of(reader).uid not in self._folder.trusted() or len(self._readers) >= _MOST_READERS:
            reader.close()
            return
        reader.settimeout(_SEND_SECONDS)
        self._readers.add(reader)
        selector.register(reader, selectors.EVENT_READ)

    def _answer(self, reader: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            if reader.recv(1):
                _send(reader, self._record())
                return
        except OSError:  # it has gone, or takes nothing
            pass
        selector.unregister(reader)
        self._readers.discard(reader)
        reader.close()

    def _finish(self, end: Record) -> None:
        """Send the result to the readers, and write it into the entry for later ones."""
        self._listener.close()
        try:
            self._write()
        except OSError as error:
            _log.warning("the end of the run cannot be announced: %s", error.strerror)
        for reader in self._readers:
            with contextlib.suppress(OSError):
                _send(reader, end)
            reader.close()
        self._folder.unlisten(self._run_id)


def _send(reader: socket.socket, record: Record) -> None:
    data = encode(record)
    reader.sendall(LENGTH.pack(len(data)) + data)


def _tidy(folder: Folder) -> None:
    """Remove old entries of this user's runs, for machines on which no `serve` removes them."""
    for run_id in folder.entries()[:_MOST_TIDIED]:
        with contextlib.suppress(OSError):
            _, uid, written = folder.read(run_id, LONGEST_ENTRY)
            is_old = time.time() - written > _OLD_SECONDS
            if uid == os.geteuid() and is_old and not folder.answers(run_id):
                folder.remove(run_id)
