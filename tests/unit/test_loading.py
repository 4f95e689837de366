"""Models that are loaded one worker after another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnucpro_exporter.processors import loading
from virnucpro_exporter.processors.loading import available_bytes, bytes_to_load, turn_to_load

OTHER = """
import sys
from virnucpro_exporter.processors.loading import turn_to_load
with turn_to_load(1000, lambda: 0):
    print("loads", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Another worker of the same user, which loads until its input ends."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"loads\n"
        yield process
        process.kill()


def test_workers_load_together_where_memory_is_enough(other: subprocess.Popen[bytes]) -> None:
    """Enough is what all that load need at once; what is not known keeps no worker waiting."""
    for free in (2000, None):
        with turn_to_load(1000, lambda free=free: free, pytest.fail):  # type: ignore[misc]
            assert other.poll() is None


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_worker_waits_where_memory_is_short(
    other: subprocess.Popen[bytes], is_killed: bool
) -> None:
    """Until the other has loaded, or has died; alone it loads whatever is free."""
    pauses = []

    def pause() -> None:
        pauses.append(other.poll())
        if is_killed:
            other.kill()
        elif other.stdin is not None:
            other.stdin.close()
        other.wait()

    with turn_to_load(1000, lambda: 1999, pause):
        assert pauses == [None]


def test_a_folder_of_another_user_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file cannot be ours, no worker waits."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").touch()
    (tmp_path / f"virnucpro-exporter-{os.getuid()}.loading").symlink_to("elsewhere")
    with turn_to_load(1000, lambda: 0, pytest.fail):
        pass


def test_what_loading_takes(tmp_path: Path) -> None:
    """Weights in safetensors need no main memory on the way to a GPU, others do."""
    one, two = tmp_path / "one", tmp_path / "two"
    for path, size in ((one / "a.safetensors", 10), (one / "a.bin", 11), (two / "b.bin", 500)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
    for is_direct, size in ((True, 500), (False, 510)):
        needed = bytes_to_load({str(one): is_direct, str(two): is_direct})
        assert needed - loading.BESIDE_BYTES == size


def test_free_memory_is_known_here() -> None:
    """It is a part of the machine's."""
    free = available_bytes()
    assert free is not None
    assert free > 0
