"""Whole runs of the embedding processors in which workers share one file."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import torch

from tests.integration.test_run_parts import parts
from tests.models.test_processors import AMINO_ACIDS, Run, processor, vectors_of
from tests.models.tiny import write_fasta
from tests.run_program import processes_of, run, start, until

SEQUENCES = 2000


def test_one_file_is_shared_and_a_killed_run_goes_on_in_it(esm2: Path, tmp_path: Path) -> None:
    """One file of VirNucPro's form is left, with the order of the input and vectors to 1e-5."""
    source = random.Random(8)
    sequences = {
        f"s{number}": "".join(source.choices(AMINO_ACIDS, k=source.randint(20, 80)))
        for number in range(SEQUENCES)
    }
    expected = Run(processor("esm2", esm2), tmp_path, sequences).result
    file = write_fasta(tmp_path / "in" / "large.fa", sequences)
    words: list[str | Path] = [file, "--processor", "esm2", "--model", esm2]
    words += ["--split", "15K", "--tokens-per-batch", "100"]
    shared = tmp_path / "shared"
    with start(*words, output=shared) as process:
        until(lambda: process.poll() is not None or parts(shared, "completed"))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        until(lambda: not processes_of(shared))
    done = run(*words, output=shared, workers=2)
    assert done.returncode == 0, done.stderr
    assert len(parts(shared, "completed")) > 5
    found = torch.load(shared / "large_ESM.pt")
    assert found["proteins"] == list(sequences)
    torch.testing.assert_close(vectors_of(found), vectors_of(expected), rtol=0, atol=1e-5)
