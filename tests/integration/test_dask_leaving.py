"""Dask workers that stop, die, leave and come back in the middle of a run."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from distributed import Client, Worker
from prometheus_client.parser import text_string_to_metric_families

from tests.dask_cluster import DaskCluster, are_dead, family
from tests.dask_runs import WAITING, begun, fault, start, whole
from tests.run_program import DEADLINE, results, until


def finish(going: subprocess.Popen[str], inputs: Path, output: Path) -> str:
    """Let all files end, see that each was done once, and return what was told on the way."""
    (inputs / "go").touch()
    out, errors = going.communicate(timeout=DEADLINE)
    assert (going.returncode, "4 files done, 0 failed" in out) == (0, True), (out, errors)
    assert results(output) == whole(inputs)
    return errors


def workers_up(values: Path) -> dict[str, float]:
    """`virnucpro_worker_up` by worker, as a textfile has it now."""
    families = text_string_to_metric_families(values.read_text()) if values.exists() else ()
    return {
        sample.labels["gpu"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "virnucpro_worker_up"
    }


def one_of(parent: subprocess.Popen[bytes], words: str) -> psutil.Process:
    """The process among those that descend from another whose command line has these words."""
    (found,) = (p for p in family(parent.pid) if words in " ".join(p.cmdline()))
    return found


@pytest.mark.parametrize("on_stall", ["retry", "restart"])
def test_a_process_that_stalls_is_dealt_with_as_on_one_machine(
    cluster: DaskCluster, inputs: Path, tmp_path: Path, on_stall: str
) -> None:
    """Its file is done, here or elsewhere, and the worker gets a new process."""
    one, _ = cluster.add_worker("one"), cluster.add_worker("two")
    # Without second attempts nothing but the answer to the stall can save the file.
    words = [*WAITING, "--balancer=static", f"--on-stall={on_stall}", "--stall-threshold=2"]
    going = start(cluster, inputs, *words, output=tmp_path / "out")
    until(lambda: len(begun(inputs)) >= 2)
    one_of(one, "workers/boot.py").send_signal(signal.SIGSTOP)
    told = finish(going, inputs, tmp_path / "out")
    assert "one/cpu0 stalled: no progress for" in told
    assert "one/cpu0: worker restarted" in told


def test_a_node_that_stops_loses_its_file_and_may_return(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """When it does not answer it is lost without blame; when it answers again, it gets work."""
    one, _ = cluster.add_worker("one"), cluster.add_worker("two")
    log = tmp_path / "log"
    words = [*WAITING, "--balancer=static", "--dask-timeout=3", "--max-attempts=1"]
    with log.open("w") as errors:
        going = start(cluster, inputs, *words, output=tmp_path / "out", errors=errors)
    until(lambda: len(begun(inputs)) >= 2)
    for process in family(one.pid):
        process.send_signal(signal.SIGSTOP)
    until(lambda: "one/cpu0 is given up: its node has not answered for 3 s" in log.read_text())
    for process in family(one.pid):
        process.send_signal(signal.SIGCONT)
    until(lambda: sum(begun(inputs).values()) >= 3)
    finish(going, inputs, tmp_path / "out")


def test_the_file_of_a_killed_dask_worker_is_done_elsewhere(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """It takes its child process along, and no file."""
    one, _ = cluster.add_worker("one"), cluster.add_worker("two")
    going = start(cluster, inputs, *WAITING, "--max-attempts=1", output=tmp_path / "out")
    # The run may begin with the first worker alone; the other one joins it.
    until(lambda: len(begun(inputs)) >= 2)
    _, *children = family(one.pid)
    one.kill()
    until(lambda: are_dead(children))
    assert "its Dask worker has left" in finish(going, inputs, tmp_path / "out")


def test_a_nanny_brings_its_worker_back(cluster: DaskCluster, inputs: Path, tmp_path: Path) -> None:
    """The lone worker of a run is killed: the one that the nanny starts does the file."""
    nanny = cluster.add_worker("one", nanny=True)
    going = start(cluster, inputs, *WAITING, "--max-attempts=1", output=tmp_path / "out")
    until(lambda: len(begun(inputs)) >= 1)
    one_of(nanny, "multiprocessing.spawn").kill()
    until(lambda: begun(inputs).get("0.fa", 0) >= 2)
    assert "one/cpu0: worker restarted" in finish(going, inputs, tmp_path / "out")


@pytest.mark.parametrize("nanny", [True, False])
def test_a_dask_worker_that_is_told_to_leave_takes_no_file_along(
    cluster: DaskCluster, inputs: Path, tmp_path: Path, nanny: bool
) -> None:
    """`dask worker` ends by SIGTERM, with our process; another one does the file."""
    leaving = cluster.add_worker("one", nanny=nanny)
    words = [*WAITING, "--max-attempts=1", "--dask-timeout=4"]
    going = start(cluster, inputs, *words, output=tmp_path / "out")
    until(lambda: len(begun(inputs)) >= 1)
    # A nanny says that it has ended, and then its interpreter collects garbage, which
    # took up to 13 s on a machine with much else to do. That is not waited for.
    worker = one_of(leaving, "multiprocessing.spawn") if nanny else leaving
    members = family(worker.pid)
    # It has joined before the first one leaves: a run without workers waits for 4 s alone.
    cluster.add_worker("two")
    until(lambda: len(begun(inputs)) >= 2)
    leaving.terminate()
    until(lambda: are_dead(members))
    until(lambda: "End worker" in cluster.log.read_text())
    assert "one/cpu0 left the run" in finish(going, inputs, tmp_path / "out")


async def end_lifetime(dask_worker: Worker) -> None:
    """Do what the timer of `dask worker --lifetime` does."""
    dask_worker.loop.add_callback(dask_worker.close_gracefully, reason="worker-lifetime-reached")


@pytest.mark.parametrize("how", ["retired", "ended", "outlived"])
def test_a_dask_worker_that_leaves_ends_what_it_does(
    cluster: DaskCluster, inputs: Path, tmp_path: Path, how: str
) -> None:
    """By `retire_workers`, SIGTERM or `--lifetime`: it gets no more files, and loses none."""
    leaving = cluster.add_worker("one")
    log, values = tmp_path / "log", tmp_path / "values.prom"
    words = [*WAITING, "--max-attempts=1", f"--textfile={values}", "--push-interval=1"]
    with log.open("w") as errors:
        going = start(cluster, inputs, *words, output=tmp_path / "out", errors=errors)
    until(lambda: len(begun(inputs)) >= 1)
    (name,) = begun(inputs)
    with Client(cluster.address) as client:
        (address,) = client.ncores()
        cluster.add_worker("two")
        until(lambda: len(begun(inputs)) >= 2)
        if how == "ended":
            leaving.terminate()
        elif how == "outlived":
            client.run(end_lifetime, workers=[address])
        else:
            client.retire_workers([address])
    until(lambda: "one/cpu0 leaves: its Dask worker is about to leave" in log.read_text())
    (inputs / f"{name}.go").touch()
    assert leaving.wait(DEADLINE) == 0
    assert begun(inputs)[name] == 1
    until(lambda: "one/cpu0 left the run" in log.read_text())
    until(lambda: workers_up(values) == {"two/cpu0": 1.0})  # neither up nor down: no page
    finish(going, inputs, tmp_path / "out")
    assert "Traceback" not in log.read_text()
    assert set(begun(inputs).values()) == {1}


@pytest.mark.campaign  # both live for a while
@pytest.mark.parametrize("restart", [False, True])
def test_a_dask_worker_at_the_end_of_its_lifetime_loses_no_file(
    cluster: DaskCluster, inputs: Path, tmp_path: Path, restart: bool
) -> None:
    """With `dask worker --lifetime` it ends, and with `--lifetime-restart` it comes back."""
    options = ["--lifetime=30s", *(["--lifetime-restart"] if restart else [])]
    log = tmp_path / "log"
    with log.open("w") as errors:
        words = [*WAITING, "--max-attempts=1", f"--dask-timeout={DEADLINE}"]
        going = start(cluster, inputs, *words, output=tmp_path / "out", errors=errors)
    # Only now, so that its life is not over before the run has begun.
    leaving = cluster.add_worker("one", nanny=True, options=options)
    until(lambda: len(begun(inputs)) >= 1)
    (name,) = begun(inputs)
    cluster.add_worker("two")
    until(lambda: "one/cpu0 leaves: its Dask worker is about to leave" in log.read_text())
    (inputs / f"{name}.go").touch()
    until(lambda: "one/cpu0 left the run" in log.read_text())
    if restart:
        until(lambda: len(begun(inputs)) >= 3)  # that of the other one, and the next of its own
    else:
        assert leaving.wait(DEADLINE) == 0
    assert begun(inputs)[name] == 1
    finish(going, inputs, tmp_path / "out")
    assert "Traceback" not in log.read_text()


@pytest.mark.campaign  # the file takes a minute
@pytest.mark.parametrize("how", ["retired", "ended"])
def test_a_dask_worker_that_leaves_gives_the_rest_of_its_range_back(
    cluster: DaskCluster, tmp_path: Path, how: str
) -> None:
    """Its part ends at the last record that was read, and the other one does the rest."""
    records, file, log = 6000, tmp_path / "long.fa", tmp_path / "log"
    file.write_text("".join(f">r{n}\nACGT\n" for n in range(records)))  # a minute
    leaving = cluster.add_worker("one")
    with log.open("w") as errors:
        words = ["--processor=tests.run_processors:Names", "--log-level=debug", "--max-attempts=1"]
        going = start(cluster, file, *words, output=tmp_path / "out", errors=errors)
    until(lambda: "one/cpu0 starts" in log.read_text())
    with Client(cluster.address) as client:
        (address,) = client.ncores()
        cluster.add_worker("two")
        until(lambda: "two/cpu0 starts" in log.read_text())
        if how == "ended":
            leaving.terminate()
        else:
            client.retire_workers([address])
    assert leaving.wait(DEADLINE) == 0
    until(lambda: "one/cpu0 left the run" in log.read_text())
    Path(f"{file}.go").touch()
    out, _ = going.communicate(timeout=DEADLINE)
    told = log.read_text()
    assert (going.returncode, "1 files done, 0 failed" in out) == (0, True), (out, told)
    assert "one/cpu0 ends its part of" in told
    assert results(tmp_path / "out") == {
        b"long.fa.out": b"".join(b"r%d\n" % n for n in range(records))
    }


def test_a_run_that_is_told_to_end_waits_for_no_other_worker(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """When SLURM ends a job, it ends the Dask workers and the run at once."""
    only = cluster.add_worker("one")
    log = tmp_path / "log"
    words = [*WAITING, f"--dask-timeout={10 * DEADLINE}"]
    with log.open("w") as errors:
        going = start(cluster, inputs, *words, output=tmp_path / "out", errors=errors)
    until(lambda: len(begun(inputs)) >= 1)
    only.kill()
    until(lambda: "the last Dask worker has left" in log.read_text())
    going.send_signal(signal.SIGTERM)
    out, _ = going.communicate(timeout=DEADLINE)
    assert (going.returncode, "4 left" in out) == (128 + signal.SIGTERM, True), log.read_text()


def test_a_run_that_nobody_works_for_any_more_ends_and_says_why(
    cluster: DaskCluster, inputs: Path, tmp_path: Path
) -> None:
    """When no other worker has joined in the time that was set; the same command goes on later."""
    only = cluster.add_worker("one")
    going = start(cluster, inputs, *WAITING, "--dask-timeout=2", output=tmp_path / "out")
    until(lambda: len(begun(inputs)) >= 1)
    only.kill()
    out, errors = going.communicate(timeout=DEADLINE)
    assert (going.returncode, "4 left" in out) == (1, True), errors
    assert fault(errors) == "virnucpro-exporter: No worker is left: its Dask worker has left"
