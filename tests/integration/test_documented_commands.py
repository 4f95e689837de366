"""The commands of pages that a newcomer follows, run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run_program import DEADLINE, READS, ROOT

PAGES = ("commands", "first-run")
# It installs what is installed here, or goes on until it is stopped.
ELSEWHERE = ("python3 -m venv", "virnucpro-exporter simulate")


def environment(home: Path) -> dict[str, str]:
    """That of a user with a home folder and the program on PATH, whose runs serve nothing."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "SHELL": "/bin/bash",
        "VIRNUCPRO_EXPORTER_WEB": "false",
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_works(page: str, tmp_path: Path) -> None:
    """From top to bottom, in one folder with a few reads and the samples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    reads = tmp_path / "READS"
    reads.mkdir()
    for file in sorted(READS.iterdir())[:3]:
        shutil.copy(file, reads)
    blocks = re.findall(
        r"```console\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL
    )
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) >= 4
    for line in lines:
        if line.removeprefix("$ ").startswith(ELSEWHERE):
            continue
        done = subprocess.run(
            ["/bin/bash", "-c", line.removeprefix("$ ")],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "Traceback" not in done.stderr, line
