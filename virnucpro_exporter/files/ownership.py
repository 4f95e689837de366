"""One run at a time below a prefix of a store, and its journal there for another machine.

A store has no locks that end with a process. So a run leaves an object there, which names it, and
removes that at its end. The object of a killed run stays: the run is resumed on the machine that
has its folder, or a person removes the object.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from virnucpro_exporter.errors import OutputError, StoreError
from virnucpro_exporter.files.outputs import HIDDEN, RECORD, StoredOutputs
from virnucpro_exporter.stores import writing
from virnucpro_exporter.stores.access import look_up
from virnucpro_exporter.text import clean, format_moment

log = logging.getLogger(__name__)


@contextlib.contextmanager
def owned(outputs: StoredOutputs) -> Iterator[None]:
    """Have the prefix to oneself; the folder of the run is locked already.

    A journal that another machine has left in the store is taken over where there is none here.

    Raises:
        OutputError: Another run has it, or the store takes nothing.
    """
    name = f"{outputs.url}/{HIDDEN}/owner.json"
    try:
        own = _claim(outputs, name)
        if ended := writing.end_uploads(outputs.url):
            log.info("aborted the unfinished uploads of a killed run: %d", ended)
        _take_over(outputs)
    except OSError as error:
        raise OutputError(getattr(error, "detail", "") or str(error)) from None
    try:
        yield
    finally:
        _let_go(outputs, name, own)


def _claim(outputs: StoredOutputs, name: str) -> bytes:
    token = outputs.hidden / "owner"
    if not token.exists():
        token.write_text(secrets.token_hex(16), encoding="ascii")
    about = {
        "folder_id": token.read_text(encoding="ascii"),
        "folder": str(outputs.folder),
        "host": os.uname().nodename,
        "process": os.getpid(),
        "started": time.time(),
    }
    own = json.dumps(about).encode()
    # Checked first, since some stores overwrite in spite of a request to create.
    if _is_left_by(about["folder_id"], name, outputs):
        writing.put(name, own)
        return own
    while (is_new := writing.create(name, own)) is False:
        if _is_left_by(about["folder_id"], name, outputs):
            break
    if is_new is None:
        log.warning(
            "%s does not support conditional writes: two runs that start at the same moment may "
            "both write there",
            outputs.url,
        )
        writing.put(name, own)
    return own


def _is_left_by(folder_id: object, name: str, outputs: StoredOutputs) -> bool:
    """Whether a killed run of this folder has left the object; False where there is none.

    Raises:
        OutputError: It is that of another folder.
    """
    try:
        other = _read(writing.get(name))
    except FileNotFoundError:
        return False
    if other.get("folder_id") == folder_id:
        return True
    started = other.get("started")
    since = f" since {format_moment(started)}" if isinstance(started, float) else ""
    host, process, folder = (clean(str(other.get(k, "?"))) for k in ("host", "process", "folder"))
    raise OutputError(
        f"{outputs.url!r} belongs to a run on {host} (process {process}{since}, --state-folder "
        f"{folder}): wait for it, or resume it there if it was killed; if neither works, "
        f"remove {name}"
    )


def _read(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _take_over(outputs: StoredOutputs) -> None:
    """Get the journal and the record that the last run has left, if that was another machine's."""
    journal = _journal_url(outputs)
    with contextlib.suppress(FileNotFoundError):
        version = str(look_up(journal, fresh=True).version)
        mark = _mark(outputs)
        is_ours = outputs.journal.exists() and (
            not mark.exists() or mark.read_text(encoding="ascii") == version
        )
        if not is_ours:
            for suffix in ("-wal", "-shm"):
                Path(f"{outputs.journal}{suffix}").unlink(missing_ok=True)
            _download(journal, outputs.journal, outputs)
            log.info("downloaded the journal of the last run from the store")
            outputs.record.unlink(missing_ok=True)
    if not outputs.record.exists():
        with contextlib.suppress(FileNotFoundError):
            _download(f"{outputs.url}/{RECORD}", outputs.record, outputs)


def _journal_url(outputs: StoredOutputs) -> str:
    return f"{outputs.url}/{HIDDEN}/{outputs.journal.name}"


def _mark(outputs: StoredOutputs) -> Path:
    """The file with the version of the journal in the store that belongs to this folder."""
    return outputs.hidden / "journal.version"


def _download(url: str, path: Path, outputs: StoredOutputs) -> None:
    content = writing.get(url)
    part = outputs.hidden / f"{path.name}.part"
    part.touch(mode=0o600)
    part.write_bytes(content)
    part.replace(path)


def _let_go(outputs: StoredOutputs, name: str, own: bytes) -> None:
    """Leave the journal for another machine, then the prefix to another run."""
    try:
        if outputs.journal.exists():
            writing.upload(outputs.journal, _journal_url(outputs), pauses=())
            version = look_up(_journal_url(outputs), fresh=True).version
            _mark(outputs).write_text(str(version), encoding="ascii")
        if writing.get(name) == own:
            writing.remove(name)
    except (OSError, StoreError) as error:
        log.warning("%s: %s cannot be removed; only runs on this machine can resume", error, name)
