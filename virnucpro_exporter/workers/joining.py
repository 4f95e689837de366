"""How the results of the parts of a file are put together, as its processor says.

A processor has an attribute `joins` or a method `join(parts, output)`; one that has neither gets
whole files. `joins` is `concatenate`, or `number` where the results of the parts are left as files
that are numbered in the order of the file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONCATENATE, NUMBER = "concatenate", "number"

_COPY_BYTES = 1 << 26


def can_split(processor: Any) -> bool:
    """Whether a processor does parts of files."""
    return getattr(processor, "joins", None) is not None or hasattr(processor, "join")


def shrinks(processor: Any) -> bool:
    """Whether a part may end sooner while the processor reads it."""
    return can_split(processor) and getattr(processor, "shrinks", True)


def join(processor: Any, file: Path, parts: Sequence[Path], output: Path) -> None:
    """Put the results of a file's parts together.

    Args:
        processor: Says how.
        file: The file.
        parts: The folder of each part's results, in order; they stay as they are.
        output: An empty folder, for the results of the file.

    Raises:
        OSError: They cannot be read or written.
    """
    names = processor.output_names(file)
    if hasattr(processor, "join"):
        processor.join([folder / names[0] for folder in parts], output / names[0])
        return
    for name in names:
        if processor.joins == NUMBER and len(parts) > 1:
            for number, folder in enumerate(parts, 1):
                _copy(folder / name, output / _numbered(name, number))
        else:
            _concatenate([folder / name for folder in parts], output / name)


def _numbered(name: str, number: int) -> str:
    """The name of the results of one part: `a_ESM.pt` is `a_ESM_1.pt` for the first."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}_{number}.{suffix}" if stem and dot else f"{name}_{number}"


def _copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _concatenate(sources: Sequence[Path], target: Path) -> None:
    with target.open("wb", buffering=0) as written:
        for source in sources:
            with source.open("rb", buffering=0) as read:
                _append(read.fileno(), written.fileno())


def _append(read: int, written: int) -> None:
    """Copy what is left of one file to the end of another, without a way through this process."""
    left = os.fstat(read).st_size
    while left > 0:
        try:
            done = os.copy_file_range(read, written, min(left, _COPY_BYTES))
        except OSError:  # between two file systems, or one that cannot
            done = os.sendfile(written, read, None, min(left, _COPY_BYTES))
        if not done:
            raise OSError("the result of a part has become shorter")
        left -= done
