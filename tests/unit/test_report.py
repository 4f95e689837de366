from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest

from tests import builders, histories
from virnucpro_exporter.app import report as app_report
from virnucpro_exporter.csv_log.reader import read_log
from virnucpro_exporter.csv_log.writer import HEADER, MetricsLog
from virnucpro_exporter.errors import ReportError, VirnucproError
from virnucpro_exporter.history import (
    AttemptSpan,
    GpuSeries,
    LogHistory,
    Outcome,
    RunHistory,
    RunPeriod,
    StallSpan,
)
from virnucpro_exporter.report.bins import binned
from virnucpro_exporter.report.blocks import blocks
from virnucpro_exporter.report.figure import figure
from virnucpro_exporter.report.page import page
from virnucpro_exporter.report.running_time import RunningTime, periods_of_log
from virnucpro_exporter.report.summary import Summary, summarize, summarize_log
from virnucpro_exporter.report.text import describe

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def summary(gpus: int = 4, files: int = 60, *, resumed: bool = False) -> Summary:
    return summarize(histories.history(gpus, files, resumed=resumed), histories.log(gpus))


class Shape(HTMLParser):
    """The tags of a page that could bring something in from elsewhere or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.foreign: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count scripts; note every address."""
        self.scripts += tag == "script"
        self.foreign += [str(value) for name, value in attrs if name in ("src", "href")]


# -- running time --


def test_pauses_between_runs_are_cut_out() -> None:
    """Two runs with a night between them follow each other."""
    time = RunningTime([RunPeriod("a", "", 100.0, 160.0), RunPeriod("b", "", 9000.0, 9030.0)])
    moments = [0.0, 100.0, 130.0, 160.0, 5000.0, 9000.0, 9010.0, 9999.0]
    assert [time.at(moment) for moment in moments] == [0, 0, 30, 60, 60, 60, 70, 90]
    assert time.total == 90.0


def test_a_log_that_falls_silent_was_not_written() -> None:
    """A gap much longer than the interval parts two runs."""
    series = GpuSeries()
    series.times.extend([0.0, 5.0, 10.0, 1000.0, 1005.0])
    periods = periods_of_log(LogHistory("log", {"0": series}))
    assert [(p.started, p.ended) for p in periods] == [(0.0, 10.0), (1000.0, 1005.0)]


# -- blocks and bins --


def test_thousands_of_short_files_become_blocks_that_can_be_seen() -> None:
    """No time is lost by joining, long files stay alone, and failures are never hidden."""
    spans = [AttemptSpan("0", f"{n}.fa", float(n), n + 0.9, Outcome.COMPLETED) for n in range(5000)]
    spans[700] = replace(spans[700], outcome=Outcome.FAILED)
    spans.append(AttemptSpan("0", "long.fa", 5000.0, 6000.0, Outcome.COMPLETED))
    made = blocks(spans, RunningTime([RunPeriod("", "", 0.0, 6000.0)]), smallest=5.0)
    assert sum(block.count for block in made) == len(spans)
    assert len(made) < 600
    assert [b.first.path for b in made if b.outcome is Outcome.FAILED] == ["700.fa"]
    assert (made[-1].first.path, made[-1].count) == ("long.fa", 1)


def test_a_long_log_becomes_a_few_means_and_keeps_its_holes() -> None:
    """Means are those of the known values; a stretch without any stays empty."""
    found = binned(histories.log(2).gpus, RunningTime([RunPeriod("", "", *SPAN)]))
    assert len(found.centers) == 600
    assert all(value is not None for value in found.compute["0"])
    holes = [c for c, v in zip(found.centers, found.compute["1"], strict=True) if v is None]
    assert min(holes) == pytest.approx(5000, abs=60)
    assert max(holes) == pytest.approx(6250, abs=60)
    assert found.memory["0"][0] == 40.0


SPAN = (histories.START, histories.START + 12_500.0)


# -- summaries --


def test_the_summary_looks_as_agreed() -> None:
    """The text of a resumed run and of a log alone is that of the golden file."""
    text = describe(summary(resumed=True)) + "\n\n" + describe(summarize_log(histories.log(3)))
    builders.check_golden(GOLDEN / "report.txt", text + "\n")


def test_what_an_old_journal_does_not_tell_is_absent() -> None:
    """Without totals nothing is claimed about retries, starving and stalls."""
    old = replace(histories.history(), workers=())
    found = summarize(old, None)
    gpu = found.gpus[0]
    assert (found.retries, gpu.starved_seconds, gpu.stalls, gpu.compute) == (None,) * 4
    assert gpu.files
    assert "Starved" not in describe(found)


def test_rows_of_other_times_do_not_count() -> None:
    """A log that another run had written to before tells only of this run's time."""
    log = histories.log(1)
    log.gpus["0"].times.insert(0, histories.START - 3600)
    for column in log.gpus["0"].columns[1:]:
        column.insert(0, 1e6)
    found = summarize(histories.history(1), log)
    assert (
        found.gpus[0].compute == summarize(histories.history(1), histories.log(1)).gpus[0].compute
    )


