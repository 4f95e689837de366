"""The command line refuses what cannot be meant, before it does anything."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from tests.builders import check_golden
from virnucpro_exporter import __version__
from virnucpro_exporter.cli import cli
from virnucpro_exporter.cli.completion import VARIABLE, complete
from virnucpro_exporter.cli.faults import line_of
from virnucpro_exporter.cli.help import Command, Group
from virnucpro_exporter.cli.options import TableCommand
from virnucpro_exporter.config import COMMAND_VARIABLES, RunConfig, SimulateConfig, declared
from virnucpro_exporter.config.options import Place
from virnucpro_exporter.errors import UsageError, VirnucproError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("run x --linger soon", "--linger: must be a number (given: 'soon')"),
        ("run x --linger nan", "--linger: must be greater than or equal to 0"),
        ("run x --no-such-option", "--no-such-option: there is no such option"),
        ("rum x", "rum: there is no such command; did you mean run?"),
        (
            "run x -o out --gpus cpu:1 --no-web --target-file .",
            "--target-file and --no-web: use one",
        ),
        ("config check s3://bucket/run.yaml", "not a URL"),
        ("config show --max-attempts 0", "--max-attempts: must be greater than or equal to 1"),
        ("completion tcsh", "must be one of: bash, zsh, fish (given: 'tcsh')"),
        ("run x --output ''", "--output: is empty"),
        ("run '' --output out", "INPUT...: is empty"),
        (
            "run x --output https://host/out",
            "--output: results go to s3:// or gs://",
        ),
        ("run x --output s3://bucket", "--output: add a prefix to the bucket"),
        ("run ftp://host/x.fa --output out", "INPUT...: ftp:// is not supported"),
        ("run x --output out --", "write the command after `--`"),
        ("run x --output out -- ''", "PROGRAM ...: is empty"),
        ("run x -o out --fresh --resume", "--fresh and --resume: use one of them"),
        ("run x -o out --no-gpu-dashboard --dashboard", "--dashboard and --no-gpu-dashboard"),
        ("run x -o out --no-web --web-listen-address :1", "--web-listen-address and --no-web"),
        ("simulate --no-web --web-config-file x.yml", "--web-config-file and --no-web"),
        ("run x -o out -q --log-level info", "--quiet and more output"),
        ("run x --config ''", "is empty: give a value, or leave it out (is a variable not set?)"),
        ("gpus --interval nan", "must be seconds, at least 1"),
        ("watch ''", "is empty"),
        ("watch localhost --interval x", "must be seconds"),
        ("watch localhost --cacert ''", "is empty"),
        ("status ''", "is empty"),
        ("report ''", "is empty"),
        ("report . --html https://host/x.html", "not a URL"),
        ("assets ''", "is empty"),
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
    text = line_of(error) if isinstance(error, click.ClickException) else str(error)
    assert what in text
    assert getattr(error, "exit_code", None) == 2
    assert not list(tmp_path.iterdir())


def test_the_version_has_a_short_name(capsys: pytest.CaptureFixture[str]) -> None:
    """`-V` is `--version`."""
    cli.main(["-V"], standalone_mode=False)
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "name", "value", "what"),
    [
        ("gpus", "GPUS_INTERVAL", "soon", "EXPORTER_GPUS_INTERVAL: must be seconds, at least 1"),
        ("gpus", "GPUS_JSON", "perhaps", "EXPORTER_GPUS_JSON: must be true or false"),
        ("gpus", "GPUS_INTERVL", "5", "EXPORTER_GPUS_INTERVL: there is no such option; did you"),
        ("watch h", "WATCH_CACERT", " ", "EXPORTER_WATCH_CACERT: is empty"),
        ("watch", "WATCH_URLS", "ftp://a b", "ftp://a"),
        ("status", "OUTPUT", "absent", "no run has used"),
        ("status", "OUTPUT", "", "EXPORTER_OUTPUT: is empty"),
        ("report", "OUTPUT", "absent", "absent"),
        ("explain a.fa", "OUTPUT", "absent", "no run has used"),
        ("explain", "OUTPUT", "absent", "FILE...: is missing"),
        ("run", "CONFIG", "", "EXPORTER_CONFIG: is empty"),
    ],
)
def test_environment_variables_that_cannot_be_meant(
    monkeypatch: pytest.MonkeyPatch, words: str, name: str, value: str, what: str
) -> None:
    """Every command reads variables, and names the one that is wrong."""
    monkeypatch.setenv(f"VIRNUCPRO_EXPORTER_{name}", value)
    with pytest.raises((click.ClickException, VirnucproError)) as refused:
        cli.main(shlex.split(words), standalone_mode=False)
    error: Exception = refused.value
    assert what in (line_of(error) if isinstance(error, click.ClickException) else str(error))


def test_environment_variables_of_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line wins over them, and those of Kubernetes for a service are left alone."""
    monkeypatch.setenv("VIRNUCPRO_EXPORTER_GPUS_JSON", "true")
    monkeypatch.setenv("VIRNUCPRO_EXPORTER_GPUS_INTERVAL", "soon")
    monkeypatch.setenv("VIRNUCPRO_EXPORTER_GPUS_PORT_80_TCP", "tcp://10.0.0.1:80")
    words = ["gpus", "--simulate-gpus", "2", "--interval", "5"]
    assert cli.main(words, standalone_mode=False) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [gpu["gpu"] for gpu in shown] == ["0", "1"]


