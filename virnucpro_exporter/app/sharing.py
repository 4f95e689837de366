"""Which files of a run several workers could share, and why not the others: for `--dry-run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from virnucpro_exporter.config import Scheduling
from virnucpro_exporter.files.looking import look_at
from virnucpro_exporter.processors import build
from virnucpro_exporter.scheduling.policy import NoStealing
from virnucpro_exporter.sequences import extent
from virnucpro_exporter.stores.paths import path_of
from virnucpro_exporter.text import clean, counted
from virnucpro_exporter.workers.joining import can_split

_MOST_NAMED = 3


def sharing_text(spec: Mapping[str, Any], scheduling: Scheduling, paths: Sequence[str]) -> str:
    """What could be split, in one line.

    Args:
        spec: The processor.
        scheduling: Whether files may be split.
        paths: The files.
    """
    why = _why_whole(spec, scheduling)
    if why:
        return f"files are not split: {why}"
    whole = [
        path
        for path, can_be in zip(paths, look_at(paths, _can_be_entered), strict=True)
        if not can_be
    ]
    shared = f"{len(paths) - len(whole):,} of {counted(len(paths), 'file')}"
    if spec["kind"] == "python":
        said = f"if {spec['target']} defines how results are joined (seen when workers start)"
        line = f"{shared} can be shared by idle workers, {said}"
    else:
        line = f"{shared} can be shared by idle workers"
    if not whole:
        return line
    named = ", ".join(repr(clean(path)) for path in whole[:_MOST_NAMED])
    more = len(whole) - _MOST_NAMED
    named += f" and {more:,} more" if more > 0 else ""
    cannot = "empty, bzip2 and xz files and those on servers without range requests cannot be split"
    return f"{line}, except {named}: {cannot}"


def may_do_parts(spec: Mapping[str, Any]) -> bool:
    """Whether a processor may process parts of files; for user code only the workers know that."""
    return spec["kind"] == "python" or can_split(build(spec))


def _why_whole(spec: Mapping[str, Any], scheduling: Scheduling) -> str:
    """Why no file is split; empty where files are."""
    if not scheduling.may_split:
        return "--split never"
    if scheduling.balancer == NoStealing.name:
        return f"--balancer {NoStealing.name}"
    if may_do_parts(spec):
        return ""
    if spec["kind"] == "command":
        return "commands process parts of files only with --split SIZE or --join"
    return f"{spec['kind']} cannot process parts of files"


def _can_be_entered(path: str) -> bool:
    """Whether a reader can begin in the middle; False where the file cannot be opened."""
    try:
        return extent(path_of(path)) is not None
    except OSError:
        return False
