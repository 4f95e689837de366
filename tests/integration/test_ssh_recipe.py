"""The recipe for SSH in the documentation, with a stand-in for `ssh` that stays on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.dask_runs import WAITING, begun, inputs_of, whole
from tests.run_program import DEADLINE, ROOT, processes_of, until

pytestmark = pytest.mark.campaign  # a whole cluster

# What is run on a node has nothing of this environment but the path, and no GPU.
SSH = """#!/bin/bash
exec env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" VIRNUCPRO_NODE_NAME="$2" \
    bash -c "${3/#CUDA_VISIBLE_DEVICES=?/CUDA_VISIBLE_DEVICES=}"
"""


def recipe(shared: Path, inputs: Path) -> str:
    """The script of the page, for these folders and the files that wait to be told to end."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    found = re.search(r"^## SSH$.*?^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    words = f"{inputs} --output {shared}/results --no-dashboard {' '.join(WAITING)}"
    return (
        found[1]
        .replace("/shared/", f"{shared}/")
        .replace("deploy/", f"{ROOT}/deploy/")
        .replace("reads/ --output results", words)
    )


def test_the_recipe_for_ssh_runs_over_tls_on_all_nodes(tmp_path: Path) -> None:
    """All four workers get a file, every address is one with TLS, and nothing is left behind."""
    inputs = inputs_of(tmp_path, 4)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    job = subprocess.Popen(
        ["/bin/bash", "-c", recipe(tmp_path, inputs)],
        cwd=tmp_path,
        env={**os.environ, "PATH": os.pathsep.join(path), "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: len(begun(inputs)) == 4 or job.poll() is not None)
    (folder,) = tmp_path.glob("dask-*")
    scheduler = json.loads((folder / "scheduler.json").read_text())
    listening = {
        connection.laddr.port
        for process in psutil.Process(job.pid).children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert scheduler["address"].startswith("tls://")
    assert int(scheduler["address"].rpartition(":")[2]) in listening
    (inputs / "go").touch()
    out, errors = job.communicate(timeout=DEADLINE)
    assert job.returncode == 0, errors
    assert "4 files done, 0 failed" in out
    assert all(f"node{node}/cpu{slot}" in out for node in (1, 2) for slot in (0, 1))
    results = {p.name.encode(): p.read_bytes() for p in (tmp_path / "results").glob("*.out")}
    assert results == whole(inputs)
    until(lambda: not processes_of(tmp_path))
    assert not list(tmp_path.glob("dask-*"))
