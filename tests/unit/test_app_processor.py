from __future__ import annotations

from importlib import util
from typing import Any

import pytest

from virnucpro_exporter.app.processor import processor_spec
from virnucpro_exporter.config import run_config
from virnucpro_exporter.errors import ProcessorError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"processor": "esm"},
            "'esm' is none: use virnucpro, translate, esm2, dnabert, command or package",
        ),
        ({"model": "m"}, "a model was given, but the processor is 'translate', which takes none"),
        ({"processor": "esm2", "command": ("ls",)}, "a command was given, but the processor is"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    """An option that the processor would ignore is an error, not a surprise."""
    with pytest.raises(ProcessorError, match=message):
        processor_spec(run_config(settings).processor)


@pytest.mark.parametrize("processor", ["esm2", "dnabert"])
def test_missing_packages_are_named(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, one line says what to install."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    with pytest.raises(ProcessorError) as refused:
        processor_spec(run_config({"processor": processor}).processor)
    assert refused.value.exit_code == 2
    assert str(refused.value).endswith(
        f"{processor} needs torch and transformers: in the checkout, pip install '.[models]'"
    )
