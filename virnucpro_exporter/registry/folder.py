"""The shared folder of a machine in which runs are announced.

Several users share it, so it is sticky: each can add files, but cannot remove those of another.
Files are opened without following links, and their owner is read from the file system, not from
their content. The path of a Unix socket is limited to 107 bytes, so sockets are addressed through a
descriptor of the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from virnucpro_exporter.errors import UsageError

VARIABLE = "VIRNUCPRO_RUN_REGISTRY"
_MACHINE = Path("/run/virnucpro-exporter/runs")
_PRESENCE = "serve.sock"
_ENTRY = re.compile(r"([0-9a-f]{12})\.json", re.ASCII)
_BACKLOG = 1024
_CLOSED = -1  # no descriptor has this number
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group


def places(named: str | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The possible paths of the folder, the preferred one first.

    Args:
        named: The path that the user has chosen, or None.
        environment: The environment of the process.
    """
    chosen = named or environment.get(VARIABLE)
    if chosen:
        return (Path(chosen).absolute(),)
    own = environment.get("XDG_RUNTIME_DIR")
    return (_MACHINE, *((Path(own) / "virnucpro-exporter" / "runs",) if own else ()))


def for_a_run(named: str | None, environment: Mapping[str, str]) -> Path | None:
    """The folder in which a run is announced; None where none can be used and none was named.

    The machine's folder is used where it exists. A folder that the user has named, or the user's
    own one, is created.

    Raises:
        UsageError: A folder that the user has named cannot be used.
    """
    found = places(named, environment)
    for place in found:
        if place != _MACHINE:
            with contextlib.suppress(OSError):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = refusal(place)
        if not why:
            return place
        if named:
            raise UsageError(f"--run-registry {named}: {why}")
    return None


def for_serve(named: str | None, environment: Mapping[str, str]) -> list[Path]:
    """The folders that `serve` searches for runs; created where that is possible.

    The machine's folder is opened to all users (mode 1777). The mode of any other folder that
    exists is not changed.

    Raises:
        UsageError: A folder that the user has named cannot be used.
    """
    found = places(named, environment)
    for place in found:
        with contextlib.suppress(OSError):
            if place == _MACHINE:
                place.mkdir(parents=True, exist_ok=True)
                if place.lstat().st_uid == os.geteuid():
                    place.chmod(0o1777)
            else:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if named and (why := refusal(place)):
            raise UsageError(f"--run-registry {named}: {why}")
    return [place for place in found if place == _MACHINE or not refusal(place)]


def refusal(folder: Path) -> str:
    """Why a folder cannot be trusted or used, in one line; empty when it can."""
    try:
        found = folder.lstat()
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a folder, or is a link"
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return "any user may remove files in it; run chmod +t"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "it is not writable"


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a socket, as the kernel reports it.

    Attributes:
        pid: The process id; 0 where it is not visible from this namespace.
        uid: The user id.
    """

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """The other end of a connected Unix socket."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return Peer(pid, uid)


