"""Vectors in the files of VirNucPro's stages, written from arrays.

VirNucPro keeps the vectors of nucleotides as lists of Python's floats, in which a file of 10,000
would take 300 MB of memory, and seconds to pickle. Here the pickle is written from the array: of
each float, an opcode and its eight bytes.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROTOCOL = b"\x80\x02"
MARK, STOP = b"(", b"."
EMPTY_DICT, SETITEMS = b"}", b"u"
EMPTY_LIST, APPENDS = b"]", b"e"
ROWS_AT_ONCE = 256
# A float of Python: the opcode BINFLOAT and eight bytes, the highest first.
_FLOAT = np.dtype([("opcode", "S1"), ("value", ">f8")])


def stacked(parts: Sequence[Any]) -> Any:
    """The rows of all arrays, one after the other."""
    return torch.cat(list(parts))


def side_by_side(first: Any, second: Any) -> Any:
    """The values of two arrays, row by row."""
    return torch.cat((first, second), dim=1)


def save(result: object, output: Path) -> None:
    """Write what `torch.load` reads; the same result gives the same bytes."""
    # Given a path, torch.save would put the name of the file into it.
    with output.open("wb") as file:
        torch.save(result, file)


def save_part(names: Sequence[str], vectors: list[Any], output: Path) -> None:
    """Write names, and the arrays of their vectors as they are, for `load_part`."""
    save({"names": list(names), "vectors": vectors}, output)


def load_part(path: Path) -> tuple[list[str], list[Any]]:
    """Names and arrays that `save_part` has written; arrays stay in the file until they are used.

    Raises:
        OSError: It cannot be read.
    """
    found = torch.load(path, weights_only=True, mmap=True)
    return found["names"], found["vectors"]


def save_proteins(names: Sequence[str], vectors: list[Any], output: Path) -> None:
    """Write `proteins`, the names, and `data`, a float32 tensor of its own for each.

    Args:
        names: Of the proteins.
        vectors: Arrays that together have a row for each; the list is emptied on the way.
        output: The file.
    """
    data: list[Any] = []
    vectors.reverse()
    while vectors:
        data += [vector.clone() for vector in vectors.pop()]
    save({"proteins": list(names), "data": data}, output)


def save_nucleotides(names: Sequence[str], vectors: Sequence[Any], output: Path) -> None:
    """Write `nucleotide`, the names, and `data`: the name and the list of numbers of each.

    Args:
        names: Of the sequences.
        vectors: Arrays that together have a row for each.
        output: The file.
    """
    with (
        zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive,
        archive.open(_entry("data.pkl"), "w", force_zip64=True) as file,
    ):
        for part in _pickle(names, vectors):
            file.write(part)
    with zipfile.ZipFile(output, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("byteorder"), b"little")
        archive.writestr(_entry("version"), b"3\n")


def _entry(name: str) -> zipfile.ZipInfo:
    """A file of the archive, without the time of the day: the same vectors give the same bytes."""
    return zipfile.ZipInfo(f"archive/{name}")


def _pickle(names: Sequence[str], vectors: Sequence[Any]) -> Iterator[bytes]:
    yield PROTOCOL + EMPTY_DICT + MARK + _text("nucleotide") + EMPTY_LIST + MARK
    yield from map(_text, names)
    yield APPENDS + _text("data") + EMPTY_LIST + MARK
    label, key = _text("label"), _text("mean_representation")
    named = iter(names)
    for rows in (rows for array in vectors for rows in array.split(ROWS_AT_ONCE)):
        floats = np.empty(rows.shape, _FLOAT)
        floats["opcode"], floats["value"] = b"G", rows.numpy()
        for row in floats:
            yield EMPTY_DICT + MARK + label + _text(next(named)) + key
            yield EMPTY_LIST + MARK + row.tobytes() + APPENDS + SETITEMS
    yield APPENDS + SETITEMS + STOP


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded
