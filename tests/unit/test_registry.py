from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders
from virnucpro_exporter.app.devices import OwnGpus
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.metrics import build_registry
from virnucpro_exporter.metrics.exposition import Format, render
from virnucpro_exporter.registry import folder as folders
from virnucpro_exporter.registry.folder import Folder, for_a_run, places, refusal
from virnucpro_exporter.registry.kept import Kept, KeptRuns
from virnucpro_exporter.registry.record import (
    Address,
    Record,
    RecordError,
    decode,
    encode,
    public,
)
from virnucpro_exporter.registry.storage import RunStorage
from virnucpro_exporter.snapshot import Latest, RunEnd, RunResult, RunSnapshot, RunState

ID = "0123456789ab"
DAY = 86400.0


def record(name: str = "night", origin: str = "here", **changes: Any) -> Record:
    """A run in full swing, as it announces itself."""
    run = replace(builders.running(), name=name, **changes)
    return Record(run, origin, Address(9878))


def ended(name: str = "night", at: float = builders.NOW, origin: str = "here") -> Record:
    """A run that has ended."""
    end = RunEnd(at, RunResult.COMPLETED, 0)
    return record(name, origin, end=end, state=RunState.COMPLETED)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """An open folder of runs."""
    with closing(Folder(tmp_path)) as opened:
        yield opened


def test_a_closed_folder_reaches_no_other_that_got_its_number(tmp_path: Path) -> None:
    """A run of a folder that was replaced may be followed for a while."""
    gone = Folder(tmp_path)
    gone.close()
    with closing(Folder(tmp_path)) as other:
        other.write(ID, b"{}")
        gone.remove(ID)
        assert other.entries() == [ID]
        assert not gone.has_entry(ID)
        assert not gone.is_the_same()
        with pytest.raises(OSError, match="Bad file descriptor"):
            gone.read(ID, 100)


def test_a_record_survives_its_bytes() -> None:
    """What is written is read again, the end included."""
    one = ended()
    assert decode(encode(one)) == one


def test_any_user_may_know_no_file_and_no_error() -> None:
    """The public part of a run names neither."""
    end = RunEnd(builders.NOW, RunResult.FAILED, 1, "cannot read secret.fa")
    run = replace(builders.running(), name="n", end=end, failures=(("/data/secret.fa", "secret"),))
    text = encode(public(Record(run))).decode()
    assert "secret" not in text
    assert ".fa" not in text


SPOILED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no name": lambda run: run.update(name=""),
    "a long name": lambda run: run.update(name="x" * 500),
    "two workers of one name": lambda run: run.update(workers=run["workers"][:1] * 2),
    "other buckets": lambda run: run["workers"][0]["durations"].update(counts=[1, 2]),
    "a number beyond measure": lambda run: run.update(files_queued=10**400),
    "not a number": lambda run: run.update(elapsed_seconds=float("nan")),
    "a text for a number": lambda run: run.update(files_queued="many"),
    "nested too deeply": lambda run: run.update(name=[[[[[[[[[[[[[["x"]]]]]]]]]]]]]]),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_would_harm_others_is_refused(spoil: Callable[[dict[str, Any]], object]) -> None:
    """A run that cannot be shown without harm is refused as a whole."""
    values = json.loads(encode(record()))
    spoil(values["run"])
    with pytest.raises(RecordError):
        decode(json.dumps(values).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: json.dumps(t).encode()))
def test_no_bytes_do_harm(data: bytes) -> None:
    """Whatever another user writes, it is read or refused."""
    with pytest.raises(RecordError):
        decode(data)


def test_texts_are_cleaned() -> None:
    """Nothing in a name acts on a terminal."""
    hostile = decode(encode(record(name="a\x1b[2J\nb")))
    assert hostile.run.name == r"a\x1b[2J\nb"


def test_runs_are_served_with_their_names() -> None:
    """Series carry the label `run`; of one that ended, counters and the end stay."""
    runs = KeptRuns(DAY)
    runs.update("a", record("one"), 1000, "ann")
    runs.update("b", ended("two"), 1000, "ann")
    shown: Latest[tuple[RunSnapshot, ...]] = Latest(tuple(kept.shown for _, kept in runs))
    text = render(build_registry(runs=shown, process=False).collect(), Format.TEXT).decode()
    assert 'virnucpro_worker_up{gpu="0",run="one"} 1.0' in text
    assert 'virnucpro_worker_up{gpu="0",run="two"}' not in text
    assert 'virnucpro_files_completed_total{gpu="0",run="two"} 2.0' in text
    assert 'virnucpro_run_result{result="completed",run="two"} 1.0' in text
    assert 'virnucpro_run_result{result="completed",run="one"}' not in text
    assert 'virnucpro_collector_last_success_timestamp_seconds{collector="run",run="one"}' in text
    assert 'collector="run",run="two"' not in text
    assert text.count("# TYPE virnucpro_collector_success") == 1


def names(runs: KeptRuns) -> list[str]:
    """The names that are shown, in the order in which they came."""
    return [kept.name for _, kept in runs]


def test_no_two_runs_have_one_name() -> None:
    """A name that is taken gets a number; a run into the same folder replaces its last."""
    runs = KeptRuns(DAY)
    runs.update("a", ended(), 1000, "ann")
    runs.update("b", record(), 1001, "bob")
    assert names(runs) == ["night", "night-2"]
    runs.update("c", record(), 1000, "ann")
    assert names(runs) == ["night-2", "night"]
    runs.update("d", record(origin="there"), 1000, "ann")
    assert names(runs)[-1] == "night-3"


