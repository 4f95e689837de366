"""The commands of the workflows, as Snakemake and Nextflow give them to a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.run_program import DEADLINE, READS, ROOT

WORKFLOWS = ROOT / "deploy" / "workflows"


def shell(script: str, folder: Path, record: str) -> None:
    """Run a script twice, as a task that is tried again; the second time there is nothing to do."""
    (folder / "reads").mkdir()
    file = min(READS.iterdir())
    (folder / "reads" / file.name).write_bytes(file.read_bytes())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for _ in range(2):
        subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": path},
            timeout=DEADLINE,
            check=True,
        )
        assert len(json.loads((folder / record).read_text())["files"]) == 1


def test_rule_of_snakemake(tmp_path: Path) -> None:
    """Its shell command leaves the target."""
    text = (WORKFLOWS / "snakemake" / "Snakefile").read_text()
    script = "".join(re.findall(r'^ +"(.*)"$', text.split("    shell:\n")[1], re.MULTILINE))
    values = {
        "{params.reads:q}": "reads",
        "{params.results:q}": "results",
        "{params.devices}": "cpu:1",
        "{params.options}": "--processor translate",
        "{log:q}": "log",
    }
    for name, value in values.items():
        script = script.replace(name, value)
    assert "{" not in script
    shell(script, tmp_path, "results/run.json")


def test_process_of_nextflow(tmp_path: Path) -> None:
    """Its script leaves the output in the work directory."""
    text = (WORKFLOWS / "nextflow" / "main.nf").read_text()
    script = text.split('"""')[1].replace("\\\\", "\\")
    values = {
        "${reads}": "reads",
        "${results}": str(tmp_path / "results"),
        "${params.devices}": "cpu:1",
        "${params.options}": "--processor translate",
    }
    for name, value in values.items():
        script = script.replace(name, value)
    assert "${" not in script
    shell(script, tmp_path, "run.json")