class Folder:
    """An open folder of runs.

    Args:
        path: The path of the folder.

    Raises:
        OSError: The folder cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.owner = os.fstat(self._fd).st_uid

    def close(self) -> None:
        """Close the descriptor; what still uses the folder fails, as if it did not exist."""
        fd, self._fd = self._fd, _CLOSED  # the number may soon be that of another file
        os.close(fd)

    def is_the_same(self) -> bool:
        """Whether the folder at the path is still the one that is open."""
        try:
            return os.path.samestat(os.fstat(self._fd), self.path.lstat())
        except OSError:
            return False

    def address(self, name: str) -> str:
        """The address of a socket, however long the path of the folder is."""
        return f"/proc/self/fd/{self._fd}/{name}"

    def entries(self) -> list[str]:
        """The ids of the runs that are announced."""
        names = os.listdir(self._fd)  # noqa: PTH208 - of a descriptor
        return [found[1] for name in names if (found := _ENTRY.fullmatch(name))]

    def read(self, run_id: str, most: int) -> tuple[bytes, int, float]:
        """The content of an entry, the user id of its owner, and its time in Unix seconds.

        Args:
            run_id: The id of the run.
            most: The largest size of an entry, in bytes.

        Raises:
            OSError: The entry does not exist, is not a regular file, or is too large.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(f"{run_id}.json", flags, dir_fd=self._fd)
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError("not a regular file")
            data = file.read(most + 1)
        if len(data) > most:
            raise OSError("too large")
        return data, found.st_uid, found.st_mtime

    def write(self, run_id: str, data: bytes) -> None:
        """Create or replace the entry of a run; all users can read it.

        Raises:
            OSError: The entry cannot be written.
        """
        unfinished = f".{run_id}.{os.getpid()}"
        self._unlink(unfinished)  # left by a killed process with the same id
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(unfinished, flags, 0o600, dir_fd=self._fd)
        try:
            with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
                os.fchmod(fd, 0o644)
                file.write(data)
            os.rename(unfinished, f"{run_id}.json", src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self._unlink(unfinished)
            raise

    def has_entry(self, run_id: str) -> bool:
        """Whether the entry of a run exists."""
        try:
            os.stat(f"{run_id}.json", dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def remove(self, run_id: str) -> None:
        """Remove the files of a run, as far as this user may."""
        self._unlink(f"{run_id}.sock")
        self._unlink(f"{run_id}.json")

    def listen(self, run_id: str) -> socket.socket:
        """Create the socket of a run; any user can connect, and the caller checks which user it is.

        Raises:
            OSError: The socket cannot be created.
        """
        return self._listen(f"{run_id}.sock")

    def unlisten(self, run_id: str) -> None:
        """Remove the name of a run's socket."""
        self._unlink(f"{run_id}.sock")

    def _listen(self, name: str) -> socket.socket:
        self._unlink(name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.address(name))
            os.chmod(name, 0o666, dir_fd=self._fd)  # noqa: S103 - the user of each connection is checked
            listener.listen(_BACKLOG)
            listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        except BaseException:
            listener.close()
            raise
        return listener

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._fd)

    def appear(self) -> socket.socket | None:
        """Create the socket by which runs detect a `serve`.

        Returns:
            The socket, to be kept open while `serve` runs; None where another `serve` has one, or
            the folder cannot be written.
        """
        try:
            return None if self.server() else self._listen(_PRESENCE)
        except OSError:
            return None

    def disappear(self) -> None:
        """Remove the socket by which runs detect a `serve`."""
        self._unlink(_PRESENCE)

    def server(self) -> Peer | None:
        """The `serve` process of this folder, or None.

        Only processes of root, of the owner of the folder and of the user of this process count.
        """
        with self._connected(_PRESENCE) as connection:
            found = None if connection is None else peer_of(connection)
        return found if found is not None and found.uid in self.trusted() else None

    def answers(self, run_id: str) -> bool:
        """Whether the socket of a run accepts connections."""
        with self._connected(f"{run_id}.sock") as connection:
            return connection is not None

    def processes(self) -> frozenset[int]:
        """The process ids of the runs in progress, as the kernel reports them."""
        found = set()
        for run_id in self.entries():
            with self._connected(f"{run_id}.sock") as connection:
                if connection is not None and (pid := peer_of(connection).pid):
                    found.add(pid)
        return frozenset(found)

    def trusted(self) -> tuple[int, int, int]:
        """The ids of the users who may read the full state of this process's runs."""
        return (0, os.geteuid(), self.owner)

    @contextlib.contextmanager
    def _connected(self, name: str) -> Iterator[socket.socket | None]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(0)
            try:
                connection.connect(self.address(name))
            except OSError:  # it does not exist, no process listens, or its backlog is full
                yield None
            else:
                yield connection
