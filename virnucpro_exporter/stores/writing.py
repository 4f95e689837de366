"""Writing objects: each appears complete or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnucpro_exporter.errors import StoreError
from virnucpro_exporter.stores.access import PAUSES, attempt, look_up
from virnucpro_exporter.stores.urls import scheme_of


def upload(path: Path, url: str, pauses: Sequence[float] = PAUSES) -> None:
    """Upload a file as an object, or the files of a folder as objects below a prefix.

    An object appears when its upload is complete; large files are uploaded in parts.

    Args:
        path: The file, or a folder of files.
        url: The URL of the object, or the prefix of the objects.
        pauses: Seconds to wait before each repetition where the store is unavailable.

    Raises:
        OSError: A file cannot be read, or an upload fails.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                upload(file, f"{url}/{file.relative_to(path)}", pauses)
        return
    attempt(url, lambda system: system.put_file(str(path), url), pauses)


def put(url: str, content: bytes) -> None:
    """Write a small object.

    Raises:
        StoreError: The upload fails.
    """
    attempt(url, lambda system: system.pipe_file(url, content))


def create(url: str, content: bytes) -> bool | None:
    """Write a small object unless it exists.

    Returns:
        Whether it was written; False where it exists; None, without writing, where the store does
        not support conditional writes.

    Raises:
        StoreError: The request fails.
    """

    def ask(system: Any) -> bool | None:
        try:
            system.pipe_file(url, content, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError):
            return None
        except OSError as error:
            if "not implemented" in str(error).lower():
                return None
            raise
        return True

    return attempt(url, ask)


def get(url: str) -> bytes:
    """The content of a small object.

    Raises:
        FileNotFoundError: The object does not exist.
        StoreError: The request fails.
    """
    content: bytes = attempt(url, lambda system: system.cat_file(url))
    return content


def remove(url: str) -> None:
    """Remove an object, if it exists.

    Raises:
        StoreError: The request fails.
    """
    with contextlib.suppress(FileNotFoundError):
        attempt(url, lambda system: system.rm_file(url))


def exists(url: str) -> bool:
    """Whether there is an object of this name, or below it.

    Raises:
        StoreError: The request fails.
    """
    try:
        look_up(url, fresh=True)
    except FileNotFoundError:
        return bool(attempt(url, lambda system: system.exists(url)))
    return True


def sizes(url: str) -> dict[str, int]:
    """The sizes in bytes of all objects below a prefix, by their names relative to it.

    Raises:
        StoreError: The request fails.
    """
    top = f"{url.partition('://')[2]}/"
    found = attempt(url, lambda system: system.find(f"{url}/", detail=True))
    return {name.removeprefix(top): int(about["size"] or 0) for name, about in found.items()}


def end_uploads(url: str) -> int:
    """Abort unfinished uploads of a killed run below a prefix, which S3 would store for ever.

    Returns:
        The number of uploads; 0 for stores other than S3, and where the store has no such request.

    Raises:
        StoreError: The request fails.
    """
    if scheme_of(url) != "s3":
        return 0
    bucket, _, prefix = url.partition("://")[2].partition("/")

    def ask(system: Any) -> int:
        found = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        uploads = found.get("Uploads") or []
        for one in uploads:
            own = {"Key": one["Key"], "UploadId": one["UploadId"]}
            system.call_s3("abort_multipart_upload", Bucket=bucket, **own)
        return len(uploads)

    try:
        return attempt(url, ask)
    except StoreError as error:
        if "NotImplemented" in str(error):
            return 0
        raise
