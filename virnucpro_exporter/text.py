"""Numbers, times and foreign text as short strings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # what Python makes of LC_CTYPE where the locale is C


def format_duration(seconds: float | None) -> str:
    """Seconds as `45s`, `3m05s`, `2h07m` or `3d04h`; `-` when not known."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def format_span(seconds: float | None) -> str:
    """Seconds as `format_duration` writes them, with two digits where they are few: `0.44s`."""
    if seconds is None or not 0 < seconds < 9.95:
        return format_duration(seconds)
    return f"{seconds:.2g}s"


def format_number(value: float | None) -> str:
    """A count or rate in at most six characters (`7.5`, `950`, `12.3k`); `-` when not known."""
    if value is None:
        return "-"
    for limit, divisor, unit in ((999.5, 1, ""), (999_500, 1e3, "k"), (999.5e6, 1e6, "M")):
        if value < limit:
            scaled = value / divisor
            digits = 1 if scaled < 100 and (unit or value % 1) else 0
            return f"{scaled:.{digits}f}{unit}"
    return f"{value / 1e9:.1f}G"


def format_percent(ratio: float | None) -> str:
    """A ratio of 0 to 1 as `0%` to `100%`; `-` when not known."""
    return "-" if ratio is None else f"{ratio * 100:.0f}%"


def format_clock(timestamp: float) -> str:
    """Unix seconds as the local time of day, `14:03:59`."""
    return datetime.fromtimestamp(timestamp).astimezone().strftime("%H:%M:%S")


def format_time(timestamp: float, now: float) -> str:
    """Unix seconds as a local time near `now`, `14:03`, or with its day, `Sat 14:03`."""
    moment = datetime.fromtimestamp(timestamp).astimezone()
    is_today = moment.date() == datetime.fromtimestamp(now).astimezone().date()
    return moment.strftime("%H:%M" if is_today else "%a %H:%M")


def format_moment(timestamp: float) -> str:
    """Unix seconds as local date and time, `2026-11-24 14:03:59`."""
    return datetime.fromtimestamp(timestamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def local_offset(timestamp: float) -> str:
    """How far local time is from UTC at a moment, `+01:00`."""
    return datetime.fromtimestamp(timestamp).astimezone().isoformat()[-6:]


def clean(text: str, *, ascii_only: bool = False) -> str:
    """Foreign text without anything that could move the cursor.

    Args:
        text: For example a file name, which may hold any byte.
        ascii_only: Replace what is not ASCII as well.
    """
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown.encode("ascii", "replace").decode() if ascii_only else shown


def tail(text: str, width: int, *, ascii_only: bool = False) -> str:
    """A text, or where it is too long its end: that of a name tells more than its beginning.

    Args:
        text: Of printable characters.
        width: The most characters that there may be.
        ascii_only: Tell by an ASCII character that something is left out.
    """
    if len(text) <= width:
        return text
    return ("~" if ascii_only else "…") + text[len(text) - width + 1 :]


def is_ascii_only(encoding: str, environment: Mapping[str, str]) -> bool:
    """Whether a terminal should be sent ASCII only.

    Args:
        encoding: The encoding of its stream.
        environment: With the locale; `C` means ASCII, although Python then writes UTF-8.
    """
    if not encoding.lower().startswith("utf"):
        return True
    chosen = environment.get("LC_ALL") or environment.get("LC_CTYPE")
    if chosen in (None, "", *COERCED):
        chosen = environment.get("LANG")
    return chosen in ("C", "POSIX")
