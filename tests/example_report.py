"""Writes the example of a report: `python -m tests.example_report > docs/example-report.html`."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

from tests import histories
from virnucpro_exporter.report.page import page
from virnucpro_exporter.report.summary import summarize

_RESIDUES_PER_SEQUENCE = 150


def example() -> str:
    """The page of a made-up run that was killed and went on with one GPU less."""
    known = histories.history(4, 80, resumed=True)
    first, second = known.runs
    attempts = tuple(
        replace(a, residues=a.sequences and a.sequences * _RESIDUES_PER_SEQUENCE)
        for a in known.attempts
        if a.gpu != "3" or a.ended < first.ended
    )
    workers = tuple(w for w in known.workers if (w.run_id, w.gpu) != (second.run_id, "3"))
    log = histories.log(4)
    gone = log.gpus["3"]
    rows = sum(moment <= first.ended for moment in gone.times)
    for column in gone.columns:
        del column[rows:]
    return page(summarize(replace(known, attempts=attempts, workers=workers), log))


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    sys.stdout.write(example())
