"""Fixtures that any test may use, and what all tests rely on."""

import os
import signal
import tempfile
from pathlib import Path

pytest_plugins = ["tests.nvml_stub.stub", "tests.gpu_sources"]


def pytest_configure() -> None:
    """Have programs that tests start die of signals, also in a background job or under `nohup`.

    What is ignored is ignored by what is started; a handler that does nothing is not passed on.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    _keep_to_itself()


def _keep_to_itself() -> None:
    """Have runs of these tests announce themselves to no exporter but those of these tests."""
    folder = Path(tempfile.mkdtemp(prefix="virnucpro-tests-"))
    os.environ["VIRNUCPRO_RUN_REGISTRY"] = str(folder / "runs")
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
