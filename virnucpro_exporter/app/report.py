"""Puts a report together: journal and metrics log in, text and a page out."""

from __future__ import annotations

import stat
import time
from pathlib import Path

from virnucpro_exporter.config import DEFAULT_LOG
from virnucpro_exporter.csv_log.reader import read_log
from virnucpro_exporter.errors import LogError, ReportError
from virnucpro_exporter.history import RunHistory
from virnucpro_exporter.journal.history import read_history
from virnucpro_exporter.report.page import page
from virnucpro_exporter.report.summary import Summary, summarize, summarize_log
from virnucpro_exporter.report.text import describe


def make_report(source: str, html: str | None, now: float | None = None) -> str:
    """Report on a run that was, or that goes on.

    Args:
        source: An output folder, or a metrics log.
        html: Where to write the page, or None for no page.
        now: Unix seconds; the clock's by default.

    Returns:
        The summary, as text.

    Raises:
        VirnucproError: The source cannot be read, or the page cannot be written.
    """
    # The absolute path, so that a report is clear on any machine.
    summary = load(Path(source).absolute(), time.time() if now is None else now)
    if html is not None:
        text = page(summary)
        try:
            Path(html).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ReportError(f"{html!r}: {error.strerror}") from error
    return describe(summary)


def load(source: Path, now: float) -> Summary:
    """The summary of the journal and the log of an output folder, or of a log alone.

    Raises:
        LogError: The log cannot be read, is none, or is empty.
        OutputError: The folder cannot be read, or no run has used it.
        ReportError: There is nothing of this name.
    """
    try:
        is_folder = stat.S_ISDIR(source.stat().st_mode)
    except OSError as error:
        raise ReportError(f"{str(source)!r}: {error.strerror}") from error
    if not is_folder:
        log = read_log(source)
        if not log.gpus:
            raise LogError(f"{str(source)!r} has no rows yet")
        return summarize_log(log)
    history = read_history(source, now)
    return _with_log(history, source / str(history.settings.get("metrics_log") or DEFAULT_LOG))


def _with_log(history: RunHistory, path: Path) -> Summary:
    """Add the log to the history; a log that cannot be used becomes a note of the summary."""
    try:
        return summarize(history, read_log(path) if path.exists() else None)
    except (OSError, LogError) as error:
        return summarize(history, None, notes=(str(error),))
