"""Runs whose results go into an object store."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import run_program
from tests.dask_cluster import DaskCluster
from tests.dask_runs import WAITING, let_end
from tests.dask_runs import whole as whole_of
from tests.object_store import BUCKET, SECRET, ObjectStore, secrets_in, with_environment
from tests.run_program import PROGRAM, READS, ROOT, arguments, until

pytestmark = pytest.mark.campaign  # whole runs, killed and resumed

URL = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    """A server with a bucket."""
    store = ObjectStore()
    yield store
    store.close()


def command(inputs: str | Path, output: str, state: Path, *words: str) -> list[str | Path]:
    """A run into a store."""
    start = arguments(inputs, "--state-folder", state, *words, output=state)
    start[start.index("--output") + 1] = output
    return start


def call(words: list[str | Path], store: ObjectStore) -> subprocess.CompletedProcess[str]:
    """Run to the end, with the credentials of a store."""
    return run_program.call(words, with_environment(store.environment))


def start(words: list[str | Path], store: ObjectStore) -> subprocess.Popen[bytes]:
    """Start a run of which nothing is read."""
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=with_environment(store.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def objects(store: ObjectStore, prefix: str) -> dict[str, bytes]:
    """The results that are in the store."""
    return {
        name: content
        for name, content in store.objects(prefix).items()
        if not name.startswith(".virnucpro/") and name != "run.json"
    }


def results_so_far(store: ObjectStore, prefix: str, inputs: Path, most: int) -> int:
    """How many are in the store. So many files may end; others wait, so that the run cannot end."""
    let_end(inputs, most)
    return len(objects(store, prefix))


def test_killed_at_any_moment_and_resumed(store: ObjectStore, tmp_path: Path) -> None:
    """The objects are those of an undisturbed run, and another machine goes on from them."""
    state, inputs = tmp_path / "state", tmp_path / "in"
    shutil.copytree(READS, inputs)
    words = command(inputs, f"{URL}/killed", state, *WAITING)
    whole = {name.decode(): content for name, content in whole_of(inputs).items()}
    # What a run leaves that is killed while it uploads a large result.
    unfinished = store.files.call_s3("create_multipart_upload", Bucket=BUCKET, Key="killed/x.out")
    assert unfinished["UploadId"]

    # Two that began before the first kill may wait now, behind files that may not end.
    for least, most in ((1, 1), (4, 6)):
        process = start(words, store)
        until(
            lambda least=least, most=most: (  # type: ignore[misc]
                results_so_far(store, "killed", inputs, most) >= least
            )
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert objects(store, "killed").items() <= whole.items()
    elsewhere = call(command(inputs, f"{URL}/killed", tmp_path / "other", *WAITING), store)
    assert elsewhere.returncode == 2
    assert f"'{URL}/killed' belongs to a run on" in elsewhere.stderr
    (inputs / "go").touch()
    done = call(words, store)
    assert done.returncode == 0, done.stderr
    assert objects(store, "killed") == whole
    recorded = json.loads(store.objects("killed")["run.json"])
    sizes = {r["name"]: r["bytes"] for file in recorded["files"] for r in file["results"]}
    assert sizes == {name: len(content) for name, content in whole.items()}
    assert not store.files.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads")
    assert ".virnucpro/owner.json" not in store.objects("killed")
    assert not [path for path in state.iterdir() if path.name.endswith(".out")]
    elsewhere = call(command(inputs, f"{URL}/killed", tmp_path / "other", *WAITING), store)
    assert f"{len(whole)} skipped" in elsewhere.stdout
    store.files.rm_file(f"{BUCKET}/killed/{min(whole)}")
    again = call(words, store)
    assert f"1 files done, 0 failed, {len(whole) - 1} skipped" in again.stdout, again.stderr
    assert objects(store, "killed") == whole
    said = [one.stdout + one.stderr for one in (done, elsewhere, again)]
    assert not secrets_in(tmp_path, *said)
    assert not [n for n, text in store.objects("killed").items() if SECRET.encode() in text]


def test_dask_workers_read_and_write_a_store(store: ObjectStore, tmp_path: Path) -> None:
    """With credentials of their own they make the objects that one machine makes of its files."""
    for path in READS.iterdir():
        store.put(f"dask-in/{path.name}", path.read_bytes())
    here = run_program.run(READS, output=tmp_path / "here")
    assert here.returncode == 0, here.stderr
    with DaskCluster(**store.environment) as cluster:
        cluster.add_worker("one")
        cluster.add_worker("two")
        cluster.wait(2)
        words = f"--dask-scheduler-file={cluster.file}", "--log-level=debug"
        done = call(command(f"{URL}/dask-in/", f"{URL}/dask", tmp_path / "state", *words), store)
        told = cluster.log.read_text()
    assert done.returncode == 0, done.stderr
    assert {"one/cpu0", "two/cpu0"} <= set(re.findall(r"\b\w+/cpu0\b", done.stderr))
    made = {os.fsencode(name): content for name, content in objects(store, "dask").items()}
    assert made == run_program.results(tmp_path / "here") != {}
    assert not secrets_in(tmp_path, done.stdout, done.stderr, told)
    assert not [n for n, text in store.objects("dask").items() if SECRET.encode() in text]


def test_inputs_beside_results(store: ObjectStore, tmp_path: Path) -> None:
    """A prefix that is searched may hold the results, and no input is replaced by a result."""
    for file in sorted(READS.iterdir())[:2]:
        store.put(f"beside/{file.name}", file.read_bytes())
    words = command(f"{URL}/beside/", f"{URL}/beside/out", tmp_path / "state")
    assert "2 files done" in call(words, store).stdout
    assert "2 skipped" in call(words, store).stdout
    status = call([*PROGRAM, "status", tmp_path / "state"], store)
    assert status.returncode == 0
    assert "completed" in status.stdout
    own = store.put("results/a_chunked500.fa", b">x\nACGT\n")
    other = store.put("others/a.fa", b">x\nACGT\n")
    words = command(own, f"{URL}/results", tmp_path / "third", other)
    done = call(words, store)
    assert done.returncode == 2
    assert f"its result would overwrite the input '{own}'" in done.stderr


def test_documented_commands(store: ObjectStore, tmp_path: Path) -> None:
    """The commands of the page work as they are written."""
    for file in sorted(READS.iterdir())[:2]:
        store.put(f"2026/{file.name}.gz", gzip.compress(file.read_bytes()))
    page = (ROOT / "docs" / "storage.md").read_text()
    lines = re.findall(r"^\$ (.*)", page, re.MULTILINE)
    assert len(lines) >= 4
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in lines:
        done = subprocess.run(
            ["/bin/bash", "-c", line],
            cwd=tmp_path,
            env={
                **with_environment(store.environment),
                "PATH": programs,
                "VIRNUCPRO_EXPORTER_WEB": "false",
                "VIRNUCPRO_EXPORTER_GPUS": "cpu:2",
            },
            text=True,
            capture_output=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert len(objects(store, "results/2026")) == 6


def test_the_store_goes_away(tmp_path: Path) -> None:
    """Results wait on this machine, one line says so, and the same command uploads them."""
    store, state = ObjectStore(), tmp_path / "state"
    inputs = tmp_path / "in"
    shutil.copytree(READS, inputs)
    words = command(inputs, f"{URL}/away", state, *WAITING, "--storage-patience", "1")
    process = subprocess.Popen(
        words, cwd=ROOT, env=with_environment(store.environment), text=True, stderr=subprocess.PIPE
    )
    until(lambda: results_so_far(store, "away", inputs, 1) == 1)
    store.stop()
    (inputs / "go").touch()
    _, said = process.communicate(timeout=110)
    assert process.returncode == 1
    assert "Some results are not uploaded yet; the same command uploads them: " in said
    assert "its server cannot be reached" in said
    assert list(state.glob("*.out"))
    store.start_again()
    done = call(words, store)
    assert done.returncode == 0, done.stderr
    assert objects(store, "away") == {n.decode(): text for n, text in whole_of(inputs).items()}
    store.close()
