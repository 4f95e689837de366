"""The classifier's file: read without running it, and refused where it holds anything else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.vanilla import MLPClassifier, make_classifier, save_classifier
from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.classifier import load_classifier


@pytest.mark.parametrize("origin", ["__main__", "prediction", "train"])
def test_scores_are_those_of_the_module(tmp_path: Path, origin: str) -> None:
    """Wherever its class was, a pickled module gives the scores that it gives itself."""
    made = make_classifier(56)
    classifier = load_classifier(str(save_classifier(tmp_path / "500_model.pth", made, origin)))
    assert classifier.width == 56
    vectors = torch.randn(40, 56)
    with torch.no_grad():
        expected = made(vectors).softmax(dim=1)
    torch.testing.assert_close(classifier.scores(vectors), expected, rtol=0, atol=1e-6)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._path),)


def with_trap(path: Path) -> Any:
    made = make_classifier(8)
    made.trap = Trap(path)
    return made


def narrow(_: Path) -> Any:
    made = make_classifier(8)
    made.output_layer = nn.Linear(16, 3)
    return made


def broken(_: Path) -> Any:
    made = make_classifier(8)
    made.bn1.running_mean[3] = float("nan")
    return made


def bare(_: Path) -> Any:
    made = make_classifier(8)
    del made.bn1
    return made


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (Trap, r"it refers to (posix|os)\.mkdir"),
        (with_trap, r"it refers to (posix|os)\.mkdir"),
        (
            lambda _: nn.Sequential(nn.Linear(2, 2)),
            "it refers to torch.nn.modules.container.Sequential",
        ),
        (lambda _: {"weights": torch.zeros(2)}, "it is of type 'dict'"),
        (lambda _: make_classifier(8).state_dict(), "it is of type 'OrderedDict'"),
        (lambda _: nn.Linear(4, 4), "it is a single layer"),
        (narrow, r"output_layer.weight has the shape \[3, 16\]"),
        (broken, "bn1.running_mean has values that are not finite"),
        (bare, "it lacks bn1.running_mean"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: Callable[[Path], Any], why: str) -> None:
    """One line says what the file holds instead, and nothing of it is run."""
    trap = tmp_path / "trap"
    path = save_classifier(tmp_path / "500_model.pth", content(trap))
    with pytest.raises(ProcessorError, match=rf"is not a VirNucPro classifier.*{why}") as refused:
        load_classifier(str(path))
    assert not trap.exists()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x02cos\nsystem\n(S'id'\ntR."])
def test_files_that_are_no_models_are_refused(tmp_path: Path, content: bytes) -> None:
    """Neither text nor a bare pickle gets any further."""
    path = tmp_path / "500_model.pth"
    path.write_bytes(content)
    with pytest.raises(ProcessorError, match="is not a VirNucPro classifier"):
        load_classifier(str(path))


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    """The system's reason is enough."""
    with pytest.raises(ProcessorError, match="No such file or directory"):
        load_classifier(str(tmp_path / "500_model.pth"))


def test_class_of_the_test_is_its_own() -> None:
    """Saving under another name leaves no trace."""
    assert MLPClassifier.__module__ == "tests.models.vanilla"
