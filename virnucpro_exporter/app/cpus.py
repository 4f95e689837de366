"""How many CPUs this process may use: by its affinity, and by the quotas of its control groups.

`os.cpu_count()` counts those of the machine; SLURM, Docker and Kubernetes give a job some of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cpus(root: Path = Path("/")) -> int:
    """The CPUs that this process may keep busy, 1 at least.

    Args:
        root: Where `proc` and the mounted control groups are.
    """
    return max(1, int(min([len(os.sched_getaffinity(0)), *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The limits, in CPUs, of the groups of this process and of those around them.

    The outermost group has no such files, and no quota is written as `max` or as -1.
    """
    for folder in _groups(root):
        words = " ".join(_lines(folder / "cpu.max")).split()  # version 2
        if not words:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [line for name in names for line in _lines(folder / name)]
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
            yield int(words[0]) / int(words[1])


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, inner ones first.

    What is mounted may begin within the tree of groups; a container then sees its own as the root.
    """
    for mount, within, is_v2 in _mounts(root):
        for group in _paths(root, is_v2=is_v2):
            try:
                inner = PurePosixPath(group).relative_to(within)
            except ValueError:
                inner = PurePosixPath()
            for part in (inner, *inner.parents):
                yield mount / part


def _mounts(root: Path) -> Iterator[tuple[Path, str, bool]]:
    """Where control groups of CPUs are mounted, which of them is at the top, and their version."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        is_v2 = kind[0] == "cgroup2"
        if is_v2 or (kind[0] == "cgroup" and "cpu" in kind[2].split(",")):
            yield root / fields[4].lstrip("/"), fields[3], is_v2


def _paths(root: Path, *, is_v2: bool) -> Iterator[str]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if (controllers == "") if is_v2 else ("cpu" in controllers.split(",")):
            yield group


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
