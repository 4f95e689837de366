"""The commands of docs/virnucpro.md, in order, with tiny models in the places of the real ones."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import vanilla
from tests.models.test_runs import cache
from tests.models.tiny import write_fasta

PAGE = Path(__file__).parents[2] / "docs" / "virnucpro.md"
# What needs a network, or a cluster.
SKIPPED = re.compile(r"pip |hf |git |cp VirNucPro|.*HOST")
QUIET = "--no-web --linger 0 --no-dashboard --gpus cpu:2"


def commands() -> list[str]:
    """What the page tells a user to type."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = re.sub(r" \\\n +", " ", "".join(blocks)).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def sheet() -> str:
    """The sample sheet that the page shows."""
    found = re.search(r"```text\n(sample\t.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_tutorial_works(
    tmp_path: Path, esm2: Path, alibi_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command ends well, and the tables are there."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    cache(tmp_path / "hub", "facebook/esm2_t36_3B_UR50D", esm2)
    cache(tmp_path / "hub", "zhihan1996/DNABERT-S", alibi_bert)
    vanilla.save_classifier(tmp_path / "500_model.pth", vanilla.trained(esm2, alibi_bert))
    source = random.Random(9)
    for name in ("S001/final.contigs.fa", "S001/unassembled.fa", "S002/final.contigs.fa"):
        sequences = {f"{name[:8]}_{i}": "".join(source.choices("ACGGCT", k=700)) for i in range(6)}
        write_fasta(tmp_path / "assemblies" / name, sequences)
    (tmp_path / "samples.tsv").write_text(sheet())
    typed = [command for command in commands() if not SKIPPED.match(command)]
    assert len(typed) > 6
    for command in typed:
        quiet = command.replace("virnucpro-exporter run", f"virnucpro-exporter run {QUIET}")
        if "S001 --output translated" in command:
            (tmp_path / "assemblies" / "S001" / "unassembled.fa").unlink()
        done = subprocess.run(
            ["/bin/sh", "-c", quiet], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout
    names = {path.name for path in (tmp_path / "predictions").iterdir()}
    tables = {f"{sample}_prediction_results.txt" for sample in ("S001", "S002", "unassembled")}
    assert names >= tables | {"predictions.tsv", "contigs.tsv", "run.json"}
    assert (tmp_path / "by_organ" / "liver_prediction_results_highestscore.csv").exists()
