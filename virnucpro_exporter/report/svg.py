"""Pictures as SVG: text that needs no script, prints, and follows the colours of the page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from virnucpro_exporter.text import clean


def text(content: str) -> str:
    """Foreign text inside an element or an attribute."""
    return html.escape(clean(content))


def number(value: float) -> str:
    """A coordinate with one digit after the point at most."""
    return f"{value:.1f}".removesuffix(".0")


def box(x: float, y: float, width: float, height: float) -> str:
    """The path of a rectangle."""
    return f"M{number(x)} {number(y)}h{number(width)}v{number(height)}h{number(-width)}z"


def path(outline: str, name: str = "", tip: str = "") -> str:
    """An outline, of a class, with what is shown where one points at it."""
    named = f' class="{name}"' if name else ""
    told = f"<title>{text(tip)}</title>" if tip else ""
    return f'<path{named} d="{outline}">{told}</path>' if told else f'<path{named} d="{outline}"/>'


def line(points: Iterable[tuple[float, float | None]]) -> str:
    """The path through points; where a height is None, it is broken."""
    parts, is_down = [], False
    for x, y in points:
        if y is not None:
            parts.append(f"{' ' if is_down else 'M'}{x:.0f} {y:.0f}")
        is_down = y is not None
    return "".join(parts)


def label(x: float, y: float, content: str, name: str = "") -> str:
    """A line of text; `y` is its baseline."""
    named = f' class="{name}"' if name else ""
    return f'<text x="{number(x)}" y="{number(y)}"{named}>{text(content)}</text>'


def group(parts: Sequence[str], name: str = "", y: float = 0.0) -> str:
    """Parts of one class, moved down; nothing for no parts."""
    moved = f' transform="translate(0 {number(y)})"' if y else ""
    named = f' class="{name}"' if name else ""
    return f"<g{named}{moved}>{''.join(parts)}</g>" if parts else ""


def picture(title: str, about: str, width: float, height: float, parts: Iterable[str]) -> str:
    """A whole picture, with a text alternative."""
    return (
        f'<svg role="img" viewBox="0 0 {number(width)} {number(height)}" '
        f'aria-label="{text(f"{title}. {about}")}">{"".join(parts)}</svg>'
    )
