"""Small pictures as SVG, which needs no style attribute and no script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

_HEIGHT = 20  # units; a picture is one unit wide for each mean, whatever size it is shown in
_BAR_WIDTH = 100
_Means = Sequence["float | None"]


def sparkline(means: _Means, what: str, *, top: float | None = None) -> Markup:
    """The course of a value as an area; where nothing is known there is nothing.

    Args:
        means: The oldest first.
        what: What it is, with the range, as a text alternative.
        top: The value at the upper edge; the largest of the means where it is not given.
    """
    known = [mean for mean in means if mean is not None]
    if not known:
        return Markup()
    scale = (_HEIGHT - 1) / (top or max(known) or 1.0)
    # One unit is drawn for 0, too: it must not look like a value that is not known.
    heights = [None if m is None else 1 + round(min(m * scale, _HEIGHT - 1)) for m in means]
    return Markup(
        '<svg class=s viewBox="0 0 %s %s" preserveAspectRatio=none role=img aria-label="%s">'
        '<path d="%s"/></svg>'
    ) % (len(means), _HEIGHT, what, "".join(_areas(heights)))


def _areas(heights: Sequence[int | None]) -> Iterator[str]:
    """The path: from the lower edge up, one step for each change, and down where a gap begins."""
    before, length = None, 0
    for place, height in enumerate([*heights, None]):
        if height == before:
            length += 1
            continue
        if before is not None:
            yield f"h{length}"
        if before is None:
            yield f"M{place} {_HEIGHT}V{_HEIGHT - (height or 0)}"
        else:
            yield f"V{_HEIGHT}z" if height is None else f"V{_HEIGHT - height}"
        before, length = height, 1


def bar(share: float) -> Markup:
    """A bar of the share that is done; the number stands beside it."""
    filled = round(_BAR_WIDTH * min(max(share, 0.0), 1.0))
    return Markup(
        '<svg class=b viewBox="0 0 %s 1" preserveAspectRatio=none aria-hidden=true>'
        "<rect width=%s height=1 /><rect class=f width=%s height=1 /></svg>"
    ) % (_BAR_WIDTH, _BAR_WIDTH, filled)
