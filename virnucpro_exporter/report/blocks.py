"""Attempts as blocks wide enough to be seen: thousands of short files become a few blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from virnucpro_exporter.history import AttemptSpan, Outcome
from virnucpro_exporter.report.running_time import RunningTime


@dataclass(frozen=True, slots=True)
class Block:
    """One attempt, or neighbours on one GPU with the same outcome.

    Attributes:
        gpu: The worker.
        outcome: How they ended.
        begin: Running time, in seconds.
        end: Likewise.
        first: The first of them.
        count: How many there are.
    """

    gpu: str
    outcome: Outcome
    begin: float
    end: float
    first: AttemptSpan
    count: int = 1


def blocks(attempts: Iterable[AttemptSpan], time: RunningTime, smallest: float) -> list[Block]:
    """All attempts as blocks, by GPU and time.

    Args:
        attempts: In any order.
        time: The running time.
        smallest: Seconds: what is shorter is joined with its neighbours, if they are as short and
            as close.
    """
    made: list[Block] = []
    for span in sorted(attempts, key=lambda a: (a.gpu, a.started)):
        block = Block(
            span.gpu, span.outcome, time.at(span.started), time.at(span.ended), first=span
        )
        if made and _belong_together(made[-1], block, smallest):
            made[-1] = replace(made[-1], end=max(made[-1].end, block.end), count=made[-1].count + 1)
        else:
            made.append(block)
    return made


def _belong_together(left: Block, right: Block, smallest: float) -> bool:
    return (
        (left.gpu, left.outcome) == (right.gpu, right.outcome)
        and right.end - right.begin < smallest
        and (left.count > 1 or left.end - left.begin < smallest)
        and right.begin - left.end < smallest
        and left.end - left.begin < 10 * smallest
    )
