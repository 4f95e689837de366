"""What names a worker and an attempt: types of their own, so that neither is taken for other text.

Events come from other processes and carry plain values; the state looks them up, and refuses those
that it does not know. Whatever the scheduler says itself carries these.
"""

from __future__ import annotations

from typing import NewType

# `"0"`, a MIG slice `"0:1"`, `"cpu0"` for a CPU slot, `"node/0"` in a cluster; unique in a run.
WorkerId = NewType("WorkerId", str)

# Unique in all runs of an output folder.
AttemptNumber = NewType("AttemptNumber", int)
