"""Runs on a Dask cluster that speaks TLS, by Dask's own settings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.certificates import Authority, Files
from tests.dask_cluster import DaskCluster
from tests.dask_runs import fault
from tests.run_program import DEADLINE, PROGRAM, QUIET, READS, ROOT


@dataclass(frozen=True)
class Secured:
    """A cluster, and settings with which it may be met.

    Attributes:
        address: Of its scheduler.
        settings: What a client may have as DASK_CONFIG.
    """

    address: str
    settings: Mapping[str, Path]


def tls(authority: Authority, files: Files, **others: Files) -> dict[str, Any]:
    """Dask's settings: whom to trust, and the certificate of each role."""
    roles = {role: others.get(role, files) for role in ("scheduler", "worker", "client")}
    pairs = {role: {"cert": str(f.cert), "key": str(f.key)} for role, f in roles.items()}
    security = {"ca-file": str(authority.own.cert), **pairs}
    comm = {"default-scheme": "tls", "require-encryption": True, "tls": security}
    return {"distributed": {"comm": comm}}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    ours, other = Authority(folder), Authority(folder, "other")
    node, stranger = ours.issue("node"), other.issue("stranger")
    nowhere = Files(folder / "nowhere.crt", folder / "nowhere.key")
    contents = {
        "right": tls(ours, node),
        "another authority": tls(other, stranger),
        "a certificate of another authority": tls(ours, node, client=stranger),
        "a missing file": tls(ours, node, client=nowhere),
        "none": {},
    }
    settings = {name: folder / f"{number}.yaml" for number, name in enumerate(contents)}
    for name, content in contents.items():
        settings[name].write_text(yaml.safe_dump(content))
    with DaskCluster(DASK_CONFIG=str(settings["right"])) as cluster:
        cluster.add_worker("one")
        yield Secured(cluster.address, settings)


def run(
    secured: Secured, settings: str, address: str, output: Path
) -> subprocess.CompletedProcess[str]:
    """Run the sample reads with these of Dask's settings."""
    return subprocess.run(
        [*PROGRAM, "run", *QUIET, "--dask", address, "--output", output, READS],
        cwd=ROOT,
        env={**os.environ, "DASK_CONFIG": str(secured.settings[settings])},
        text=True,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


def test_a_run_speaks_tls(secured: Secured, tmp_path: Path) -> None:
    """With Dask's settings nothing else is needed: the scheduler and the workers are reached."""
    assert secured.address.startswith("tls://")
    done = run(secured, "right", secured.address, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "12 files done, 0 failed" in done.stdout


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("another authority", "certificates are signed by the same authority"),
        ("a certificate of another authority", "certificates are signed by the same authority"),
        ("a missing file", "distributed.comm.tls in Dask's configuration: "),
        ("none", "Dask's configuration has no certificates (distributed.comm.tls)"),
    ],
)
def test_wrong_certificates_are_told_in_one_line(
    secured: Secured, tmp_path: Path, settings: str, why: str
) -> None:
    """The run ends at once with status 1, and says what is wrong with Dask's settings."""
    done = run(secured, settings, secured.address, tmp_path / "out")
    assert done.returncode == 1
    assert why in fault(done.stderr)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "why"),
    [("right", "encryption required by Dask"), ("none", "begins with tcp:// or tls://")],
)
def test_no_secret_is_sent_in_the_clear(
    secured: Secured, tmp_path: Path, settings: str, why: str
) -> None:
    """A scheduler that speaks TLS cannot be reached without it."""
    address = secured.address.replace("tls://", "tcp://")
    done = run(secured, settings, address, tmp_path / "out")
    assert done.returncode == 1
    assert why in fault(done.stderr)
    assert len(done.stderr.splitlines()) == 1
