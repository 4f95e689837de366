import csv
import io
import math
import resource
import shutil
from pathlib import Path

import pytest

from tests import builders
from virnucpro_exporter.csv_log.reader import read_log
from virnucpro_exporter.csv_log.writer import FIRST_HEADER, HEADER, MetricsLog, format_rows


def test_rows_hold_what_is_known() -> None:
    """A lost GPU leaves empty cells, never zeros, and the timestamp is ISO 8601 UTC."""
    rows = list(
        csv.reader(io.StringIO(format_rows(builders.running(), builders.gpu_lost(), 1000.25)))
    )
    assert rows == [
        ["1970-01-01T00:16:40.250Z", "0", "100", "97", "25", "", "287.5"],
        ["1970-01-01T00:16:40.250Z", "1", "101", "", "", "", ""],
    ]


def test_runs_share_one_header(tmp_path: Path) -> None:
    """A second run appends to the first one's log."""
    path = tmp_path / "log.csv"
    for _ in range(2):
        MetricsLog(path).write(builders.running(), builders.gpus_up(), 1000.0)
    lines = path.read_text().splitlines(keepends=True)
    assert lines[0] == HEADER
    assert lines.count(HEADER) == 1
    assert len(lines) == 5


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    """Whatever left half a line behind, the next interval begins on a line of its own."""
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "1970-01-01T00:00:00.000Z,0,1")
    MetricsLog(path).write(builders.running(1), builders.gpus_up(1), 1000.0)
    assert path.read_text().splitlines()[1].startswith("1970-01-01T00:16:40.000Z,0,")


def test_a_log_of_an_earlier_version_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    """Its rows have fewer cells; both are read back."""
    path = tmp_path / "log.csv"
    path.write_text(FIRST_HEADER + "1970-01-01T00:00:01.000Z,0,1,2,3\n")
    MetricsLog(path).write(builders.running(1), builders.gpus_up(1), 1000.0)
    assert path.read_text().startswith(HEADER)
    series = read_log(path).gpus["0"]
    assert list(series.times) == [1.0, 1000.0]
    assert math.isnan(series.power[0])
    assert series.power[1] == 287.5


def test_a_large_log_is_rotated(tmp_path: Path) -> None:
    """No log grows beyond its size, three older ones are kept, and each has a header."""
    path = tmp_path / "log.csv"
    log = MetricsLog(path, max_bytes=200)
    for second in range(20):
        log.write(builders.running(), builders.gpus_up(), float(second))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "log.csv", "log.csv.1", "log.csv.2", "log.csv.3"
    ]  # fmt: skip
    for file in tmp_path.iterdir():
        assert file.read_text().startswith(HEADER)
        assert file.stat().st_size <= 200
    assert "00:00:19" in path.read_text()
    assert "00:00:18" in (tmp_path / "log.csv.1").read_text()


def test_a_vanished_folder_is_counted_and_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is counted, the first is warned about, and writing goes on when it can."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = MetricsLog(folder / "log.csv")
    assert log.latest().success is None
    shutil.rmtree(folder)
    for second in range(3):
        log.write(builders.running(), builders.gpus_up(), float(second))
    assert (log.latest().success, log.latest().failures) == (False, 3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    folder.mkdir()
    log.write(builders.running(), builders.gpus_up(), 9.0)
    assert (log.latest().success, log.latest().last_success_timestamp) == (True, 9.0)


@pytest.mark.parametrize("left", [0, 20])
def test_a_full_disk_leaves_whole_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """What a full disk took of an interval is taken back; it is told once, and tried again."""
    path = tmp_path / "log.csv"
    log = MetricsLog(path)
    log.write(builders.running(), builders.gpus_up(), 1.0)
    before = path.read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + left, hard))
    try:
        for second in (2.0, 3.0):
            log.write(builders.running(), builders.gpus_up(), second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == before
    assert (log.latest().success, log.latest().failures) == (False, 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    log.write(builders.running(), builders.gpus_up(), 4.0)
    assert len(path.read_text().splitlines()) == 5
    assert log.latest().success


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    """A file that is no metrics log is never appended to."""
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    log = MetricsLog(path)
    log.write(builders.running(), builders.gpus_up(), 1.0)
    assert path.read_text() == "mine\n"
    assert log.latest().success is False
