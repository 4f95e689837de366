"""Shows a run that never ends, for tests that watch, resize and kill it."""

import logging
import os
import signal
import sys
import time
from dataclasses import replace

from tests import builders
from virnucpro_exporter import streams
from virnucpro_exporter.snapshot import GpuSnapshot, RunSnapshot
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard


class Run:
    """A run whose clock is the wall clock."""

    def latest(self) -> RunSnapshot:
        """A run as of now."""
        return replace(builders.running(4), timestamp=time.time())


class Gpus:
    """Four GPUs that answer."""

    def latest(self) -> GpuSnapshot:
        """The same answers each time."""
        return builders.gpus_up(4)


def fail(*_: object) -> None:
    """What a fault in the run would do."""
    raise RuntimeError("a fault in the run")


def main() -> None:
    """Run until a signal.

    argv: the log file; `bare` to leave SIGTERM to the dashboard, or `streams` to print and log as
    the commands of this package do.
    """
    if sys.argv[2:] == ["streams"]:
        streams.prepare()
        streams.start_logging("info", "%(message)s")
    else:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    if sys.argv[2:] != ["bare"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGUSR1, fail)
    dashboard = LoadBalancingDashboard(
        Run(), Gpus(), 0.05, sys.argv[1], log_interval=0.05, plain_interval=0.05
    )
    with dashboard:
        number = 0
        while True:
            number += 1
            logging.getLogger("run").info("logged %d", number)
            if number == 3:
                print(f"printed by {os.getpid()}", flush=True)  # noqa: T201 - what a processor might do
            time.sleep(0.1)


if __name__ == "__main__":
    main()
