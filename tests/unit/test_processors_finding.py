"""A user's code is found before workers start, and is not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.finding import check_target

SOURCE = """
raise RuntimeError("this must not run")

class Embed:
    pass

if True:
    def process(): ...
from os import path as where
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_test.py").write_text(SOURCE)
    package = tmp_path / "pack_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError")
    (package / "inner.py").write_text("from os.path import *\n")
    (package / "broken.py").write_text("def\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        *("mine_for_test:Embed", "mine_for_test:process", "mine_for_test:where.join"),
        *("pack_for_test.inner:join", "math:sqrt", "__main__:Embed", "os.path:join"),
    ],
)
def test_what_is_there_is_found(target: str) -> None:
    """In the current folder, in packages, and where names are imported from elsewhere."""
    check_target(target)


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("mine_for_test:Embde", "mine_for_test.py has no 'Embde'; did you mean Embed?"),
        ("not_there_for_test:X", "no module 'not_there_for_test'"),
        ("pack_for_test.nothing:X", "no module 'pack_for_test.nothing'"),
        ("mine_for_test.inner:X", "no module 'mine_for_test.inner'"),
        ("pack_for_test.broken:X", "broken.py: invalid syntax"),
        ("mine_for_test:", "must have the form package.module:name"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(target: str, what: str) -> None:
    """The line says what is missing, and what is meant."""
    with pytest.raises(ProcessorError) as refused:
        check_target(target)
    assert what in str(refused.value)
    assert str(refused.value).count("cannot be started") == 1
