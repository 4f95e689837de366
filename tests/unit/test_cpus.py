"""How many CPUs a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from virnucpro_exporter.app.cpus import usable_cpus

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 30 0:30 {} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose affinity mask has 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def root(folder: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    """A tree with `proc` and control groups."""
    written = {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}
    for name, text in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("mounts", "group", "files", "cpus"),
    [
        (V2, "0::/", {}, 16),
        (V2, "0::/", {"cpu.max": "max 100000"}, 16),
        (V2, "0::/", {"cpu.max": "350000 100000"}, 3),
        (V2, "0::/", {"cpu.max": "50000 100000"}, 1),
        (V2, "0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        (V2, "0::/a/b", {"a/cpu.max": "900000 100000", "a/b/cpu.max": "400000 100000"}, 4),
        (V2, "0::/not/here", {"cpu.max": "500000 100000"}, 5),
        (V2, "0::/../../outside", {"cpu.max": "500000 100000"}, 5),
        (V2, "0::/", {"cpu.max": "garbage"}, 16),
        ("garbage", "garbage", {}, 16),
        ("", "", {}, 16),
    ],
)
def test_quota_of_version_2(
    tmp_path: Path, mounts: str, group: str, files: dict[str, str], cpus: int
) -> None:
    """The tightest quota of the groups around the process, in whole CPUs."""
    placed = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert usable_cpus(root(tmp_path, mounts, group, placed)) == cpus


@pytest.mark.parametrize(
    ("within", "group", "quota", "cpus"),
    [
        ("/", "/job", "600000", 6),
        ("/docker/x", "/docker/x/job", "600000", 6),
        ("/", "/job", "-1", 16),
    ],
)
def test_quota_of_version_1(tmp_path: Path, within: str, group: str, quota: str, cpus: int) -> None:
    """Also in a container, in which the mounted tree begins at its own group."""
    folder = "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_"
    files = {folder + "quota_us": quota, folder + "period_us": "100000"}
    groups = f"4:memory:/other\n3:cpu,cpuacct:{group}\n0::/"
    assert usable_cpus(root(tmp_path, V1.format(within), groups, files)) == cpus


def test_no_proc(tmp_path: Path) -> None:
    """Without `/proc` the affinity mask counts."""
    assert usable_cpus(tmp_path) == 16
