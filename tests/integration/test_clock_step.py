"""A run whose wall clock is set by an hour, by a library that stands before the C library."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.run_program import DEADLINE, PROGRAM, ROOT, address, ask, until

# `clock_gettime` with the seconds in the file of the environment variable CLOCK_STEP added to the
# time of the wall clock.
LIBRARY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    const char *path = getenv("CLOCK_STEP");
    if (!failed && id == CLOCK_REALTIME && path) {
        char text[32] = {0};
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
            close(file);
        }
    }
    return failed;
}
"""


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """A file with the seconds by which the clock of a program was set."""
    (tmp_path / "clock.c").write_text(LIBRARY)
    words = ["cc", "-shared", "-fPIC", "-o", "clock.so", "clock.c"]
    subprocess.run(words, cwd=tmp_path, check=True)
    (tmp_path / "step").write_text("0")
    return tmp_path / "step"


def moments(where: str) -> dict[str, float]:
    """The timestamps that a run serves, by the names of the metrics."""
    families = text_string_to_metric_families(ask(where, "/metrics")[1])
    return {
        s.name: s.value
        for family in families
        for s in family.samples
        if s.name.startswith("virnucpro_") and "timestamp" in s.name
    }


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_is_set_makes_no_timestamp_wrong(step: Path, seconds: int) -> None:
    """All of them follow within a moment, and the run is ready all the while."""
    words = [
        "simulate",
        "--gpus=2",
        "--files=100",  # so that it is expected to end within minutes
        "--forever",
        "--no-dashboard",
        "--web-listen-address=127.0.0.1:0",
    ]
    environment = os.environ | {
        "LD_PRELOAD": str(step.with_name("clock.so")),
        "CLOCK_STEP": str(step),
    }
    with subprocess.Popen(
        [*PROGRAM, *words], cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE
    ) as process:
        try:
            where = address(process)
            progress = "virnucpro_worker_last_progress_timestamp_seconds"
            until(lambda: progress in moments(where) and ask(where, "/-/ready")[0] == 200)
            before = moments(where)
            step.write_text(str(seconds))
            until(lambda: abs(moments(where)[progress] - time.time() - seconds) < 60)
            after = moments(where)
            assert ask(where, "/-/ready") == (200, "ready\n")
            start = "virnucpro_run_start_timestamp_seconds"
            assert after[start] - before[start] == pytest.approx(seconds, abs=1.0)
            now = time.time() + seconds
            assert {name for name, at in after.items() if abs(at - now) > 600} == set()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert "stalled" not in errors.partition("counts as stalled")[2]
