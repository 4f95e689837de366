"""The script for SLURM with stand-ins for SLURM's own programs: what it starts, it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.dask_runs import WAITING, Word, begun, inputs_of
from tests.run_program import DEADLINE, QUIET, READS, ROOT, TELLING, processes_of, until

pytestmark = pytest.mark.campaign  # whole clusters, one after the other

SCRIPT = ROOT / "deploy" / "slurm" / "run.sbatch"
CERTIFICATES = ROOT / "deploy" / "dask-certificates.sh"

# Two tasks, each on a node of its own, without GPUs. It is told to end as SLURM tells its steps.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
echo $$ > "$STEP"
trap 'kill $(jobs -p)' TERM
for task in 0 1; do VIRNUCPRO_NODE_NAME=node$task CUDA_VISIBLE_DEVICES="" "$@" & done
wait
wait
"""
SCANCEL = '#!/bin/bash\n[ "$*" = "--signal=TERM 7" ] && kill "$(cat "$STEP")"\n'


def submit(folder: Path, *words: Word, **programs: str) -> subprocess.Popen[str]:
    """Start the script as SLURM does, on the first node of a job.

    Args:
        folder: Where it was submitted.
        words: Its arguments.
        programs: Scripts to be found in the place of programs.
    """
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name, script in {"srun": SRUN, "scancel": SCANCEL, **programs}.items():
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    shutil.copy(CERTIFICATES, folder)
    path = [str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]]
    return subprocess.Popen(
        [SCRIPT, *QUIET, "--output", folder / "out", *words],
        cwd=folder,
        env={
            **os.environ,
            **TELLING,
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": "7",
            "SLURM_CPUS_PER_TASK": "1",
            "STEP": str(folder / "step"),
            "TMPDIR": str(folder),
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(job: subprocess.Popen[str], folder: Path) -> tuple[str, str]:
    """What a job has printed by its end; it leaves neither a process nor the scheduler's file."""
    told = job.communicate(timeout=DEADLINE)
    until(lambda: not processes_of(folder))
    assert not list(folder.glob("dask-job-*"))
    return told


def test_a_job_runs_on_all_nodes(tmp_path: Path) -> None:
    """What an earlier start of the job left is no hindrance; the status is that of the run."""
    leftover = tmp_path / "dask-job-7" / "scheduler.json"
    leftover.parent.mkdir()
    leftover.write_text('{"address": "tcp://127.0.0.1:1"}')
    inputs = inputs_of(tmp_path, 4)
    job = submit(tmp_path, *WAITING, inputs)
    until(lambda: len(begun(inputs)) >= 2)
    (inputs / "go").touch()
    out, errors = ended(job, tmp_path)
    assert (job.returncode, "4 files done, 0 failed" in out) == (0, True), errors
    assert "node0/cpu0" in out
    assert "node1/cpu0" in out


def test_only_holders_of_a_certificate_of_the_job_are_talked_to(tmp_path: Path) -> None:
    """All of Dask is behind TLS or on loopback, nobody else may read the keys, none can sign."""
    inputs = inputs_of(tmp_path, 2)
    job = submit(tmp_path, *WAITING, inputs)
    until(lambda: len(begun(inputs)) >= 2)
    secrets = tmp_path / "dask-job-7"
    assert secrets.stat().st_mode & 0o777 == 0o700
    (key,) = secrets.glob("*.key")
    assert (key.name, key.stat().st_mode & 0o777) == ("tls.key", 0o600)
    scheduler = json.loads((secrets / "scheduler.json").read_text())
    assert scheduler["address"].startswith("tls://")
    assert all(worker.startswith("tls://") for worker in scheduler["workers"])
    tree = psutil.Process(job.pid).children(recursive=True)
    places = {
        ("localhost" if c.laddr.ip in ("::", "0.0.0.0") else c.laddr.ip, c.laddr.port)  # noqa: S104
        for process in tree
        for c in process.net_connections("inet")
        if c.status == psutil.CONN_LISTEN and not c.laddr.ip.startswith("127.")
    }
    assert len(places) >= 5  # a scheduler, two nannies and two workers
    context = ssl.create_default_context(cafile=secrets / "ca.crt")
    context.check_hostname = False
    assert all(refuses(place, context) for place in places)
    (inputs / "go").touch()
    ended(job, tmp_path)
    result = (tmp_path / "out" / "0.fa.out").stat()
    assert stat.S_IMODE(result.st_mode) == 0o666 & ~umask()


def refuses(place: tuple[str, int], context: ssl.SSLContext) -> bool:
    """Whether a stranger that trusts the authority, and has no certificate, is told nothing."""
    with (
        socket.create_connection(place, timeout=DEADLINE) as plain,
        context.wrap_socket(plain) as stranger,
    ):
        try:
            return not stranger.recv(1)
        except (ssl.SSLError, ConnectionError):
            return True


def umask() -> int:
    """That of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_without_certificates_nothing_starts(tmp_path: Path) -> None:
    """The reason of `openssl` is told, and no program has been started."""
    job = submit(tmp_path, READS, openssl="#!/bin/sh\necho no randomness >&2\nexit 1\n")
    _, errors = ended(job, tmp_path)
    assert job.returncode == 1
    assert errors == "openssl cannot make the certificates: no randomness\n"


def test_before_the_time_is_up_the_files_in_process_end(tmp_path: Path) -> None:
    """SLURM signals the script alone; the next job does the rest."""
    inputs = inputs_of(tmp_path, 4)
    values = tmp_path / "values.prom"
    job = submit(tmp_path, *WAITING, f"--textfile={values}", "--push-interval=1", inputs)
    until(lambda: len(begun(inputs)) >= 2)
    job.send_signal(signal.SIGTERM)
    draining = 'run_state{run="out",state="draining"} 1'
    until(lambda: values.exists() and draining in values.read_text())
    (inputs / "go").touch()
    out, errors = ended(job, tmp_path)
    assert job.returncode == 128 + signal.SIGTERM, errors
    assert "2 files done, 0 failed, 0 skipped, 2 left" in out
    again = submit(tmp_path, *WAITING, inputs)
    out, errors = ended(again, tmp_path)
    assert (again.returncode, "2 files done, 0 failed, 2 skipped" in out) == (0, True), errors


def test_workers_that_do_not_start_end_the_job(tmp_path: Path) -> None:
    """What `srun` says is told, and the nodes are not held until the time is up."""
    job = submit(tmp_path, READS, srun="#!/bin/sh\necho no such GPUs >&2\nexit 1\n")
    _, errors = ended(job, tmp_path)
    assert job.returncode == 128 + signal.SIGTERM
    assert "no such GPUs\nthe Dask workers have ended before the run\n" in errors
    assert "Traceback" not in errors


def test_a_scheduler_that_does_not_start_ends_the_job(tmp_path: Path) -> None:
    """The nodes are not held until the time is up."""
    job = submit(tmp_path, READS, dask="#!/bin/sh\nexit 3\n")
    _, errors = ended(job, tmp_path)
    assert job.returncode == 1
    assert errors == "the Dask scheduler does not start\n"
