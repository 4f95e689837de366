from __future__ import annotations

from importlib import util
from typing import Any

import pytest

from virnucpro_exporter.app.processor import describe, processor_spec
from virnucpro_exporter.config import run_config
from virnucpro_exporter.errors import ProcessorError, UsageError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"processor": "esm"},
            "unknown processor 'esm': use virnucpro, translate, esm2, dnabert, command or package",
        ),
        ({"model": "m"}, "--model is for --processor esm2 and dnabert, not 'translate'"),
        ({"processor": "esm2", "command": ("ls",)}, "a command after `--` and --processor"),
        (
            {"join": "none"},
            "--join is for commands; the processor 'translate'",
        ),
        (
            {"command": ("ls", "{input}"), "join": "none"},
            "a command without {output} processes whole",
        ),
        (
            {"command": ("ls", "{output}"), "join": "none", "split": "never"},
            "--join and --split never: use one of them",
        ),
        (
            {"command": ("ls", "{output}"), "join": "header", "output_suffix": ".tsv.gz"},
            "--join header cannot find the header of compressed results",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    """An option that the processor would ignore is an error, not a surprise."""
    config = run_config(settings)
    with pytest.raises(ProcessorError, match=message):
        processor_spec(config.processor, config.scheduling)


@pytest.mark.parametrize("processor", ["esm2", "dnabert"])
def test_missing_packages_are_named(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, one line says what to install."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    config = run_config({"processor": processor})
    with pytest.raises(ProcessorError) as refused:
        processor_spec(config.processor, config.scheduling)
    assert refused.value.exit_code == 2
    assert str(refused.value).endswith(
        f"{processor} needs torch and transformers: in the checkout, pip install '.[models]'"
    )


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        ({}, {}),
        ({"split": "never"}, {}),
        ({"split": "auto"}, {"joins": "concatenate"}),
        ({"join": "header"}, {"joins": "header"}),
        ({"split": "200M", "join": "none"}, {"joins": "number", "part_bytes": 200_000_000}),
        ({"split": "512"}, {"joins": "concatenate", "part_bytes": 512}),
    ],
)
def test_commands_do_parts_where_the_user_says_so(
    settings: dict[str, Any], spec: dict[str, Any]
) -> None:
    """No program is known to do parts of files, so that one gets whole files by default."""
    config = run_config({"command": ("ls", "{output}"), **settings})
    found = processor_spec(config.processor, config.scheduling)
    assert {key: found[key] for key in ("joins", "part_bytes") if key in found} == spec
    assert describe(found) == describe({**found, "joins": None, "part_bytes": 1})


@pytest.mark.parametrize("size", ["0", "12X", "-1M", "1.5G", "G", "always"])
def test_sizes_of_parts_are_checked(size: str) -> None:
    """A size is a whole number with K, M, G, T or nothing."""
    with pytest.raises(UsageError, match="split: must be"):
        run_config({"split": size})
