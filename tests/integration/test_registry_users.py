from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders
from tests.run_program import until
from virnucpro_exporter.registry.announcement import Announcement
from virnucpro_exporter.registry.finder import RunFinder
from virnucpro_exporter.registry.folder import Folder
from virnucpro_exporter.registry.storage import RunStorage
from virnucpro_exporter.snapshot import RunResult

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")

NOBODY = 65534
OTHER = 65533


@contextmanager
def as_user(uid: int, act: Callable[[], object]) -> Iterator[int]:
    """A process of a user that does something and then waits; its number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            act()
            os.write(writer, b"!")
            threading.Event().wait()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"!"
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of runs that all users can reach."""
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as made:
        folder = Path(made)
        folder.chmod(0o1777)
        yield folder


def announce(folder: Path, run_id: str, name: str) -> None:
    """Announce a run in full swing."""
    run = replace(builders.running(now=time.time()), name=name)
    Announcement(folder, run_id, lambda: run)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_users_share_a_folder_and_trust_nothing_of_each_other(shared: Path) -> None:
    """A run is shown with its user, a socket of another is refused, and a killed run stays."""
    mine, forged = "a" * 12, "b" * 12

    def forge() -> None:
        # An entry of this user whose socket is that of another.
        announce(shared, "c" * 12, "honest")
        with closing(Folder(shared)) as folder:
            data, _, _ = folder.read(mine, 10**6)
            folder.write(forged, data)
        (shared / f"{forged}.sock").symlink_to(shared / f"{mine}.sock")

    finder = RunFinder([shared], 3600.0, RunStorage(None))
    with (
        as_user(NOBODY, lambda: announce(shared, mine, "night")) as pid,
        as_user(OTHER, forge),
    ):
        finder.start()
        try:
            until(lambda: len(finder.processes()) == 2)
            assert pid in finder.processes()
            until(lambda: len(finder.latest()) == 2)  # without the forged one
            users = {run.name: run.user for run in finder.latest()}
            assert users["night"] in ("nobody", str(NOBODY))
            assert users["honest"] == str(OTHER)
            with closing(Folder(shared)) as folder:
                assert (shared / f"{mine}.json").stat().st_uid == NOBODY
                assert folder.server() is not None
            os.kill(pid, signal.SIGKILL)

            def ends() -> list[RunResult]:
                return [
                    run.end.result for run in finder.latest() if run.end and run.name == "night"
                ]

            until(lambda: ends() == [RunResult.VANISHED])
        finally:
            finder.stop()
