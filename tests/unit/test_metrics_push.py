from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import builders
from tests.gateway import Gateway
from virnucpro_exporter.errors import UsageError
from virnucpro_exporter.metrics import GatewayPusher, TextfileWriter, build_registry
from virnucpro_exporter.metrics.push import GatewayAccess, Periodic
from virnucpro_exporter.snapshot import Latest, RunSnapshot

REGISTRY = build_registry(Latest(builders.running()), process=False)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        yield server


def send(push: Periodic, cell: Latest[RunSnapshot], end: RunSnapshot) -> None:
    """Send what a run shows until its end, with a GPU beside it."""
    gpus = Latest(builders.gpus_up())
    push.start(build_registry(cell, gpus, process=False), last=build_registry(cell, process=False))
    cell.publish(end)
    push.stop()


def test_the_textfile_holds_the_end_of_the_run(tmp_path: Path) -> None:
    """When the writer is stopped, the newest snapshot is on disk, and nothing else beside it."""
    path = tmp_path / "virnucpro.prom"
    send(TextfileWriter(path, interval=3600.0), Latest(builders.running()), builders.finished())
    families = {f.name: f for f in text_string_to_metric_families(path.read_text())}
    state = {s.labels["state"]: s.value for s in families["virnucpro_run_state"].samples}
    assert state["completed"] == 1
    assert not any(name.startswith(("process_", "python_")) for name in families)
    assert not any(name.startswith("virnucpro_gpu_") for name in families), "nobody measures now"
    assert list(tmp_path.iterdir()) == [path]


def series(path: Path) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """The name and the labels of everything in a textfile."""
    families = text_string_to_metric_families(path.read_text())
    return {(s.name, tuple(sorted(s.labels.items()))) for f in families for s in f.samples}


def test_two_runs_write_no_series_twice(tmp_path: Path) -> None:
    """node_exporter reads all files of a folder as one: each file names its run."""
    paths = [tmp_path / "virnucpro_17.prom", tmp_path / "virnucpro_18.prom"]
    for path in paths:
        TextfileWriter(path).send_once(REGISTRY)
    one, two = map(series, paths)
    assert one
    assert not one & two
    assert all(("run", "virnucpro_17") in labels for _, labels in one)


@pytest.mark.parametrize("umask", [0o077, 0o777, 0o000])
def test_a_textfile_is_for_all_to_read(umask: int, tmp_path: Path) -> None:
    """Whatever the umask, and only its owner may write."""
    before = os.umask(umask)
    try:
        TextfileWriter(tmp_path / "virnucpro.prom").send_once(REGISTRY)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_push_replaces_what_this_machine_pushed(gateway: Gateway) -> None:
    """The gateway gets the metrics under the job and the name of the machine, the end last."""
    pusher = GatewayPusher(gateway.url, interval=3600.0)
    send(pusher, Latest(builders.running()), builders.finished())
    assert len(gateway.pushed) in (1, 2)
    assert {path for path, _ in gateway.pushed} == {
        f"/metrics/job/virnucpro_exporter/instance/{socket.gethostname()}"
    }
    assert 'virnucpro_run_state{state="completed"} 1.0' in gateway.pushed[-1][1]
    assert "virnucpro_gpu_" not in gateway.pushed[-1][1]


def test_failures_are_counted_and_logged_once(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A gateway that is away for three pushes is one warning, and its return another."""
    caplog.set_level(logging.INFO)
    pusher = GatewayPusher(gateway.url)
    gateway.statuses = [500, 500, 500]
    for _ in range(5):
        pusher.send_once(REGISTRY)
    assert pusher.failures == 3
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"cannot send metrics to {gateway.url}: ")
    assert second == f"metrics reach {gateway.url} again after 3 failures"


def test_an_end_that_was_not_sent_is_told(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever misses the end of the run at the gateway learns why from the log."""
    gateway.statuses = [503, 503]
    pusher = GatewayPusher(gateway.url, interval=3600.0)
    send(pusher, Latest(builders.running()), builders.finished())
    told = f"the last metrics did not reach {gateway.url}, after {pusher.failures} failures in all"
    assert caplog.records[-1].getMessage() == told


def test_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    """A folder that went away is a failure that is counted."""
    folder = tmp_path / "gone"
    folder.mkdir()
    writer = TextfileWriter(folder / "virnucpro.prom")
    folder.rmdir()
    writer.send_once(REGISTRY)
    assert writer.failures == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: TextfileWriter(folder / "metrics.txt"),
        lambda folder: TextfileWriter(folder / "no" / "metrics.prom"),
        lambda folder: TextfileWriter(folder / "metrics.prom", interval=0.0),
        lambda _: GatewayPusher("localhost:9091"),
        lambda _: GatewayPusher("http://localhost:9091", interval=-1.0),
        lambda _: GatewayPusher("http://me:secret@localhost:9091"),
    ],
)
def test_targets_that_cannot_work_are_refused(
    make: Callable[[Path], Periodic], tmp_path: Path
) -> None:
    """What can be known before the run is said before the run."""
    with pytest.raises(UsageError):
        make(tmp_path)


def test_two_runs_of_a_machine_have_a_group_each(gateway: Gateway) -> None:
    """The name of the run and what the user adds are in the grouping key."""
    for run in ("one", "two"):
        push = GatewayPusher(gateway.url, run=run, grouping={"team": "a b"})
        push.send_once(REGISTRY)
    one, two = (path for path, _ in gateway.pushed)
    assert "/run/one/" in f"{one}/"
    assert "/run/two/" in f"{two}/"
    assert "/team@base64/" in one


def test_the_group_of_a_run_that_ended_is_deleted(gateway: Gateway) -> None:
    """Nothing stays in the gateway, unless that is wanted."""
    push = GatewayPusher(gateway.url, interval=3600.0, run="one", keep=False)
    send(push, Latest(builders.running()), builders.finished())
    assert gateway.deleted == [gateway.pushed[0][0]]
    assert len(gateway.pushed) == 1


def test_a_gateway_is_shown_the_password(gateway: Gateway) -> None:
    """As basic authentication."""
    access = GatewayAccess("ann", "secret")
    GatewayPusher(gateway.url, access=access).send_once(REGISTRY)
    assert gateway.authorizations == ["Basic YW5uOnNlY3JldA=="]
    assert "secret" not in repr(access)


def test_a_textfile_names_its_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the name of the run; where another file of the folder has that, by its own."""
    one, two = tmp_path / "one.prom", tmp_path / "two.prom"
    TextfileWriter(one, run="night").send_once(REGISTRY)
    TextfileWriter(one, run="night").send_once(REGISTRY)
    assert not caplog.text
    TextfileWriter(two, run="night").send_once(REGISTRY)
    assert "--run-name" in caplog.text
    assert 'run="night"' in one.read_text()
    assert 'run="two"' in two.read_text()


@pytest.mark.parametrize("label", ["job", "__x", "a-b", ""])
def test_labels_that_cannot_be_are_refused(label: str) -> None:
    """A grouping key has labels as Prometheus knows them."""
    with pytest.raises(UsageError, match="grouping key"):
        GatewayPusher("http://localhost:1", grouping={label: "x"})
