"""Whatever happens to its processes, a run loses nothing and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.run_program import ROOT

# `make test-chaos` asks for more.
HISTORIES = int(os.environ.get("CHAOS_HISTORIES", "20"))
SECONDS = 160.0  # none is begun after that, however slow the machine is
ABREAST = 4
MANY = 100


@pytest.mark.timeout(400)
def test_random_histories(tmp_path: Path) -> None:
    """Kills, stops and pauses: journal, outputs and metrics agree after each life of a run."""
    share = -(-HISTORIES // ABREAST)
    drivers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.chaos", *map(str, (first, share, tmp_path, SECONDS))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in range(0, share * ABREAST, share)
    ]
    told: list[dict[str, Any]] = []
    for driver in drivers:
        output, _ = driver.communicate()
        assert driver.returncode == 0
        told += map(json.loads, output.splitlines())
    wrong = [line for line in told if "error" in line]
    assert not wrong, json.dumps(wrong, indent=1)
    ends = [line for line in told if "histories" in line]
    lived, splits, kept = (sum(e[key] for e in ends) for key in ("histories", "splits", "went_on"))
    assert splits, "no file was split"
    assert kept or lived < MANY, "no run went on with parts of a file"
    sys.stdout.write(f"{lived} histories, in which {splits} parts were given away, {kept} kept\n")


def test_a_run_that_is_killed_at_any_change_of_a_file_goes_on(tmp_path: Path) -> None:
    """Parts that are done are kept, and nothing is in its place before that is written down."""
    step = 1 if HISTORIES >= MANY else 15
    driver = [sys.executable, "-m", "tests.kills", str(tmp_path), str(step)]
    done = subprocess.run(driver, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["wrong"], told
    assert told["places"] > 100
    assert min(told["seen"][state] for state in ("processing", "committing", "completed")) > 0
    assert told["seen"]["parts kept"] > 0
