"""Numbers, times and foreign text as short strings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime

_LONGEST_WORD = 100  # longer ones are like nothing that is known

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


def format_rate(sequences: float | None, residues: float | None) -> str:
    """Work per second: `306 seq/s`, or `5.2M residues/s` where sequences are not known."""
    if sequences is None and residues is not None:
        return f"{format_number(residues)} residues/s"
    return f"{format_number(sequences)} seq/s"


def counted(number: int, noun: str, nouns: str = "") -> str:
    """A number with its noun, `1 file` or `1,200 files`; `nouns` where an `s` does not do."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """What to append to a line about an unknown word: `; did you mean output?`, or nothing.

    Args:
        word: What was written; its case does not matter.
        words: What is known.
    """
    known = {one.lower(): one for one in words}
    near = difflib.get_close_matches(word[:_LONGEST_WORD].lower(), known, n=1, cutoff=0.65)
    return f"; did you mean {known[near[0]]}?" if near else ""


def is_cpu_slot(gpu: str) -> bool:
    """Whether the id of a device (`"0"`, `"gpu07/0"`, `"cpu0"`) is that of a CPU slot."""
    return gpu.rpartition("/")[2].startswith("cpu")


def device_words(gpu: str) -> str:
    """What to call a device in a sentence: `GPU 0`, `GPU gpu07/0`, or `cpu0` for a CPU slot."""
    return gpu if is_cpu_slot(gpu) else f"GPU {gpu}"


def device_noun(gpus: Iterable[str]) -> str:
    """What devices are: `GPU`, `CPU slot` where all are, or `device` where only some are."""
    kinds = {is_cpu_slot(gpu) for gpu in gpus}
    return "device" if len(kinds) > 1 else "CPU slot" if True in kinds else "GPU"


def format_percent(ratio: float | None) -> str:
    """A ratio of 0 to 1 as `0%` to `100%`; `-` when not known."""
    return "-" if ratio is None else f"{ratio * 100:.0f}%"


def format_range(begin: float, end: float) -> str:
    """Two ratios of 0 to 1 as `62-81%`, with enough digits to distinguish close ones."""
    digits = 0 if end - begin >= 0.02 else 1 if end - begin >= 0.002 else 2
    return f"{begin * 100:.{digits}f}-{end * 100:.{digits}f}%"


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


# What moves the cursor, ends a line, turns the direction of what follows, or cannot be seen: C0, C1
# and DEL, marks and overrides of direction, separators of lines, tags, and bytes that are no text.
_UNSAFE = (
    "\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff"
)
_UNSAFE_IN_A_LINE = re.compile(f"[\x00-\x1f{_UNSAFE}]")
_UNSAFE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_UNSAFE}]")


def clean(text: str, *, ascii_only: bool = False) -> str:
    r"""Foreign text as one line in which nothing acts on a terminal: `\x1b` stands for an escape.

    Args:
        text: For example a file name, which may hold any byte. Letters stay what they are.
        ascii_only: Replace what is not ASCII as well.
    """
    shown = _UNSAFE_IN_A_LINE.sub(_readable, text)
    return shown.encode("ascii", "replace").decode() if ascii_only else shown


def clean_lines(text: str) -> str:
    """Like `clean`, for a text of several lines, whose ends and tabs stay."""
    return _UNSAFE_IN_LINES.sub(_readable, text)


def _readable(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def middle(text: str, width: int, *, ascii_only: bool = False) -> str:
    """A text, or where it is too long its beginning and its end, which distinguish names.

    Args:
        text: Of printable characters.
        width: The most characters that there may be.
        ascii_only: Mark what is left out by an ASCII character.
    """
    if len(text) <= width:
        return text
    kept = max(width - 1, 0)
    begin = kept // 2
    return text[:begin] + ("~" if ascii_only else "…") + text[len(text) - (kept - begin) :]


def whole_words(text: str, width: int, *, ascii_only: bool = False) -> str:
    """A sentence, or where it is too long its first words; no word or number is cut in two.

    Args:
        text: Of printable characters.
        width: The most characters that there may be.
        ascii_only: Mark what is left out by an ASCII character.
    """
    if len(text) <= width:
        return text
    return text[: width - 1].rpartition(" ")[0].rstrip(",;") + (" ~" if ascii_only else " …")


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
