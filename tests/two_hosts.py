"""Two hosts on this machine: two network namespaces with a cable between them.

Both are new, so that nothing of it touches the network of the machine.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """One of the two.

    Attributes:
        address: Its own.
        enter: What a command line begins with to be run there.
    """

    address: str
    enter: tuple[str, ...]


class TwoHosts:
    """A near and a far host; they are gone at the end of the context, and with this process.

    Raises:
        OSError: They cannot be had here; the message says why.
    """

    def __init__(self) -> None:
        self._holders = [
            subprocess.Popen(
                ["unshare", "--net", "cat"],  # noqa: S607 - on PATH, or there are no hosts
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        self.near, self.far = (
            Host(f"10.0.0.{number}", ("nsenter", f"--target={holder.pid}", "--net"))
            for number, holder in enumerate(self._holders, 1)
        )

    def cut(self) -> None:
        """Pull the cable out."""
        _run(self.far, "ip", "link", "set", "cable", "down")

    def mend(self) -> None:
        """Put it in again."""
        _run(self.far, "ip", "link", "set", "cable", "up")

    def _connect(self) -> None:
        for holder in self._holders:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stderr is not None
            holder.stdin.write(b"there\n")
            holder.stdin.flush()
            if not holder.stdout.readline():
                raise OSError(holder.stderr.read().decode().strip())
        peer = ("peer", "name", "cable", "netns", str(self._holders[1].pid))
        _run(self.near, "ip", "link", "add", "cable", "type", "veth", *peer)
        for host in (self.near, self.far):
            _run(host, "ip", "address", "add", f"{host.address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _run(host, "ip", "link", "set", device, "up")

    def __enter__(self) -> TwoHosts:  # noqa: PYI034 - typing.Self needs Python 3.11
        try:
            self._connect()
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders:
            holder.communicate()


def _run(host: Host, *words: str) -> None:
    done = subprocess.run([*host.enter, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
