"""The preload module of the Dask workers of `--dask-local`.

They share the terminal with the program and print nothing there: the program logs everything.

Ctrl-C sends SIGINT to every process of the terminal. The first one lets the files in process end,
so the Dask workers must ignore it. They end with the program.
"""

from __future__ import annotations

import logging
import signal


def dask_setup(_worker: object) -> None:
    """Called by Dask, in the worker's main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("virnucpro_exporter").addHandler(logging.NullHandler())