def test_variables_are_named_after_commands() -> None:
    """Those whose options are not in the table; the others would take them for misspelt ones."""
    for name in COMMAND_VARIABLES:
        command = cli.commands[name]
        assert isinstance(command, Command)
        assert not isinstance(command, TableCommand)


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


@pytest.mark.skipif(
    tuple(map(int, version("click").split(".")[:2])) < (8, 5),
    reason="earlier versions of click write some options otherwise",
)
@pytest.mark.parametrize("name", [(), *((command,) for command in cli.commands)])
def test_help_reads_as_the_golden_files_show(name: tuple[str, ...]) -> None:
    """Commands and options in groups, with examples, at 80 columns."""
    command: click.Command = cli
    context = click.Context(cli, info_name="virnucpro-exporter", terminal_width=80)
    for word in name:
        assert isinstance(command, click.Group)
        command = command.commands[word]
        context = click.Context(command, info_name=word, parent=context, terminal_width=80)
    text = command.get_help(context)
    if isinstance(command, TableCommand):  # what the table says is checked below
        text = _without_table(text)
    check_golden(GOLDEN / f"help{''.join(f'_{word}' for word in name)}.txt", text + "\n")


def test_each_command_has_its_help_option_by_itself() -> None:
    """Also where something asks it without the group, which click would remember."""
    for name, command in cli.commands.items():
        assert "-h, --help" in command.get_help(click.Context(command, info_name=name))


def _without_table(text: str) -> str:
    """The help without the options of the table, but with the headings of their sections."""
    lines = text.splitlines()
    headings = [number for number, line in enumerate(lines) if re.fullmatch(r"[A-Z].*:", line)]
    hidden = {
        number
        for number in range(headings[0], len(lines))
        if number < lines.index("Other options:") and number not in headings
    }
    return "\n".join(line for number, line in enumerate(lines) if number not in hidden)


def _commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for one in command.commands.values():
            yield from _commands(one)


def test_every_command_has_examples_that_can_be_typed() -> None:
    """Their commands, options and arguments are there; nothing is run."""
    for command in _commands(cli):
        assert isinstance(command, Command | Group)
        assert command.examples, command.name
        for _, line in command.examples:
            words = shlex.split(line.partition(" > ")[0])
            context = click.Context(cli, resilient_parsing=False)
            found: click.Command = cli
            while isinstance(found, click.Group):
                _, inner, words = found.resolve_command(context, words)
                assert inner is not None
                found, context = inner, click.Context(inner, parent=context)
            found.parse_args(context, words)


@pytest.mark.parametrize(
    ("words", "kind", "expected"),
    [
        ("virnucpro-exporter ", "plain", "status"),
        ("virnucpro-exporter run --out", "plain", "--output"),
        ("virnucpro-exporter run --on-stall re", "plain", "restart"),
        ("virnucpro-exporter run -o ", "dir", ""),
        ("virnucpro-exporter run rea", "file", "rea"),
        ("virnucpro-exporter run x -o y -- ", "file", ""),
        ("virnucpro-exporter run --fresh --resume rea", "file", "rea"),
        ("virnucpro-exporter report --html ", "file", ""),
        ("virnucpro-exporter status ", "dir", ""),
        ("virnucpro-exporter config check ", "file", ""),
    ],
)
def test_shells_complete_commands_options_choices_and_paths(
    words: str,
    kind: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As bash asks."""
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert complete(cli, "bash_complete") == 0
    assert f"{kind},{expected}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("shell", "reader"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", "")]
)
def test_completion_is_installed_once_by_one_command(
    shell: str,
    reader: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The user's own lines stay; a second installation adds nothing."""
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    if reader:
        (tmp_path / reader).write_text("alias ll='ls -l'")
    for _ in range(2):
        cli.main(["completion", "--install"], standalone_mode=False)
    assert "takes effect in new shells" in capsys.readouterr().out
    (script,) = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != reader]
    assert VARIABLE in script.read_text()
    if reader:
        mine, ours = (tmp_path / reader).read_text().splitlines()
        assert mine == "alias ll='ls -l'"
        assert str(script) in ours
        syntax = shutil.which(shell)
        for file in (script, tmp_path / reader) if syntax else ():
            subprocess.run([str(syntax), "-n", file], check=True)
