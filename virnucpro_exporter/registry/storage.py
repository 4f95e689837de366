"""The storage of runs across a restart of `serve`: a file for each, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from virnucpro_exporter.registry.kept import Kept
from virnucpro_exporter.registry.record import RecordError, decode, encode

_log = logging.getLogger(__name__)


def state_folder(named: str | None, environment: Mapping[str, str]) -> Path | None:
    """The folder in which `serve` stores runs: systemd's state directory, else the user's (XDG).

    Args:
        named: The path that the user has chosen, or None.
        environment: The environment of the process.
    """
    if named:
        return Path(named)
    if given := environment.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if state := environment.get("XDG_STATE_HOME"):
        return Path(state) / "virnucpro-exporter"
    home = environment.get("HOME")
    return Path(home) / ".local" / "state" / "virnucpro-exporter" if home else None


class RunStorage:
    """The files of the stored runs.

    Args:
        folder: Created when something is stored; None: nothing is stored.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._written: dict[str, Kept] = {}
        self._failure = ""

    def read(self) -> dict[str, Kept]:
        """All stored runs, by their ids; unreadable files are logged and skipped."""
        found: dict[str, Kept] = {}
        paths = [] if self._folder is None else sorted(self._folder.glob("*.run.json"))
        for path in paths:
            try:
                about, _, data = path.read_bytes().partition(b"\n")
                known = json.loads(about)
                kept = Kept(decode(data), str(known["name"]), int(known["uid"]), str(known["user"]))
            except (OSError, RecordError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s is not shown: %s", path, error)
                continue
            found[path.name.removesuffix(".run.json")] = kept
        self._written = dict(found)
        return found

    def write(self, runs: Mapping[str, Kept]) -> None:
        """Store these runs and remove all others; only changed ones are written; logs errors."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for key, kept in runs.items():
                if kept is not self._written.get(key):
                    self._write(self._path(key), kept)
                    self._written[key] = kept
            for key in self._written.keys() - runs.keys():
                self._path(key).unlink(missing_ok=True)
                del self._written[key]
        except OSError as error:
            if str(error) != self._failure:
                _log.warning("finished runs are not kept across restarts: %s", error)
            self._failure = str(error)
        else:
            self._failure = ""

    def _path(self, key: str) -> Path:
        assert self._folder is not None  # noqa: S101 - both callers have checked it
        return self._folder / f"{re.sub(r'[^0-9a-f-]', '_', key)}.run.json"

    def _write(self, path: Path, kept: Kept) -> None:
        about = json.dumps({"name": kept.name, "uid": kept.uid, "user": kept.user}).encode()
        unfinished = path.with_name(f".{path.name}.new")
        with contextlib.ExitStack() as stack:
            stack.callback(unfinished.unlink, missing_ok=True)
            unfinished.write_bytes(about + b"\n" + encode(kept.record))
            unfinished.replace(path)
