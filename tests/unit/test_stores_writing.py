"""What is written into stores that differ in what they can do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from virnucpro_exporter.errors import OutputError, StoreError
from virnucpro_exporter.files.outputs import StoredOutputs
from virnucpro_exporter.files.ownership import owned
from virnucpro_exporter.stores import access, writing


class Store:
    """A file system of fsspec in memory, which answers a conditional write with an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._error = error

    def pipe_file(self, url: str, content: bytes, mode: str = "overwrite") -> None:
        """Write an object."""
        if mode == "create" and self._error is not None:
            raise self._error
        if mode == "create" and url in self.objects:
            raise FileExistsError(url)
        self.objects[url] = content

    def cat_file(self, url: str) -> bytes:
        """Read an object."""
        try:
            return self.objects[url]
        except KeyError:
            raise FileNotFoundError(url) from None

    def rm_file(self, url: str) -> None:
        """Remove an object."""
        del self.objects[url]

    def info(self, url: str) -> dict[str, Any]:
        """Describe an object."""
        return {"type": "file", "size": len(self.cat_file(url))}

    def call_s3(self, name: str, **words: str) -> dict[str, Any]:
        """Answer a request of S3: of unfinished uploads there is one."""
        self.asked.append((name, words))
        return {"Uploads": [{"Key": "a", "UploadId": "1"}]} if name.startswith("list") else {}


def use(monkeypatch: pytest.MonkeyPatch, store: Store) -> Store:
    """Have all URLs lead to a store."""
    monkeypatch.setattr(access, "_system", lambda _: store)
    return store


@pytest.mark.parametrize(
    "error", [TypeError("mode"), NotImplementedError(), OSError("A header is not implemented")]
)
def test_a_store_that_cannot_tell_whether_an_object_is_new(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    error: Exception,
) -> None:
    """The run goes on, with a warning; another folder is refused all the same."""
    store = use(monkeypatch, Store(error))
    assert writing.create("s3://b/x", b"1") is None
    assert not store.objects
    first, other = (StoredOutputs(tmp_path / name, "s3://b/p") for name in ("first", "other"))
    for outputs in (first, other):
        outputs.prepare()
    with owned(first):
        assert "two runs that start at the same moment may both write there" in caplog.text
        with pytest.raises(OutputError, match="belongs to a run on"), owned(other):
            pass
    assert not store.objects


def test_an_object_is_created_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one is told so; what is wrong with a store is an error."""
    use(monkeypatch, Store())
    assert [writing.create("s3://b/x", b"1") for _ in range(2)] == [True, False]
    use(monkeypatch, Store(PermissionError(errno.EACCES, "denied")))
    with pytest.raises(StoreError, match="access is denied"):
        writing.create("s3://b/x", b"1")


def test_unfinished_uploads_are_ended_below_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a neighbour whose name begins alike are left alone."""
    store = use(monkeypatch, Store())
    assert writing.end_uploads("s3://b/p/q") == 1
    assert store.asked == [
        ("list_multipart_uploads", {"Bucket": "b", "Prefix": "p/q/"}),
        ("abort_multipart_upload", {"Bucket": "b", "Key": "a", "UploadId": "1"}),
    ]
