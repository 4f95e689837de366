"""The axis of running time that all pictures of a report share."""

from __future__ import annotations

from dataclasses import dataclass

from virnucpro_exporter.report import svg
from virnucpro_exporter.report.running_time import RunningTime
from virnucpro_exporter.text import format_moment

WIDTH = 1000.0  # of what is drawn; a block narrower than one is joined with its neighbours
LEFT, RIGHT = 70.0, 14.0

_UNITS = ((300.0, "s", 1.0), (3 * 3600.0, "min", 60.0), (float("inf"), "h", 3600.0))
_STEPS = (1.0, 2.0, 5.0, 10.0)
_MOST_TICKS = 10


@dataclass(frozen=True, slots=True)
class Axis:
    """Where moments of running time lie.

    Attributes:
        time: The running time.
    """

    time: RunningTime

    @property
    def width(self) -> float:
        """Of a whole picture."""
        return LEFT + WIDTH + RIGHT

    def place(self, running: float) -> float:
        """The place of a moment of running time."""
        return LEFT + WIDTH * running / (self.time.total or 1.0)

    def _marks(self) -> tuple[list[float], str, float]:
        """Moments of running time with a label, its unit, and the seconds in one."""
        unit, scale = next((u, s) for limit, u, s in _UNITS if self.time.total < limit)
        total = self.time.total / scale
        step = 10.0**-3
        while total / step > _MOST_TICKS:
            step = next(
                (step * s for s in _STEPS[1:] if total / (step * s) <= _MOST_TICKS), step * 10
            )
        return [n * step * scale for n in range(int(total / step) + 1)], unit, scale

    def grid(self, height: float) -> str:
        """Lines at the labels, and where a run ended and a later one went on."""
        marks, _, _ = self._marks()
        top = "".join(f"M{svg.number(self.place(at))} 0V{svg.number(height)}" for at in marks)
        joins = "".join(
            f"M{svg.number(self.place(at))} 0V{svg.number(height)}" for at in self.time.starts[1:]
        )
        return svg.path(top, "grid") + (svg.path(joins, "join") if joins else "")

    def ticks(self, height: float) -> str:
        """The labels below a picture of this height."""
        marks, unit, scale = self._marks()
        labels = [
            svg.label(self.place(at), height + 16, f"{at / scale:g} {unit}", "tick") for at in marks
        ]
        joins = [
            svg.label(self.place(at), height + 32, f"resumed {format_moment(p.started)}", "tick")
            for at, p in list(zip(self.time.starts, self.time.periods, strict=True))[1:]
        ]
        return "".join([*labels, *joins])
