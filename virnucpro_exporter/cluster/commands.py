"""What the coordinator has an agent do: messages, each with the arguments that belong to it."""

from __future__ import annotations

from dataclasses import dataclass

from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId


@dataclass(frozen=True, slots=True)
class Begin:
    """Be the worker of the run, and ready for the other orders.

    Attributes:
        pin: The CUDA_VISIBLE_DEVICES of its process.
    """

    pin: str


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the process of the worker."""


@dataclass(frozen=True, slots=True)
class Start:
    """Process files.

    Attributes:
        actions: In this order.
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
    """Give a share of a range away.

    Attributes:
        action: Of which attempt, and how much.
    """

    action: ShrinkAttempt


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the process of the worker."""


@dataclass(frozen=True, slots=True)
class CloseIdle:
    """Close the processor of a worker that processes nothing.

    Attributes:
        seconds: How long that may take.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """Kill the process, and be an agent no longer."""


Order = Begin | Spawn | Start | Cancel | Shrink | Kill | CloseIdle | End


@dataclass(frozen=True, slots=True)
class Command:
    """An order to one worker.

    Attributes:
        worker_id: The id of the worker.
        order: What to do.
        generation: How many processes the worker has had; events carry it.
    """

    worker_id: WorkerId
    order: Order
    generation: int
