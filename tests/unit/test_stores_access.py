"""Errors of the libraries of stores become one line each; files are read a little ahead."""

from __future__ import annotations

import errno

import pytest

from virnucpro_exporter.errors import StoreError
from virnucpro_exporter.stores import access
from virnucpro_exporter.stores.access import Stored, StoredFile

URL = "s3://reads/a.fa"


class NoCredentialsError(Exception):
    """As botocore has it."""


class ClientConnectorError(Exception):
    """As aiohttp has it."""


class ClientResponseError(Exception):
    """As aiohttp has it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}, url='https://host/x.fa?sig=hunter2'")
        self.status = status


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NoCredentialsError("x"), "no credentials were found: set AWS_ACCESS_KEY_ID and"),
        (PermissionError("Access Denied"), "access is denied: set AWS_ACCESS_KEY_ID and"),
        (ClientResponseError(403), "access is denied"),
        (FileNotFoundError("The specified bucket does not exist"), "no such bucket"),
        (ClientConnectorError("x"), "its server cannot be reached"),
        (ClientResponseError(503), "503, url='https://host/x.fa'"),
        (OSError(errno.EIO, "SlowDown"), "SlowDown"),
    ],
)
def test_one_line_for_each_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    """It has no cause in which a signature could stand, and is no trouble of the local disk."""
    monkeypatch.setattr(access, "_system", lambda _: None)

    def ask(_: object) -> None:
        raise error

    with pytest.raises(StoreError) as raised:
        access.attempt(URL, ask, pauses=(0.0,))
    assert line in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert raised.value.errno is None
    assert raised.value.__cause__ is raised.value.__context__ is None


@pytest.mark.parametrize("error", [FileNotFoundError("x"), ClientResponseError(404)])
def test_a_missing_object(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """It is a missing file, and is asked for once."""
    monkeypatch.setattr(access, "_system", lambda _: None)
    asked = []

    def ask(_: object) -> None:
        asked.append(1)
        raise error

    with pytest.raises(FileNotFoundError):
        access.attempt(URL, ask, pauses=(0.0, 0.0))
    assert len(asked) == 1


class _Handle:
    def __init__(self, content: bytes, asked: list[tuple[int, int]]) -> None:
        self._content, self._asked, self._at = content, asked, 0

    def seek(self, at: int) -> None:
        self._at = at

    def read(self, size: int) -> bytes:
        self._asked.append((self._at, size))
        return self._content[self._at : self._at + size]

    def close(self) -> None:
        """Nothing to let go."""


def opened(
    monkeypatch: pytest.MonkeyPatch, content: bytes, size: int
) -> tuple[StoredFile, list[tuple[int, int]]]:
    """An object, and the ranges that are asked for."""
    asked: list[tuple[int, int]] = []

    class System:
        def open(self, *_: object, **__: object) -> _Handle:
            return _Handle(content, asked)

    monkeypatch.setattr(access, "_system", lambda _: System())
    return StoredFile(Stored(URL, size, 1)), asked


def test_ranges_grow_while_a_file_is_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first bytes cost a small range; a jump begins with a small one again."""
    content = bytes(range(256)) * (1 << 13)
    file, asked = opened(monkeypatch, content, len(content))
    assert file.read(18) == content[:18]
    assert asked == [(0, 1 << 18)]
    file.seek(0)
    assert b"".join(iter(lambda: file.read(1 << 16), b"")) == content
    assert [size for _, size in asked[:3]] == [1 << 18, 1 << 19, 1 << 20]
    assert sum(size for _, size in asked) == len(content)
    assert file.read_at(5, 1000) == content[1000:1005]
    assert asked[-1] == (1000, 1 << 18)
    assert file.tell() == len(content)


def test_an_object_that_has_become_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error, and never taken for the end."""
    monkeypatch.setattr(access, "PAUSES", ())
    file, _ = opened(monkeypatch, b"ACGT", 10)
    with pytest.raises(StoreError, match="became shorter"):
        file.read(10)
