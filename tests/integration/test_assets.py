"""The files of `assets`, from a checkout and from a wheel."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.monitoring.programs import tool
from tests.run_program import PROGRAM, ROOT, call
from virnucpro_exporter.app.assets import NAMES

Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a source folder, and unpack it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=source,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=100,
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture(scope="module")
def from_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets") / "new"
    done = call([*PROGRAM, "assets", folder])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(tree(folder))} files written to {str(folder)!r}\n"
    return folder


def test_a_wheel_writes_the_same_files_as_a_checkout(from_checkout: Path, tmp_path: Path) -> None:
    """Whoever installs with pip gets all that the repository has, and can build the image."""
    # What the image is built from: the folder, without what Docker is told to ignore.
    context = tmp_path / "context"
    shutil.copytree(from_checkout, context, ignore=docker_ignores)
    installed = wheel(context, tmp_path / "built")
    done = subprocess.run(
        [*PROGRAM, "assets", "written"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
        timeout=100,
        capture_output=True,
    )
    assert not done.stderr
    assert tree(tmp_path / "written") == tree(from_checkout)


def docker_ignores(_folder: str, names: list[str]) -> set[str]:
    """What .dockerignore keeps from a build; its patterns are those of file names here."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.removeprefix("**/") for line in lines if not line.startswith("#")]
    ignored: set[str] = set()
    for pattern in patterns:
        if pattern.startswith("!"):
            ignored -= {pattern[1:]}
        else:
            ignored |= set(fnmatch.filter(names, pattern))
    return ignored


def test_all_that_is_named_is_there(from_checkout: Path) -> None:
    """Dashboards, rules, configuration and what Docker Compose mounts."""
    for name in NAMES:
        assert (from_checkout / name).exists(), name
    assert list(from_checkout.glob("grafana/dashboards/*.json"))
    assert list(from_checkout.glob("prometheus/rules/*.yml"))
    assert not list(from_checkout.rglob("*.pyc"))


def test_changed_files_are_kept_unless_forced(from_checkout: Path, tmp_path: Path) -> None:
    """One line tells which file differs, and nothing is written before that is settled."""
    folder = shutil.copytree(from_checkout, tmp_path / "mine")
    changed, missing = folder / "docker-compose.yml", folder / "Dockerfile"
    before = changed.read_bytes()
    changed.write_text("services: {}\n")
    missing.unlink()
    refused = call([*PROGRAM, "assets", folder])
    assert refused.returncode == 2
    assert str(changed) in refused.stderr
    assert "--force" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not missing.exists()
    forced = call([*PROGRAM, "assets", folder, "--force"])
    assert forced.stdout.startswith("2 files written")
    assert changed.read_bytes() == before
    assert call([*PROGRAM, "assets", folder]).stdout.startswith("0 files written")


def test_a_file_in_the_way_is_told_in_one_line(tmp_path: Path) -> None:
    """Where there is no folder, and none can be made."""
    (tmp_path / "file").touch()
    done = call([*PROGRAM, "assets", tmp_path / "file" / "below"])
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_alerts_link_to_the_runbook_and_the_dashboards_that_are_named(tmp_path: Path) -> None:
    """Every rule has both links, and Prometheus accepts them; what is no address is refused."""
    wiki, grafana = "https://wiki.example.org/virnucpro", "https://grafana.example.org"
    options = ("--runbook-base", wiki, "--grafana-url", f"{grafana}/")
    done = call([*PROGRAM, "assets", tmp_path / "new", *options])
    assert (done.returncode, done.stderr) == (0, "")
    rules = tmp_path / "new" / "prometheus" / "rules" / "alerts.yml"
    named = [
        rule for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]
    ]
    for rule in named:
        notes = rule["annotations"]
        assert notes["runbook_url"] == f"{wiki}#{rule['alert'].lower()}"
        assert notes["dashboard_url"].startswith(
            f"{grafana}/d/{notes['dashboard_uid']}?var-instance="
        )
    checked = tool("promtool", "check", "rules", "--lint=all", "--lint-fatal", rules)
    assert checked.returncode == 0, checked.stdout
    refused = call([*PROGRAM, "assets", tmp_path / "other", "--runbook-base", 'wiki"'])
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "other").exists()