def test_a_run_whose_process_has_gone_vanished() -> None:
    """What it said last stays, and when; a run that told of its end did not vanish."""
    runs = KeptRuns(DAY)
    runs.update("a", record(), 1000, "ann", pid=7)
    runs.vanish("a", builders.NOW + 100)
    kept = runs.get("a")
    assert kept is not None
    assert kept.shown.end is not None
    assert (kept.shown.end.result, kept.shown.end.timestamp) == (
        RunResult.VANISHED,
        builders.NOW,
    )
    assert kept.shown.state is RunState.FAILED
    assert kept.shown.workers == builders.running().workers
    runs.update("b", ended("other"), 1000, "ann")
    runs.vanish("b", builders.NOW + 100)
    other = runs.get("b")
    assert other is not None
    assert other.record == ended("other")


def test_ends_are_kept_for_a_time_and_for_each_user() -> None:
    """Old ends go, and of many those that came first; no user pushes out another's."""
    runs = KeptRuns(DAY)
    runs.update("old", ended("old", builders.NOW - 2 * DAY), 1000, "ann")
    runs.update("new", ended("new"), 1000, "ann")
    for number in range(150):
        runs.update(str(number), ended(f"n{number}", builders.NOW + number), 1001, "bob")
    gone = runs.expire(builders.NOW)
    assert gone == ["old", *(str(number) for number in range(50))]
    assert runs.get("new") is not None
    accepted = [runs.update(f"l{n}", record(f"l{n}"), 1001, "bob") for n in range(40)]
    assert accepted.count(True) == 32


def test_what_is_remembered_is_there_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs come back as they were; a file that was damaged is named and left out."""
    kept = {ID: Kept(ended(), "night-2", 1000, "ann")}
    state = tmp_path / "state"
    RunStorage(state).write(kept)
    (state / f"{'f' * 12}.run.json").write_text("{")
    storage = RunStorage(state)
    assert storage.read() == kept
    assert "is not shown" in caplog.text
    storage.write({})
    assert not (state / f"{ID}.run.json").exists()


def test_entries_are_opened_without_following_links(folder: Folder, tmp_path: Path) -> None:
    """A link, a pipe and a huge file are refused at once."""
    (tmp_path / "secret").write_text("{}")
    (tmp_path / f"{ID}.json").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        folder.read(ID, 100)
    os.mkfifo(tmp_path / f"{'a' * 12}.json")
    with pytest.raises(OSError, match="not a regular file"):
        folder.read("a" * 12, 100)
    (tmp_path / f"{'b' * 12}.json").write_text("x" * 101)
    with pytest.raises(OSError, match="too large"):
        folder.read("b" * 12, 100)
    folder.write("c" * 12, b"mine")
    data, uid, _ = folder.read("c" * 12, 100)
    assert (data, uid) == (b"mine", os.geteuid())


def test_a_folder_that_others_could_empty_is_refused(tmp_path: Path) -> None:
    """Where any user may write, only the owner of an entry may remove it."""
    tmp_path.chmod(0o777)
    assert "chmod +t" in refusal(tmp_path)
    tmp_path.chmod(0o1777)
    assert refusal(tmp_path) == ""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert "a link" in refusal(link)
    with pytest.raises(UsageError, match="--run-registry"):
        for_a_run(str(link), {})


def test_the_folder_of_the_machine_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used where it is there, and never made by a run; that of the user is made."""
    machine, own = tmp_path / "machine", tmp_path / "own"
    monkeypatch.setattr(folders, "_MACHINE", machine)
    environment = {"XDG_RUNTIME_DIR": str(own)}
    assert places(None, environment) == (machine, own / "virnucpro-exporter" / "runs")
    assert for_a_run(None, environment) == own / "virnucpro-exporter" / "runs"
    assert for_a_run(None, {}) is None
    machine.mkdir(mode=0o1777)
    assert for_a_run(None, environment) == machine
    assert places("x", environment) == (Path.cwd() / "x",)


def test_serve_is_believed_only_where_the_kernel_says_so(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket of an unknown user does not keep a run from having a port of its own."""
    assert folder.server() is None
    presence = folder.appear()
    assert presence is not None
    with closing(presence):
        peer = folder.server()
        assert peer is not None
        assert peer.pid == os.getpid()
        monkeypatch.setattr(Folder, "trusted", lambda _: (12345,))
        assert folder.server() is None


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """Paths of sockets have 107 bytes at most; those of folders may be longer."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    with closing(Folder(long)) as opened, closing(opened.listen(ID)):
        assert opened.answers(ID)
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.connect(opened.address(f"{ID}.sock"))
    assert (long / f"{ID}.sock").is_socket()


def test_a_run_shows_its_own_gpus_alone() -> None:
    """Sums over runs count each watt once; nothing is made anew while nothing changes."""
    seen = Latest(builders.gpus_up(4))
    own = OwnGpus(seen, Latest(builders.running(2)))
    assert [device.gpu for device in own.latest().devices] == ["0", "1"]
    assert own.latest() is own.latest()
    seen.publish(builders.gpus_up(1))
    assert [device.gpu for device in own.latest().devices] == ["0"]


def test_the_kernel_tells_the_processes_of_runs(folder: Folder) -> None:
    """A run that is listening is known by its process; a socket that is left over is not."""
    folder.write(ID, b"")
    with closing(folder.listen(ID)):
        assert folder.processes() == {os.getpid()}
    assert folder.processes() == frozenset()
