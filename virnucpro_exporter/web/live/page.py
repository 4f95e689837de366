"""The live page as a pure function of snapshots: HTML and SVG that need no script to be read.

`Markup % values` escapes every value that is not markup itself, and Ruff's S704 allows nothing but
literals to be called markup. So no name of a file can become an element or an attribute.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import NamedTuple

from markupsafe import Markup

from virnucpro_exporter.overview.findings import notices, warnings
from virnucpro_exporter.overview.rows import (
    DOWN,
    OVER,
    URGENCY,
    WRONG,
    Row,
    worker_rows,
)
from virnucpro_exporter.overview.trail import Trails, halved
from virnucpro_exporter.snapshot import (
    GpuDevice,
    GpuSample,
    GpuSnapshot,
    RunSnapshot,
    WorkerSnapshot,
)
from virnucpro_exporter.text import (
    clean,
    device_words,
    format_clock,
    format_duration,
    format_moment,
    format_number,
    format_percent,
    format_rate,
    format_time,
    local_offset,
    middle,
)
from virnucpro_exporter.web.live.pictures import bar, sparkline

MOST_ROWS = 64  # GPUs in one table, the urgent ones first
_MANY = 16  # GPUs, from which on their pictures have half the steps
_MOST_FAILURES, _MOST_STEALS = 20, 5
_MOST_LIVE, _MOST_ENDED, _MOST_SHORT = 8, 2, 50  # runs: in a section each, and a line each
_LONGEST, _LONGEST_NAME = 300, 60  # characters of a message, and of a name
_GIB = 2**30
_REFRESH = 2  # seconds, where there is no script; live.js has its own


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """What a Content-Security-Policy calls an inline text that it allows."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_CSS, _JS = _asset("live.css"), _asset("live.js")
# Nothing is loaded but the page itself again, and nothing runs but the one script.
SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"style-src {_source(_CSS)}",
        f"script-src {_source(_JS)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run on the page.

    Attributes:
        name: What people call it; unique on the page.
        run: Its newest state.
        result: How it ended, in words; empty for the words of its state.
    """

    name: str
    run: RunSnapshot
    result: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """All that the page shows.

    Attributes:
        host: The machine.
        version: Of this program.
        runs: Those that go on first.
        gpus: All GPUs, or None where none is watched.
        trails: The last ten minutes.
        now: Unix seconds.
        ticks: Seconds on the clock of the trails.
        links: (path, title) of the other pages.
    """

    host: str
    version: str
    runs: Sequence[ShownRun]
    gpus: GpuSnapshot | None
    trails: Trails
    now: float
    ticks: float
    links: Sequence[tuple[str, str]] = ()


def document(view: View) -> str:
    """The whole page."""
    shown = [(run, worker_rows(run.run, view.gpus or _NO_GPUS)) for run in view.runs]
    wrong = [text for run, rows in shown for text in _wrong(run, rows, view)]
    used = {row.worker.gpu for run, rows in shown if run.run.state not in OVER for row in rows}
    others = [device for device in _devices(view) if device.gpu not in used]
    wrong += [f"{_name(device_words(d.gpu))} is down" for d in others if not d.up]
    links = Markup("").join(Markup("<a href=%s>%s</a>") % (_quoted(p), t) for p, t in view.links)
    return _DOCUMENT % {
        "title": _title(view, wrong),
        "css": Markup(_CSS),  # noqa: S704 - a file of this package
        "js": Markup(_JS),  # noqa: S704 - likewise
        "refresh": _REFRESH,
        "host": _name(view.host),
        "version": view.version,
        "links": links,
        "now": f"{format_moment(view.now)} ({local_offset(view.now)})",
        "wrong": "; ".join(wrong),
        "body": Markup("").join(_sections(shown, others, view)),
    }


_DOCUMENT = Markup(
    "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
    '<meta name=viewport content="width=device-width, initial-scale=1">'
    '<title>%(title)s</title><link rel=icon href="data:,"><style>%(css)s</style>'
    "<noscript><meta http-equiv=refresh content=%(refresh)s></noscript></head>\n"
    "<body><header><h1>%(host)s</h1><small>virnucpro_exporter %(version)s</small>"
    "<small id=now>as of %(now)s</small>"
    "<nav><button id=pause type=button aria-pressed=false hidden>Pause</button>%(links)s</nav>"
    "</header>\n<p id=silent role=status></p><p id=wrong class=wrong role=status>%(wrong)s</p>\n"
    "<main id=runs>%(body)s</main>\n<script>%(js)s</script></body></html>\n"
)


def _quoted(value: str) -> Markup:
    return Markup('"%s"') % value


def _title(view: View, wrong: Sequence[str]) -> str:
    going = [shown for shown in view.runs if shown.run.state not in OVER]
    parts = ["!"] if wrong else []
    if len(going) == 1:
        parts.append(f"{going[0].run.percent_done}%")
    return " ".join([*parts, _name(view.host)])


def _wrong(shown: ShownRun, rows: Sequence[Row], view: View) -> list[str]:
    found = warnings(shown.run, rows, view.now)
    run = f"{_name(shown.name)}: " if len(view.runs) > 1 else ""
    return [run + _short(text) for text in found]


_NO_GPUS = GpuSnapshot(0.0)


def _short(text: str, width: int = _LONGEST) -> str:
    """Foreign text that can neither act nor fill the page."""
    return middle(clean(text), width)


def _name(name: str) -> str:
    return _short(name, _LONGEST_NAME)


def _sections(
    runs: Sequence[tuple[ShownRun, Sequence[Row]]], others: Sequence[GpuDevice], view: View
) -> Iterable[Markup]:
    whole = [n for n, (shown, _) in enumerate(runs) if shown.run.state not in OVER][:_MOST_LIVE]
    whole += [n for n, (shown, _) in enumerate(runs) if shown.run.state in OVER][:_MOST_ENDED]
    for place in whole:
        yield _run(*runs[place], view)
    others_in_short = [shown for n, (shown, _) in enumerate(runs) if n not in whole]
    if others_in_short:
        yield _in_short(others_in_short, view)
    if others:
        yield _gpus(others, "Other GPUs" if len(others) < len(_devices(view)) else "GPUs", view)
    elif view.gpus is not None and not view.gpus.devices:
        why = f": {_short(view.gpus.health.reason)}" if view.gpus.health.reason else ""
        yield Markup("<section><p>No GPU was found%s</p></section>\n") % why


def _in_short(runs: Sequence[ShownRun], view: View) -> Markup:
    """Runs that have a line each."""
    lines = Markup("").join(
        Markup('<tr><th scope=row>%s<td class=w>%s<td class=n data-l="Files">%s%s')
        % (
            _name(shown.name),
            _state_words(shown),
            f"{shown.run.files_completed + shown.run.files_failed:,} of {shown.run.files_total:,}",
            Markup('<td class=n data-l="Time">%s') % _times(shown.run, view.now),
        )
        for shown in runs[:_MOST_SHORT]
    )
    more = len(runs) - _MOST_SHORT
    return Markup(
        "<section><h2>More runs</h2><table><caption>%s<thead><tr><th scope=col>Run"
        "<th scope=col>State<th scope=col class=n>Files<th scope=col class=n>Time"
        "<tbody>%s</table></section>\n"
    ) % (f"{more} more are not shown" if more > 0 else "", lines)


def _state_words(shown: ShownRun) -> str:
    """Where a run stands or how it ended, with its exit status where that is known."""
    words = _short(shown.result) or shown.run.state_label
    status = shown.run.end.exit_status if shown.run.end else None
    return words if status is None else f"{words} (exit status {status})"


def _devices(view: View) -> Sequence[GpuDevice]:
    return view.gpus.devices if view.gpus else ()


def _run(shown: ShownRun, rows: Sequence[Row], view: View) -> Markup:
    run = shown.run
    return Markup(
        "<section><h2>%s <small>%s</small></h2><p><strong>%s</strong> %s</p>"
        "<div class=done>%s<strong>%s%%</strong></div>"
        "<dl class=facts>%s</dl>%s%s%s%s</section>\n"
    ) % (
        _name(shown.name) or "run",
        _name(" ".join(filter(None, (run.processor, run.user and f"by {run.user}")))),
        _state_words(shown),
        _times(run, view.now),
        bar(run.share_done),
        run.percent_done,
        _facts(run),
        _note(notices(run)),
        _pace(shown, view),
        _workers(run, rows, view),
        Markup("").join([_steals(run), _failures(run)]),
    )


def _workers(run: RunSnapshot, rows: Sequence[Row], view: View) -> Markup:
    """What each worker does; of a run that is over what it did, as its GPUs do other things now."""
    if not rows:
        return Markup()
    lines = [_Line.of_worker(row, view) for row in rows]
    work = [c for c in _WORK_COLUMNS if c is not _PARTS or run.parts_total]
    if run.state in OVER:
        return _table("What each device did", lines, work)
    if any(row.device for row in rows):
        return _table(
            "Devices of this run; utilization over the last ten minutes",
            lines,
            (_STATE, _USE, *_GPU_COLUMNS, *work),
        )
    return _table("Devices of this run", lines, (_STATE, *work))


def _pace(shown: ShownRun, view: View) -> Markup:
    """How fast the run was in the last ten minutes."""
    means = view.trails.throughput(shown.run.run_id, view.ticks)
    known = [mean for mean in means if mean is not None]
    if not known or shown.run.state in OVER:
        return Markup()
    span = f"{format_number(min(known))} to {format_number(max(known))} sequences per second"
    return Markup("<div class=wide>%s<small>%s in ten minutes</small></div>") % (
        sparkline(means, span),
        span,
    )


def _times(run: RunSnapshot, now: float) -> str:
    end = run.end.timestamp if run.end else run.start_timestamp + run.elapsed_seconds
    if run.state in OVER:
        return f"took {format_duration(run.elapsed_seconds)}, ended {format_time(end, now)}"
    if run.eta_seconds is None:
        return f"for {format_duration(run.elapsed_seconds)}, time left not known yet"
    ends = format_time(run.timestamp + run.eta_seconds, now)
    left = format_duration(run.eta_seconds)
    return f"for {format_duration(run.elapsed_seconds)}, {left} left, ends about {ends}"


def _facts(run: RunSnapshot) -> Markup:
    ended = run.files_completed + run.files_failed
    facts = [
        ("files", f"{ended:,} of {run.files_total:,}"),
        *_parts(run),
        ("failed", f"{run.files_failed:,}"),
        ("skipped", f"{run.files_skipped:,}"),
        ("rate", _rate(run)),
        ("steals", f"{sum(count for _, count in run.steals):,}"),
        ("stalls", f"{sum(worker.stalls for worker in run.workers):,}"),
        ("failed attempts", f"{sum(worker.file_failures for worker in run.workers):,}"),
        ("retries", f"{run.retries:,}"),
        ("restarts", f"{sum(worker.restarts for worker in run.workers):,}"),
    ]
    return Markup("").join(Markup("<div><dt>%s<dd>%s</div>") % fact for fact in facts)


def _parts(run: RunSnapshot) -> list[tuple[str, str]]:
    """The parts of files that are done in parts, where there are any."""
    if not run.parts_total:
        return []
    return [("parts of shared files", f"{run.parts_completed:,} of {run.parts_total:,}")]


def _rate(of: RunSnapshot | WorkerSnapshot) -> str:
    sequences, residues = of.throughput, of.residue_throughput
    return "-" if sequences is residues is None else format_rate(sequences, residues)


def _note(found: Sequence[str]) -> Markup:
    return Markup("<p class=note>%s</p>") % "; ".join(found) if found else Markup()


def _steals(run: RunSnapshot) -> Markup:
    if not run.recent_steals:
        return Markup()
    items = (
        Markup("<li>%s %s took %s from %s</li>")
        % (
            format_clock(s.timestamp),
            _name(device_words(s.dest_gpu)),
            _name(s.file_name),
            _name(device_words(s.source_gpu)),
        )
        for s in reversed(run.recent_steals[-_MOST_STEALS:])
    )
    return Markup("<h3>Last steals</h3><ul>%s</ul>") % Markup("").join(items)


def _failures(run: RunSnapshot) -> Markup:
    if not run.failures:
        return Markup()
    items = [
        Markup("<li>%s <small>%s</small></li>") % (_short(path), _short(error))
        for path, error in run.failures[-_MOST_FAILURES:]
    ]
    more = run.files_failed - len(items)
    if more > 0:
        items.append(Markup("<li>%s more</li>") % f"{more:,}")
    return Markup("<h3>Failed files</h3><ul>%s</ul>") % Markup("").join(items)


def _gpus(devices: Sequence[GpuDevice], title: str, view: View) -> Markup:
    lines = [_Line.of_gpu(device, view) for device in devices]
    caption = "Utilization over the last ten minutes"
    return Markup("<section><h2>%s</h2>%s</section>\n") % (
        title,
        _table(caption, lines, (_STATE, _USE, *_GPU_COLUMNS)),
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """One GPU, with its worker where a run uses it."""

    gpu: str
    name: str
    label: str
    work: str
    share: float | None
    sample: GpuSample | None
    trail: Sequence[float | None]
    row: Row | None = None

    @classmethod
    def of_worker(cls, row: Row, view: View) -> _Line:
        device, worker = row.device, row.worker
        why = dict(device.reasons).get("", "") if device is not None and row.label == DOWN else ""
        share = worker.current_ratio
        done = row.done if share is None else f"{row.done} done"
        return cls(
            worker.gpu,
            worker.name or (device.name if device else ""),
            row.label,
            ", ".join(filter(None, (_name(row.work), done, _short(why), *_remarks(row.sample)))),
            share,
            row.sample,
            view.trails.utilization(worker.gpu, view.ticks),
            row,
        )

    @classmethod
    def of_gpu(cls, device: GpuDevice, view: View) -> _Line:
        sample = device.sample if device.up else None
        why = dict(device.reasons).get("", "")
        return cls(
            device.gpu,
            device.name,
            _gpu_label(device),
            ", ".join([_short(why)] if why else _remarks(sample)),
            None,
            sample,
            view.trails.utilization(device.gpu, view.ticks),
        )


def _gpu_label(device: GpuDevice) -> str:
    """The word for what a GPU does that no run of ours uses; empty where that is not known."""
    if not device.up:
        return DOWN
    sample = device.sample
    if sample is None or sample.utilization_ratio is None:
        return ""
    return "busy" if sample.utilization_ratio or sample.foreign_processes else "idle"


def _remarks(sample: GpuSample | None) -> list[str]:
    remarks = []
    if sample is not None and sample.throttle_reasons:
        remarks.append("throttled: " + ", ".join(sorted(sample.throttle_reasons)))
    if sample is not None and sample.foreign_processes:
        count = sample.foreign_processes
        remarks.append(f"{count} other process{'' if count == 1 else 'es'}")
    return remarks


class _Column(NamedTuple):
    """A column: its heading, what it shows of a line, and the class of its cells."""

    heading: str
    cell: Callable[[_Line], str | Markup]
    kind: str = "n"


def _state(line: _Line) -> Markup:
    return Markup("%s %s%s") % (
        Markup("<mark>%s</mark>") % line.label if line.label in WRONG else line.label,
        line.work,
        "" if line.share is None else bar(line.share),
    )


def _use(line: _Line) -> Markup:
    busy = format_percent(line.sample.utilization_ratio if line.sample else None)
    known = [mean for mean in line.trail if mean is not None]
    if not known:
        return Markup("<span>%s</span>") % busy
    lowest, highest, mean = map(format_percent, (min(known), max(known), sum(known) / len(known)))
    picture = sparkline(line.trail, f"{lowest} to {highest}, mean {mean}", top=1.0)
    return Markup("<span>%s</span>%s") % (busy, picture)


def _of_sample(show: Callable[[GpuSample], str]) -> Callable[[_Line], str]:
    return lambda line: "-" if line.sample is None else show(line.sample)


def _of_worker(show: Callable[[Row], str]) -> Callable[[_Line], str]:
    return lambda line: "-" if line.row is None else show(line.row)


def _pair(part: float | None, whole: float | None, unit: str, digits: int = 0) -> str:
    if part is None:
        return "-"
    of = "" if whole is None else f" / {whole:.{digits}f}"
    return f"{part:.{digits}f}{of} {unit}"


def _memory(sample: GpuSample) -> str:
    used, size = sample.memory_used_bytes, sample.memory_size_bytes
    return _pair(_gib(used), _gib(size), "GiB", 1)


def _gib(value: int | None) -> float | None:
    return None if value is None else value / _GIB


_STATE, _USE = _Column("State", _state, "w"), _Column("Utilization", _use, "u")
_GPU_COLUMNS = (
    _Column("Memory", _of_sample(_memory)),
    _Column("Power", _of_sample(lambda s: _pair(s.power_watts, s.power_limit_watts, "W"))),
    _Column("Temp.", _of_sample(lambda s: _pair(s.temperature_celsius, None, "°C"))),
)
_PARTS = _Column("Parts done", _of_worker(lambda r: f"{r.worker.parts_completed:,}"))
_WORK_COLUMNS = (
    _Column("Rate", _of_worker(lambda r: _rate(r.worker))),
    _Column("Queued", _of_worker(lambda r: f"{r.worker.queue_depth:,}")),
    _Column("Done", _of_worker(lambda r: f"{r.worker.files_completed:,}")),
    _PARTS,
    _Column("Failures", _of_worker(lambda r: f"{r.worker.file_failures:,}")),
    _Column("Stalls", _of_worker(lambda r: f"{r.worker.stalls:,}")),
    _Column(
        "Stolen by / from",
        _of_worker(lambda r: f"{r.worker.work_stolen_to:,} / {r.worker.work_stolen_from:,}"),
    ),
)


def _table(caption: str, lines: Sequence[_Line], columns: Sequence[_Column]) -> Markup:
    shown, more = list(lines), ""
    if len(lines) > MOST_ROWS:
        shown = sorted(lines, key=lambda line: _URGENCY.get(line.label, len(_URGENCY)))[:MOST_ROWS]
        more = f", the {MOST_ROWS} most urgent of {len(lines)}"
    if len(shown) > _MANY:
        shown = [replace(line, trail=halved(line.trail)) for line in shown]
    headings = Markup("").join(
        Markup("<th scope=col class=%s>%s") % (column.kind, column.heading) for column in columns
    )
    row = Markup("<tr><th scope=row>%%s <small>%%s</small>%s") % Markup("").join(
        Markup('<td class=%s data-l="%s">%%s') % (column.kind, column.heading)
        if column.kind == "n"
        else Markup("<td class=%s>%%s") % column.kind
        for column in columns
    )
    body = Markup("").join(
        row
        % (
            _name(device_words(line.gpu)),
            _model(line.name),
            *(column.cell(line) for column in columns),
        )
        for line in shown
    )
    return Markup("<table><caption>%s%s<thead><tr><th scope=col>Device%s<tbody>%s</table>") % (
        caption,
        more,
        headings,
        body,
    )


_URGENCY = {label: place for place, label in enumerate(URGENCY)}


def _model(name: str) -> str:
    return _name(name).removeprefix("NVIDIA ").removeprefix("GeForce ")