# -- the page --


@pytest.mark.parametrize(("gpus", "files"), [(1, 3), (4, 60), (64, 5000)])
def test_every_picture_is_one_that_plotly_can_draw(gpus: int, files: int) -> None:
    """Plotly accepts the figure whatever the size, and it stays small."""
    drawn = figure(summary(gpus, files))
    checked = go.Figure(drawn)
    assert {trace.type for trace in checked.data} >= {"bar"}
    assert max(len(trace["y"]) for trace in drawn["data"]) <= 5000
    titles = [note["text"] for note in drawn["layout"]["annotations"]]
    assert len(titles) == 4


def test_the_page_needs_nothing_else_and_trusts_no_name() -> None:
    """No address is loaded, and a hostile file name or error is text everywhere."""
    evil = '"><script>alert(1)</script>&\x1b\udcff'
    known = histories.history(2, 4)
    spans = tuple(replace(span, path=evil, error=evil) for span in known.attempts)
    steals = tuple(replace(steal, file_name=evil) for steal in known.steals)
    harmless = Shape(page(summarize(known, histories.log(2))))
    text = page(summarize(
        replace(known, folder=evil, attempts=spans, steals=steals, failed=((evil, evil),)), None
    ))  # fmt: skip
    shape = Shape(text)
    assert shape.scripts == harmless.scripts
    assert (shape.foreign, harmless.foreign) == ([], [])
    assert "<script>alert" not in text
    assert "\x1b" not in text


def test_without_plotly_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text needs no Plotly; the page says how to get it."""
    monkeypatch.setitem(__import__("sys").modules, "plotly.io", None)
    with pytest.raises(ReportError, match=r"pip install 'virnucpro-exporter\[report\]'"):
        page(summary())


def test_a_run_that_has_done_nothing_yet_has_a_page() -> None:
    """Neither the text nor the page needs anything to have happened."""
    begun = RunHistory("/out", runs=(RunPeriod("r", "running", 1.0, 1.0),), counts={"queued": 3})
    found = summarize(begun, None)
    assert "0 files done" in describe(found)
    assert "Nothing has been done yet" in page(found)


# -- reading --


def test_a_log_is_read_back_with_its_older_files(tmp_path: Path) -> None:
    """What was rotated away is read first; unknown cells are unknown, torn lines are counted."""
    path = tmp_path / "log.csv"
    writer = MetricsLog(path, max_bytes=200)
    for second in range(4):
        writer.write(builders.running(), builders.gpu_lost(), float(second))
    with path.open("a") as log:
        log.write("1970-01-01T00:0")
    found = read_log(path)
    assert list(found.gpus["0"].times) == [0.0, 1.0, 2.0, 3.0]
    assert found.gpus["0"].compute[0] == 97.0
    assert math.isnan(found.gpus["1"].compute[0])
    assert found.damaged == 1


def problem(source: Path, html: Path | None = None) -> str:
    with pytest.raises(VirnucproError) as caught:
        app_report.make_report(str(source), str(html) if html else None)
    return str(caught.value)


def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    """Each wrong source is named, with what is wrong about it."""
    (tmp_path / "empty.csv").touch()
    (tmp_path / "binary").write_bytes(b"\x00\xff\xfe" * 100)
    (tmp_path / "header.csv").write_text(HEADER)
    (tmp_path / "fine.csv").write_text(HEADER + "2026-01-01T00:00:00.000Z,0,1,2,3\n")
    told = {
        "missing": "No such file",
        "empty.csv": "no metrics log",
        "binary": "no metrics log",
        "header.csv": "no rows yet",
        ".": "no run has written",
    }
    for name, expected in told.items():
        line = problem(tmp_path / name)
        assert re.fullmatch(rf".*{expected}.*", line), line
    assert "No such file" in problem(tmp_path / "fine.csv", tmp_path / "no" / "page.html")


def test_a_log_that_cannot_be_used_is_told_and_the_rest_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's half of the report does not depend on the log's."""
    (tmp_path / "gpu_metrics.log").write_text("mine\n")
    monkeypatch.setattr(app_report, "read_history", lambda *_: histories.history())
    text = app_report.make_report(str(tmp_path), None)
    assert "58 files done" in text
    assert "is no metrics log" in text


def test_a_lost_gpu_is_down_and_not_stalled() -> None:
    """What the log says about the GPU comes first; a stall of a GPU that answers is one."""
    start = histories.START
    gone = summarize(
        replace(
            histories.history(),
            stalls=(
                StallSpan("3", start + 5_100, start + 5_600),
                StallSpan("1", start + 500, start + 900),
            ),
        ),
        histories.log(),
    )
    text = describe(gone)
    strips = [line.split()[-1] for line in text.splitlines() if line[:5] in ("  1  ", "  3  ")]
    assert [set("D!") & set(strip) for strip in strips[:2]] == [{"!"}, {"D"}]
    assert text.index("Did not answer: GPU 3 (20m45s).") < text.index("Stalled: GPU 1 (1 time")
    assert "GPU 3 (1 time" not in text
