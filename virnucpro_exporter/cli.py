"""The command line: options in, text out. What is done is in `app`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console

from virnucpro_exporter import __version__, app
from virnucpro_exporter.config import RunConfig, load_config
from virnucpro_exporter.errors import NoDeviceError
from virnucpro_exporter.execution.status import RunStatus, read_status
from virnucpro_exporter.gpu.describe import rows, why_no_gpus
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.metrics.server import DEFAULT_LISTEN
from virnucpro_exporter.snapshot import RunSnapshot
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard
from virnucpro_exporter.terminal.gpus_table import gpus_view
from virnucpro_exporter.terminal.remote import HttpOptions, RemoteRun

F = TypeVar("F", bound=Callable[..., Any])

_COMMAND = "virnucpro_exporter.command"

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="virnucpro-exporter")
def cli() -> None:
    """Run sequence files across GPUs with work stealing, and show what every GPU really does."""


def _choice(*values: str) -> click.Choice[str]:
    return click.Choice(values)


# Defaults live in RunConfig alone: an option that was not given must not hide the config file.
_RUN_OPTIONS = [
    click.option("--output", metavar="DIR", help="Folder for the results (required)."),
    click.option(
        "--gpus",
        metavar="all|0,1|UUID|0:1|cpu:N",
        help="Which GPUs; default: all, or one CPU slot per core where there is none.",
    ),
    click.option(
        "--processor",
        metavar="translate|command|MODULE:NAME",
        help="What is done to a file; default: translate, or command after `--`.",
    ),
    click.option("--chunk-size", type=_choice("300", "500"), help="For translate; default: 500."),
    click.option("--output-suffix", metavar="TEXT", help="For commands and Python; default: .out"),
    click.option("--balancer", type=_choice("stealing", "static"), help="Default: stealing."),
    click.option("--gpu-weighted/--no-gpu-weighted", default=None, help="Expect faster models."),
    click.option("--stall-threshold", type=float, metavar="SECONDS", help="Default: 300."),
    click.option(
        "--on-stall",
        type=_choice("report", "retry", "restart"),
        help="What happens to the file of a stalled worker; default: report.",
    ),
    click.option("--max-attempts", type=int, metavar="N", help="Per file; default: 3."),
    click.option("--file-timeout", type=float, metavar="SECONDS", help="Default: no limit."),
    click.option("--count", type=_choice("estimate", "exact"), help="Default: estimate."),
    click.option("--fresh/--resume", default=None, help="Forget what an earlier run finished."),
    click.option(
        "--dashboard/--no-dashboard",
        "--show-gpu-dashboard/--no-gpu-dashboard",
        default=None,
        help="A live table, or log lines; default: the table on a terminal.",
    ),
    click.option("--metrics-log", metavar="FILE", help="CSV log; default: DIR/gpu_metrics.log."),
    click.option("--metrics-log-interval", type=float, metavar="SECONDS", help="Default: 5."),
    click.option("--metrics-log-max-bytes", type=int, metavar="N", help="Default: 50000000."),
    click.option("--web/--no-web", default=None, help="Serve metrics; default: yes."),
    click.option(
        "--web-listen-address",
        multiple=True,
        metavar="HOST:PORT",
        help="Repeatable; default: 127.0.0.1:9877.",
    ),
    click.option("--web-telemetry-path", metavar="PATH", help="Default: /metrics."),
    click.option("--web-config-file", metavar="FILE", help="TLS and basic authentication."),
    click.option("--linger", type=float, metavar="SECONDS", help="Serve on after the end; 30."),
    click.option("--textfile", metavar="FILE.prom", help="For node_exporter."),
    click.option("--push-gateway", metavar="URL", help="Push the metrics there."),
    click.option("--push-interval", type=float, metavar="SECONDS", help="Default: 15."),
    click.option("--log-level", type=_choice("debug", "info", "warning", "error")),
]


def _run_options(function: F) -> F:
    for option in reversed(_RUN_OPTIONS):
        function = option(function)
    return function


class _RunCommand(click.Command):
    """Keeps what follows `--` apart from the inputs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[cut + 1 :])
            args = args[:cut]
        return super().parse_args(ctx, args)


