"""The commands of a run to its agents."""

from __future__ import annotations

from dataclasses import dataclass

from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId


@dataclass(frozen=True, slots=True)
class Begin:
    """Become a worker of the run; precedes all other orders.

    Attributes:
        pin: The CUDA_VISIBLE_DEVICES of the worker process.
    """

    pin: str


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the process of the worker."""


@dataclass(frozen=True, slots=True)
class Start:
    """Process files.

    Attributes:
        actions: The files or parts, in the order in which they are processed.
    """

    actions: tuple[StartAttempt, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop an attempt.

    Attributes:
        attempt: Its number.
    """

    attempt: AttemptNumber


@dataclass(frozen=True, slots=True)
class Shrink:
    """Give a share of an attempt's range away.

    Attributes:
        action: The attempt and the share.
    """

    action: ShrinkAttempt


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the process of the worker."""


@dataclass(frozen=True, slots=True)
class CloseIdle:
    """Close the processor of an idle worker.

    Attributes:
        seconds: The time limit.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """Kill the process and end the agent."""


Order = Begin | Spawn | Start | Cancel | Shrink | Kill | CloseIdle | End


@dataclass(frozen=True, slots=True)
class Command:
    """An order to one worker.

    Attributes:
        worker_id: The id of the worker.
        order: The order.
        generation: How many processes the worker has had; the worker's events carry it, so that
            events of an earlier process can be dropped.
    """

    worker_id: WorkerId
    order: Order
    generation: int
