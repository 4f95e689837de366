"""Runs whose inputs lie in an object store or on a web server."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compressed import bgzip
from tests.object_store import SECRET, ObjectStore, secrets_in, web_server, with_environment
from tests.run_program import ROOT, arguments, call, results, until

RECORDS = 4000
WITHOUT_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": "/nowhere"}


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    """A server with a bucket."""
    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture(scope="module")
def text() -> bytes:
    """FASTA of more than one megabyte."""
    rng = random.Random(1)
    return b"".join(
        b">r%d\n%s\n" % (n, "".join(rng.choices("ACGT", k=300)).encode()) for n in range(RECORDS)
    )


def run(
    *words: str | Path, output: Path, store: ObjectStore | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end, with the credentials of a store."""
    environment = with_environment({**(store.environment if store else {}), **more})
    environment = {name: text for name, text in environment.items() if text}
    return call(arguments(*words, output=output), environment)


def locally(tmp_path: Path, *words: str | Path, **contents: bytes) -> dict[bytes, bytes]:
    """The results of the same content as files of this machine."""
    folder = tmp_path / "local"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name.replace("_", ".", 1).replace("_", ".")).write_bytes(content)
    done = run(folder, *words, output=tmp_path / "local-out")
    assert done.returncode == 0, done.stderr
    return results(tmp_path / "local-out")


def test_a_prefix_is_a_folder(store: ObjectStore, text: bytes, tmp_path: Path) -> None:
    """All its sequence files are done in parts as local ones are, and once; secrets stay secret."""
    for name, content in (("a.fa", text), ("b.fa.gz", bgzip(text)), ("sub/c.fa", text[:1000])):
        store.put(f"prefix/{name}", content)
    store.put("prefix/zip.fa.gz", gzip.compress(text))
    for name in ("notes.txt", ".hidden/d.fa", "old/.virnucpro/journal.sqlite", "old/a_result.fa"):
        store.put(f"prefix/{name}", b">x\nACGT\n")
    output = tmp_path / "out"
    words = ("s3://reads/prefix/", "--split", "200K", "--checksums")
    done = run(*words, output=output, store=store)
    assert done.returncode == 0, done.stderr
    assert "4 files done" in done.stdout
    assert "left out: 's3://reads/prefix/old/a_result.fa': results of another run" in done.stderr
    again = run(*words, output=output, store=store)
    assert "4 skipped" in again.stdout
    recorded = {f["path"]: f for f in json.loads((output / "run.json").read_text())["files"]}
    assert len(recorded["s3://reads/prefix/a.fa"]["parts"]) > 3
    assert len(recorded["s3://reads/prefix/b.fa.gz"]["parts"]) > 1
    expected = locally(
        tmp_path, a_fa=text, b_fa_gz=bgzip(text), c_fa=text[:1000], zip_fa_gz=gzip.compress(text)
    )
    assert results(output) == expected
    store.put("prefix/a.fa", text[: text.index(b">r9\n")])
    changed = run(*words, output=output, store=store)
    assert "1 files done, 0 failed, 3 skipped" in changed.stdout
    assert results(output)[b"a_chunked500.fa"].count(b">") == 9
    texts = [run.stdout + run.stderr for run in (done, again, changed)]
    assert not secrets_in(tmp_path, *texts, words=(SECRET, "testing"))


@pytest.mark.campaign
def test_commands_and_python_get_a_copy(store: ObjectStore, text: bytes, tmp_path: Path) -> None:
    """Programs are given a file of this machine, whole or in parts, and no copy is left."""
    url = store.put("copied/a.fa", text)
    copying = ("--", "cp", "{input}", "{output}")
    parts = run(url, "--split", "300K", *copying, output=tmp_path / "parts", store=store)
    assert parts.returncode == 0, parts.stderr
    assert results(tmp_path / "parts") == {b"a.fa.out": text}
    assert len(json.loads((tmp_path / "parts/run.json").read_text())["files"][0]["parts"]) > 2
    python = ("--processor", "tests.run_processors:first_line")
    done = run(url, *python, output=tmp_path / "python", store=store, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "python") == {b"a.fa.out": b">r0\n"}
    assert not list(tmp_path.rglob(".virnucpro_part"))


