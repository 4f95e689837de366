"""A target file for Prometheus (`file_sd`) with the address of a run, while the run exists."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.web.discovery import RunTarget
from virnucpro_exporter.web.server import MetricsServer
from virnucpro_exporter.workers import remover
from virnucpro_exporter.workers.process import launch

_LEAVE_SECONDS = 5.0


def target_of(server: MetricsServer, name: str) -> RunTarget:
    """Where a run serves its own metrics.

    Args:
        server: Its endpoint, started.
        name: Of the run.
    """
    url = urlsplit(server.urls[0])
    return RunTarget(name, url.port or 0, url.path, url.scheme, server.is_local)


@contextlib.contextmanager
def target_file(folder: str, target: RunTarget) -> Iterator[Path]:
    """Write the file; a process beside this one removes it at the end, also if this one is killed.

    Args:
        folder: Where Prometheus looks for such files.
        target: The run.

    Raises:
        UsageError: The file cannot be written.
    """
    host = socket.gethostname()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", host)
    path = Path(folder).absolute() / f"virnucpro-{name}-{target.port}.json"
    # Prometheus reads files that end in .json, and no others.
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        unfinished.write_text(json.dumps([target.group(host)]) + "\n", encoding="utf-8")
        unfinished.chmod(0o644)
        unfinished.replace(path)
        process = launch(
            [sys.executable, "-I", "-S", remover.__file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=False,  # or it would be taken for an orphan of a worker
        )
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise UsageError(f"--target-file {folder}: {error.strerror}") from error
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LEAVE_SECONDS)
