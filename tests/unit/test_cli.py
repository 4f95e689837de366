"""The command line refuses what cannot be meant, before it does anything."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from virnucpro_exporter import __version__
from virnucpro_exporter.cli import cli
from virnucpro_exporter.config import RunConfig, SimulateConfig, declared
from virnucpro_exporter.config.options import Place
from virnucpro_exporter.errors import UsageError


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("run x --linger soon", "'soon' is not a valid float"),
        ("run x --linger nan", "--linger: must be greater than or equal to 0"),
        ("run x --no-such-option", "No such option"),
        ("run x --output ''", "--output: is empty"),
        ("run '' --output out", "INPUT...: is empty"),
        ("run x --output s3://bucket/out", "--output: must be a path on this machine, not a URL"),
        ("run gs://bucket/x.fa --output out", "INPUT...: must be a path on this machine"),
        ("run x --output out --", "write the command after `--`"),
        ("run x --output out -- ''", "PROGRAM ...: is empty"),
        ("run x -o out --fresh --resume", "--fresh and --resume: use one of them"),
        ("run x -o out --no-gpu-dashboard --dashboard", "--dashboard and --no-gpu-dashboard"),
        ("run x -o out --no-web --web-listen-address :1", "--web-listen-address and --no-web"),
        ("simulate --no-web --web-config-file x.yml", "--web-config-file and --no-web"),
        ("run x -o out -q --log-level info", "--quiet and more output"),
        ("run x --config ''", "it is empty (is a variable not set?)"),
        ("gpus --interval nan", "must be seconds, 1 at least"),
        ("watch ''", "it is empty"),
        ("watch localhost --interval x", "must be seconds"),
        ("watch localhost --cacert ''", "it is empty"),
        ("status ''", "it is empty"),
        ("report ''", "it is empty"),
        ("report . --html https://host/x.html", "not a URL"),
        ("assets ''", "it is empty"),
        ("assets s3://bucket/x", "not a URL"),
        ("serve --web-listen-address ''", "--web-listen-address: is empty"),
        ("serve --web-config-file ''", "--web-config-file: is empty"),
        ("simulate --textfile ''", "--textfile: is empty"),
        ("simulate --stall-threshold 0", "--stall-threshold: must be greater than 0"),
    ],
)
def test_command_line_that_cannot_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, what: str
) -> None:
    """Empty values, URLs in the place of paths and endless nonsense, in every command."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((click.ClickException, UsageError)) as refused:
        cli.main(shlex.split(words), standalone_mode=False)
    error: Exception = refused.value
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    assert what in text
    assert getattr(error, "exit_code", None) == 2
    assert not list(tmp_path.iterdir())


def test_the_version_has_a_short_name(capsys: pytest.CaptureFixture[str]) -> None:
    """`-V` is `--version`."""
    cli.main(["-V"], standalone_mode=False)
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(("name", "model"), [("run", RunConfig), ("simulate", SimulateConfig)])
def test_help_shows_defaults_in_groups(name: str, model: type[RunConfig | SimulateConfig]) -> None:
    """What the table says is typed once, and shown."""
    command = cli.commands[name]
    text = command.get_help(click.Context(command, terminal_width=1000, max_content_width=1000))
    for one in declared(model):
        if one.option.place is Place.EVERYWHERE:
            assert f"\n{one.section}:\n" in text
            assert one.option.about in text
            assert one.default in (None, False) or f"{one.option.about}  [default: " in text