@cli.command(cls=_RunCommand)
@click.argument("inputs", nargs=-1, metavar="INPUT... [-- PROGRAM ...]", type=click.UNPROCESSED)
@_run_options
@click.option("--config", "config_file", metavar="FILE.yaml", help="All options; flags win.")
@click.option("--dry-run", is_flag=True, help="Print which GPU would get which files, and stop.")
@click.pass_context
def run(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    config_file: str | None,
    dry_run: bool,  # noqa: FBT001 - click passes options by name
    **options: Any,
) -> int:
    """Process files, folders or patterns of FASTA and FASTQ, each exactly once.

    Results go to the output folder. The same command resumes an interrupted run. A command to run
    on each file follows `--`, with {input}, {output} and {gpu} where they belong.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    command = context.meta.get(_COMMAND, ())
    if inputs:
        given["inputs"] = inputs
    if command:
        given["command"] = command
        given.setdefault("processor", "command")
    if "chunk_size" in given:
        given["chunk_size"] = int(given["chunk_size"])
    config = load_config(config_file, given)
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(message)s")
    if dry_run:
        _print_plan(config)
        return 0
    finished = app.run(config)
    _print_summary(finished.snapshot)
    if finished.error:
        click.echo(f"virnucpro-exporter: no worker is left: {finished.error}", err=True)
    return finished.exit_code


def _print_plan(config: RunConfig) -> None:
    plan = app.plan(config)
    click.echo(f"{'GPU':<8}{'weight':>8}{'files':>8}{'sequences':>12}{'residues':>15}  name")
    for device, files in plan.items():
        known = [file.sequences for file in files if file.sequences is not None]
        sequences = f"{sum(known):,}" if len(known) == len(files) else "?"
        residues = sum(file.residues for file in files)
        click.echo(
            f"{device.gpu:<8}{device.weight:>8.2f}{len(files):>8}{sequences:>12}{residues:>15,}"
            f"  {device.name}"
        )


def _print_summary(run: RunSnapshot) -> None:
    done = run.files_completed - run.files_skipped
    sequences = sum(worker.sequences_processed for worker in run.workers)
    seconds = run.elapsed_seconds
    click.echo(
        f"{done} files done, {run.files_failed} failed, {run.files_skipped} skipped, "
        f"{run.files_queued} left; {run.retries} retries, {sum(n for _, n in run.steals)} steals"
    )
    rate = f"{sequences / seconds:,.0f} sequences/s" if seconds > 0 else "no time"
    click.echo(f"{seconds:.1f} s, {sequences:,} sequences, {rate}{_against_bound(run)}")
    for worker in run.workers:
        busy = worker.busy_seconds / seconds if seconds > 0 else 0.0
        click.echo(f"  {worker.gpu:<8}{worker.files_completed:>7} files, busy {busy:>4.0%}")
    for path, error in run.failures:
        click.echo(f"failed: {path!r}: {error}", err=True)


def _against_bound(run: RunSnapshot) -> str:
    """The makespan beside the least that the learned speeds allow."""
    speeds = [w.residues_per_second for w in run.workers if w.residues_per_second]
    work = sum(worker.residues_processed for worker in run.workers)
    if not speeds or not work:
        return ""
    bound = work / sum(speeds)
    return f"; {run.elapsed_seconds / bound:.2f} x the least possible ({bound:.1f} s)"


@cli.command()
@click.argument("folder", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(folder: str, as_json: bool) -> int:  # noqa: FBT001 - click passes options by name
    """Tell how far the run in an output folder is, from its journal."""
    state = read_status(folder)
    if as_json:
        click.echo(json.dumps(_status_object(state)))
        return 0
    click.echo(f"run {state.run_id}: {state.state}{' (active)' if state.is_active else ''}")
    for name, number in state.counts.items():
        click.echo(f"  {name:<12}{number:>9}")
    for gpu in state.gpus:
        sequences = "?" if gpu.sequences is None else f"{gpu.sequences:,}"
        click.echo(f"  {gpu.gpu}: {gpu.files} files, {sequences} sequences, {gpu.seconds:.1f} s")
    click.echo(f"  {state.steals} steals")
    for path, error in state.failed:
        click.echo(f"failed: {path!r}: {error}")
    return 0


def _status_object(state: RunStatus) -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "state": state.state,
        "active": state.is_active,
        "files": dict(state.counts),
        "steals": state.steals,
        "failed": [{"path": ascii(path)[1:-1], "error": error} for path, error in state.failed],
    }


@cli.command()
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per GPU and line.")
@click.option("--interval", type=click.FloatRange(1.0), default=2.0, show_default=True)
def gpus(watch: bool, as_json: bool, interval: float) -> int:  # noqa: FBT001 - by name
    """Show what every GPU does. Exit status 3 without GPUs."""
    console = Console()
    with GPUMonitor() as monitor:
        snapshot = monitor.wait()
        while True:
            if not snapshot.devices:
                raise NoDeviceError(why_no_gpus(snapshot))
            if as_json:
                for row in rows(snapshot):
                    click.echo(json.dumps(row))
            else:
                console.print(gpus_view(snapshot))
            if not watch:
                return 0
            time.sleep(interval)
            snapshot = monitor.latest()


@cli.command()
@click.option("--web-listen-address", multiple=True, default=DEFAULT_LISTEN, show_default=True)
@click.option("--web-telemetry-path", default="/metrics", show_default=True)
@click.option("--web-config-file", default=None, metavar="FILE")
def serve(
    web_listen_address: tuple[str, ...], web_telemetry_path: str, web_config_file: str | None
) -> int:
    """Serve the metrics of this node's GPUs, until Ctrl-C or SIGTERM."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    return app.serve(web_listen_address, web_telemetry_path, web_config_file)


@cli.command()
@click.argument("url")
@click.option("--interval", type=click.FloatRange(0.5), default=2.0, show_default=True)
@click.option("--cacert", metavar="FILE")
@click.option("-k", "--insecure", is_flag=True)
@click.option("--cert", metavar="FILE")
@click.option("--key", metavar="FILE")
@click.option("-u", "--user", metavar="USER:PASSWORD")
def watch(url: str, interval: float, **options: Any) -> int:
    """Show the dashboard of a run elsewhere, from its metrics endpoint, until Ctrl-C."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    remote = RemoteRun(url, HttpOptions(**options))
    dashboard = LoadBalancingDashboard(
        remote, remote.gpus, update_interval=interval, log_file=None, endpoint=remote.url
    )
    return app.until_signal(dashboard.start, dashboard.stop)