@pytest.mark.parametrize("has_ranges", [True, pytest.param(False, marks=pytest.mark.campaign)])
def test_web_servers(text: bytes, tmp_path: Path, has_ranges: bool) -> None:
    """A signed URL is read in parts where its server sends ranges, and its signature is hidden."""
    site, query = tmp_path / "site", "X-Amz-Signature=abcdefsecret"
    site.mkdir()
    (site / "a.fa").write_bytes(text)
    (site / "b.fa.gz").write_bytes(bgzip(text))
    output = tmp_path / "out"
    with web_server(site, has_ranges=has_ranges, query=query) as url:
        words = [f"{url}/a.fa?{query}", f"{url}/b.fa.gz?{query}", "--split", "300K"]
        done = run(*words, output=output)
        assert done.returncode == 0, done.stderr
        again = run(*words, output=output)
        denied = run(f"{url}/a.fa?{query}wrong", output=tmp_path / "denied")
        gone = run(f"{url}/c.fa?{query}", output=tmp_path / "gone")
        listed = run(f"{url}/", output=tmp_path / "listed")
    assert "2 files done" in done.stdout
    assert "2 skipped" in again.stdout
    files = json.loads((output / "run.json").read_text())["files"]
    assert all((len(file.get("parts", ())) > 1) == has_ranges for file in files)
    assert results(output) == locally(tmp_path, a_fa=text, b_fa_gz=bgzip(text))
    assert f"'{url}/a.fa': access is denied" in denied.stderr
    assert f"'{url}/c.fa' matches no object" in gone.stderr
    assert "web servers do not list their files" in listed.stderr
    assert [one.returncode for one in (denied, gone, listed)] == [2, 2, 2]
    texts = [one.stdout + one.stderr for one in (done, again, denied, gone, listed)]
    assert not secrets_in(tmp_path, *texts, words=("abcdefsecret",))


@pytest.mark.campaign
def test_killed_and_resumed(store: ObjectStore, text: bytes, tmp_path: Path) -> None:
    """A run that is killed while it reads objects goes on, and does nothing twice."""
    for number in range(12):
        store.put(f"killed/{number}.fa", text)
    output = tmp_path / "out"
    command = arguments("s3://reads/killed/", output=output)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=with_environment(store.environment), **quiet)  # type: ignore[call-overload]  # a table of options
    until(lambda: len(list(output.glob("*_chunked500.fa"))) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run("s3://reads/killed/", output=output, store=store)
    assert done.returncode == 0, done.stderr
    assert "0 left" in done.stdout
    assert int(done.stdout.partition(" skipped")[0].rpartition(" ")[2]) >= 3
    assert len(set(results(output).values())) == 3
    assert len(results(output)) == 36


@pytest.mark.parametrize(
    ("url", "more", "line"),
    [
        ("s3://missing/", {}, "'s3://missing/': no such bucket"),
        ("s3://reads/none.fa", {}, "'s3://reads/none.fa' matches no object"),
        ("s3://reads/x", WITHOUT_CREDENTIALS, "no credentials were found: set AWS_ACCESS_KEY_ID"),
        (f"s3://key:{SECRET}@reads/x", {}, "(given: 's3://...@reads/x')"),
    ],
)
def test_one_line_says_why(
    store: ObjectStore, tmp_path: Path, url: str, more: dict[str, str], line: str
) -> None:
    """What cannot be used is refused with one line, without any secret in it."""
    done = run(url, output=tmp_path / "out", store=store, **more)
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not secrets_in(tmp_path, done.stdout + done.stderr)


def test_without_the_extra(tmp_path: Path) -> None:
    """A run without the library says how to install it."""
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from importlib import util; found = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 's3fs' else found(name)\n"
        "from virnucpro_exporter.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "s3://reads/x.fa", "--output", tmp_path / "out"],
        text=True,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert "s3:// needs s3fs, which is not installed; install it with: pip install" in done.stderr
