"""What the Dask workers of `--dask-local` load first.

They share the terminal of the program, and say nothing there: the program says it all.

Ctrl-C reaches every process of the terminal. The program decides what it means: the first one lets
the files in process end, so the Dask workers have to live on. They leave with the program.
"""

from __future__ import annotations

import logging
import signal


def dask_setup(_worker: object) -> None:
    """Called by Dask, in the worker's main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("virnucpro_exporter").addHandler(logging.NullHandler())
