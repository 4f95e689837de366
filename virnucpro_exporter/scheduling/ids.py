"""What names a worker and an attempt: types of their own, so that neither is taken for other text.

Events, commands and facts carry them. They are made of plain values at the edge alone: where a
worker's process is started, where its messages are read, and where a caller names its GPU.
"""

from __future__ import annotations

from typing import NewType

# `"0"`, a MIG slice `"0:1"`, `"cpu0"` for a CPU slot, `"node/0"` in a cluster; unique in a run.
WorkerId = NewType("WorkerId", str)

# Unique in all runs of an output folder.
AttemptNumber = NewType("AttemptNumber", int)
