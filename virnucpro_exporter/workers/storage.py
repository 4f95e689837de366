"""Distinguishes errors of the storage from errors of a file.

A full disk, a used-up quota, a file system that became read-only or fails are no fault of the file
in process: another one would meet them, too.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

_TEXTS = tuple(os.strerror(number) for number in TROUBLES)


def is_storage_trouble(error: BaseException, folder: Path) -> bool:
    """Whether an attempt failed because of the storage.

    Args:
        error: What it failed with. The messages of programs and libraries count as well.
        folder: Where the attempt writes.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in TROUBLES:
            return True
        if any(text in str(link) for text in _TEXTS):
            return True
        link = link.__cause__ or link.__context__
    return _is_full(folder)


def _is_full(folder: Path) -> bool:
    """Whether a file system takes nothing more; a program may have failed without a message."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        state = os.statvfs(folder)
    except OSError:
        return False
    has_inodes = state.f_favail > 0 or state.f_files == 0  # some file systems count none
    return state.f_bavail == 0 or not has_inodes or bool(state.f_flag & os.ST_RDONLY)
