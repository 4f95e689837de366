"""Log lines of the run, kept from the terminal while a table is shown there."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque

from virnucpro_exporter.text import clean


class LogCapture(logging.Handler):
    """Takes the place of the handlers that write to the terminal while the table is shown."""

    def __init__(self, lines: deque[str], wake: threading.Event, *, ascii_only: bool) -> None:
        super().__init__()
        self._lines, self._wake, self._ascii_only = lines, wake, ascii_only
        self._replaced: list[logging.Handler] = []

    def install(self) -> None:
        """Replace the root logger's handlers that write to standard output or error."""
        root = logging.getLogger()
        self._replaced = [handler for handler in root.handlers if _writes_to_terminal(handler)]
        if self._replaced:
            self.setLevel(min(handler.level for handler in self._replaced))
            self.setFormatter(self._replaced[0].formatter)
        else:
            self.setLevel(logging.WARNING)
        for handler in self._replaced:
            root.removeHandler(handler)
        root.addHandler(self)

    def remove(self) -> None:
        """Put the handlers back."""
        root = logging.getLogger()
        root.removeHandler(self)
        for handler in self._replaced:
            root.addHandler(handler)
        self._replaced = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's lines for the dashboard's thread."""
        lines = self.format(record).splitlines()
        self._lines.extend(clean(line, ascii_only=self._ascii_only) for line in lines)
        self._wake.set()


def _writes_to_terminal(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams
