"""Samples and the tables of predictions."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from virnucpro_exporter.errors import InputError
from virnucpro_exporter.predictions import tables
from virnucpro_exporter.predictions.samples import Sample, name_samples, read_sheet, refuse_mates
from virnucpro_exporter.predictions.tables import table_names, write_tables
from virnucpro_exporter.stores import urls


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.fa", "b.fq.gz"], ["a", "b"]),
        (["S001/final.contigs.fa", "S002/final.contigs.fa"], ["S001", "S002"]),
        (["S1/x.fa", "S2/x.fa", "y.fa"], ["S1", "S2", "y"]),
        (["S1/x.fa", "S2/x.fa", "S1.fa"], ["S1_x", "S2", None]),
        (["r1/S1/x.fa", "r2/S1/x.fa"], ["r1_S1_x", "r2_S1_x"]),
    ],
)
def test_samples_are_named_by_file_or_folder(paths: list[str], names: list[str | None]) -> None:
    """A file's own name is enough, unless another has it; no two samples share one."""
    found = name_samples(paths)
    assert [sample.files for sample in found] == [(path,) for path in paths]
    wanted = [name or sample.name for name, sample in zip(names, found, strict=True)]
    assert [sample.name for sample in found] == wanted
    assert len({sample.name for sample in found}) == len(paths)


def test_files_that_cannot_be_told_apart_need_a_sheet() -> None:
    """Two files of one folder and one name are no two samples."""
    with pytest.raises(
        InputError, match=r"'x/a.fa' and 'x/a.fa.gz' would be samples.*--sample-sheet"
    ):
        name_samples(["x/a.fa", "x/a.fa.gz"])


def test_sheet_gives_files_to_samples(tmp_path: Path) -> None:
    """Columns go by their names, in any order, whatever else there is."""
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(
        "\ufefffile\tdate\tSample\r\na.fa\t1\tS2\r\n\r\nb.fa\t2\tS1\r\nc.fa\t3\tS2\r\n"
    )
    assert read_sheet(str(sheet)) == [Sample("S2", ("a.fa", "c.fa")), Sample("S1", ("b.fa",))]


def test_queries_of_urls_in_a_sheet_are_kept_apart(tmp_path: Path) -> None:
    """They may be secrets: names of files, and so logs and the journal, do not contain them."""
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text("sample\tfile\nS1\tHTTPS://host/signed.fa?sig=hunter2\n")
    assert read_sheet(str(sheet)) == [Sample("S1", ("https://host/signed.fa",))]
    assert urls.with_query("https://host/signed.fa") == "https://host/signed.fa?sig=hunter2"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "must be tab-separated"),
        ("sample,file\nS1,a.fa\n", "must be tab-separated"),
        ("sample\tfile\n", "lists no files"),
        ("sample\tfile\nS1\n", "row 2 of the sample sheet .* lacks a sample or a file"),
        ("sample\tfile\nS/1\ta.fa\n", "'S/1' in the sample sheet .* is not usable as a file name"),
        ("sample\tfile\nS1\ta.fa\nS2\t./a.fa\n", "'./a.fa' is listed twice"),
        ("sample\tfile\nS1\ths://h/a.fa\n", "row 2 of the sample sheet .*: hs:// is not supported"),
        ("sample\tfile\nS\thttp://h/a?i=1\nS\thttp://h/a?i=2\n", "'http://h/a' is listed twice"),
    ],
)
def test_sheet_that_cannot_be_used(tmp_path: Path, text: str, fault: str) -> None:
    """One line says what is wrong with a sheet."""
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(text)
    with pytest.raises(InputError, match=fault):
        read_sheet(str(sheet))
    with pytest.raises(InputError, match="No such file"):
        read_sheet(str(tmp_path / "none.tsv"))


def test_mates_of_one_name_are_refused(tmp_path: Path) -> None:
    """Two files of a sample that begin with one name are paired reads; elsewhere they may."""
    for name in ("r1.fq", "r2.fq"):
        (tmp_path / name).write_text("@read1\nACGT\n+\nIIII\n")
    (tmp_path / "other.fa").write_text(">read2\nACGT\n")
    mates = tuple(str(tmp_path / name) for name in ("r1.fq", "r2.fq"))
    others = (str(tmp_path / "other.fa"), mates[0], str(tmp_path / "none.fa"))
    refuse_mates([Sample("a", others), Sample("b", mates[:1]), Sample("c", mates[1:])])
    with pytest.raises(InputError, match=r"r1.fq' and .*r2.fq' of the sample 'S1'.*'read1'.*seqtk"):
        refuse_mates([Sample("S1", mates)])


Fill = Callable[[str, str], Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Writes rows as a worker does; columns may be separated by blanks."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / f".{name}.rows"
        lines = [line.split() for line in text.strip().splitlines()]
        path.write_text("".join("\t".join(cells) + "\n" for cells in lines))
        return path

    return write


def content(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_tables_of_two_samples(fill: Fill, tmp_path: Path) -> None:
    """Contigs of one name in two samples never mix; the two tables of VirNucPro are its own."""
    one = fill("one", "c_chunk_10F1 virus 0.25 0.75\nc_chunk_10R2 others 0.75 0.25\n")
    two = fill("two", "c_chunk_2F3 others 0.9 0.1\nb_chunk_1F1 virus 1e-05 0.99999\n")
    three = fill("three", "c_chunk_10F1 others 0.75 0.25\n")
    samples = [Sample("S1", ("a.fa", "b.fa")), Sample("S2", ("c.fa",))]
    rows = {"a.fa": one, "b.fa": two, "c.fa": three}
    written = write_tables(samples, rows, tmp_path, tmp_path / "scratch")
    assert not written.left_out
    assert sorted(written.names) == sorted(table_names(samples))
    assert (tmp_path / "S1_prediction_results.txt").read_text() == (
        "Sequence_ID\tPrediction\tscore1\tscore2\n" + one.read_text() + two.read_text()
    )
    # The ids are texts: 10 comes before 2. Equal scores are those of a virus.
    assert (tmp_path / "S1_prediction_results_highestscore.csv").read_text() == (
        "Modified_ID\tIs_Virus\nb_chunk_1\tTrue\nc_chunk_10\tTrue\nc_chunk_2\tFalse\n"
    )
    assert (tmp_path / "S2_prediction_results_highestscore.csv").read_text() == (
        "Modified_ID\tIs_Virus\nc_chunk_10\tFalse\n"
    )
    assert content(tmp_path / "predictions.tsv")[1:] == [
        ["S1", "c", "10", "F1", "virus", "0.25", "0.75"],
        ["S1", "c", "10", "R2", "others", "0.75", "0.25"],
        ["S1", "c", "2", "F3", "others", "0.9", "0.1"],
        ["S1", "b", "1", "F1", "virus", "1e-05", "0.99999"],
        ["S2", "c", "10", "F1", "others", "0.75", "0.25"],
    ]
    assert content(tmp_path / "contigs.tsv")[1:] == [
        ["S1", "c", "2", "3", "1", "0.5000", "0.9", "0.75"],
        ["S1", "b", "1", "1", "1", "1.0000", "1e-05", "0.99999"],
        ["S2", "c", "1", "1", "0", "0.0000", "0.75", "0.25"],
    ]
    assert not (tmp_path / "scratch").exists()


def test_incomplete_samples_have_no_tables(fill: Fill, tmp_path: Path) -> None:
    """A sample that lacks files, or has two sequences of one name, is left out and named."""
    row = "c_chunk_1F1 virus 0.25 0.75\n"
    rows = {name: fill(name, row) for name in ("a", "b", "c")}
    rows["d"] = fill("d", row + row)
    rows["e"] = fill("e", "")
    old = tmp_path / "S1_prediction_results.txt"
    old.write_text("of an earlier run")
    samples = [
        Sample("S1", ("a", "x", "y")),
        Sample("S2", ("b", "c")),
        Sample("S3", ("d",)),
        Sample("S4", ("e",)),
        Sample("S5", ("a",)),
    ]
    written = write_tables(samples, rows, tmp_path, tmp_path / "scratch")
    assert written.left_out == {
        "S1": "'x' and 1 more is not finished",
        "S2": "two of its sequences are named 'c': rename one, or make two samples",
        "S3": "two of its sequences are named 'c': rename one, or make two samples",
    }
    assert not old.exists()
    assert [row[0] for row in content(tmp_path / "predictions.tsv")[1:]] == ["S5"]
    assert [row[0] for row in content(tmp_path / "contigs.tsv")[1:]] == ["S5"]
    assert content(tmp_path / "S4_prediction_results.txt")[1:] == []


def test_ids_are_sorted_on_the_disk(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More chunks than are sorted at once come in the order of their ids all the same."""
    monkeypatch.setattr(tables, "SORTED_AT_ONCE", 7)
    numbers = list(range(1, 101))
    random.Random(1).shuffle(numbers)
    names = [f'c"{number}_chunk_1' for number in numbers]
    rows = {"a": fill("a", "".join(f"{name}F1 virus 0.25 0.75\n" for name in names))}
    write_tables([Sample("S", ("a",))], rows, tmp_path, tmp_path / "scratch")
    found = content(tmp_path / "S_prediction_results_highestscore.csv")[1:]
    quoted = ['"' + name.replace('"', '""') + '"' for name in sorted(names)]
    assert [cells[0] for cells in found] == quoted
