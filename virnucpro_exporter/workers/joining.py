"""How the results of the parts of a file are joined, as its processor specifies.

A processor has an attribute `joins` or a method `join(parts, output)`; one that has neither gets
whole files. `joins` is one of:

- `concatenate`: each result after that of the part before;
- `header`: likewise, but a first line that all have is kept once;
- `number`: the results stay as files that are numbered in the order of the file.

What a part has not left is left out: a part in which no record begins may leave nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from virnucpro_exporter.errors import VirnucproError
from virnucpro_exporter.sequences.texts import compression_of

CONCATENATE, HEADER, NUMBER = "concatenate", "header", "number"

_COPY_BYTES = 1 << 26
_LONGEST_HEADER = 1 << 20  # a longer line is no header


class JoinError(VirnucproError):
    """The results of the parts cannot become one."""


def can_split(processor: Any) -> bool:
    """Whether a processor does parts of files."""
    return getattr(processor, "joins", None) is not None or hasattr(processor, "join")


def shrinks(processor: Any) -> bool:
    """Whether a part may end sooner while the processor reads it."""
    return can_split(processor) and getattr(processor, "shrinks", True)


def cuts_first(processor: Any) -> bool:
    """Whether a part may end sooner before the processor begins, and not while it reads."""
    return can_split(processor) and not shrinks(processor)


def join(processor: Any, file: Path, parts: Sequence[Path], output: Path) -> None:
    """Put the results of a file's parts together.

    Args:
        processor: Says how.
        file: The file.
        parts: The folder of each part's results, in order; they stay as they are.
        output: An empty folder, for the results of the file.

    Raises:
        JoinError: They cannot be put together in this way.
        OSError: They cannot be read or written.
    """
    if hasattr(processor, "join"):
        (name, *_) = processor.output_names(file)
        processor.join([folder / name for folder in parts], output / name)
        return
    for name in _names(parts):
        sources = [folder / name for folder in parts if (folder / name).exists()]
        if processor.joins == NUMBER and len(sources) > 1:
            for number, source in enumerate(sources, 1):
                _copy(source, output / _numbered(name, number))
        elif len(sources) == 1:
            _copy(sources[0], output / name)
        elif any(source.is_dir() for source in sources):
            raise JoinError(f"{name!r} is a folder; use --join none")
        else:
            header = _header(sources) if processor.joins == HEADER else b""
            _concatenate(sources, output / name, header)


def _names(parts: Sequence[Path]) -> list[str]:
    """What any of the parts has left, in the order of the parts."""
    found = (name for folder in parts if folder.exists() for name in sorted(os.listdir(folder)))  # noqa: PTH208 - names alone are wanted
    return list(dict.fromkeys(found))


def _numbered(name: str, number: int) -> str:
    """The name of the results of one part: `a_ESM.pt` is `a_ESM_1.pt` for the first."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}_{number}.{suffix}" if stem and dot else f"{name}_{number}"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _header(sources: Sequence[Path]) -> bytes:
    """The first line of the first result that is not empty.

    Raises:
        JoinError: It is compressed, so that it has no lines.
    """
    for source in sources:
        with source.open("rb") as read:
            line = read.readline(_LONGEST_HEADER)
        if compression_of(line) is not None:
            raise JoinError(
                f"{source.name!r} is compressed, so its header cannot be found; "
                "use --join concatenate"
            )
        if line:
            return line if line.endswith(b"\n") else b""
    return b""


def _concatenate(sources: Sequence[Path], target: Path, header: bytes) -> None:
    """Write results one after the other; a header at the beginning of each stands once."""
    is_first = True
    with target.open("wb", buffering=0) as written:
        for source in sources:
            with source.open("rb", buffering=0) as read:
                skipped = len(header) if not is_first and _begins(read, header) else 0
                is_first = is_first and not os.fstat(read.fileno()).st_size
                _append(read.fileno(), written.fileno(), skipped)


def _begins(read: BinaryIO, header: bytes) -> bool:
    return bool(header) and os.pread(read.fileno(), len(header), 0) == header


def _append(read: int, written: int, skipped: int) -> None:
    """Copy one file, without its beginning, to the end of another, past this process."""
    left = os.fstat(read).st_size - skipped
    os.lseek(read, skipped, os.SEEK_SET)
    while left > 0:
        try:
            done = os.copy_file_range(read, written, min(left, _COPY_BYTES))
        except OSError:  # between two file systems, or one that cannot
            done = os.sendfile(written, read, None, min(left, _COPY_BYTES))
        if not done:
            raise OSError("the result of a part became shorter")
        left -= done
