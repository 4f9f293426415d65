# SPDX-License-Identifier: BSD-2-Clause
"""The `patchbay` command.

A command imports what it needs itself, because pydantic and asyncio are slow to import.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway import __version__
from gateway.simulator.commands import Carrier, agent, call, demo

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.config.loading import Loaded
    from gateway.config.problems import Problem

app = typer.Typer(
    name="patchbay",
    help="Patchbay: the self-hosted telephony edge for voice agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="PATCHBAY_CONFIG",
        metavar="FILE",
        help="The TOML file. Without one, the environment and the defaults alone.",
    ),
]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"patchbay {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Patchbay: the self-hosted telephony edge for voice agents."""


@app.command()
def serve(
    config: ConfigFile = None,
    replace: Annotated[
        int | None,
        typer.Option(metavar="PID", help="Take the port over from this gateway, which then drains."),
    ] = None,
) -> None:
    """Run the gateway until SIGTERM, then let running calls finish."""
    loaded = _load(config)
    from gateway.server import preflight  # noqa: PLC0415

    if status := preflight.report(preflight.find_all_concerns(loaded, config), loaded):
        raise typer.Exit(status)
    from gateway.server.configuration_source import ConfigurationSource  # noqa: PLC0415
    from gateway.server.serve import run  # noqa: PLC0415

    source = ConfigurationSource(config, os.environ.copy())
    raise typer.Exit(run(loaded.settings, replace=replace, source=source))


@app.command()
def check(config: ConfigFile = None) -> None:
    """Print the resolved configuration with secrets hidden, or everything that is wrong with it."""
    loaded = _load(config)
    from gateway.config import unauthenticated_access  # noqa: PLC0415
    from gateway.config.toml_text import render  # noqa: PLC0415
    from gateway.config.workability import Severity  # noqa: PLC0415
    from gateway.server.preflight import find_all_concerns  # noqa: PLC0415
    from gateway.server.source_check import find_instances  # noqa: PLC0415

    faults: list[Problem] = []
    doubts: list[Problem] = []
    for concern in find_all_concerns(loaded, config):
        problem = loaded.locate(concern.location, concern.message)
        (doubts if concern.severity is Severity.DOUBTFUL else faults).append(problem)
    for problem in doubts:
        typer.echo(f"Doubtful: {problem}", err=True)
    if faults:
        _refuse(faults)
    for finding in find_instances(loaded.settings):
        if finding.fault:
            typer.echo(f"Doubtful: {loaded.locate(finding.location, finding.fault)}", err=True)
        if finding.urls:
            typer.echo(
                f"Found: {finding.source}: {len(finding.urls)}: {' '.join(finding.urls[:10])}", err=True
            )
    typer.echo(render(loaded.settings), nl=False)
    for what, detail in unauthenticated_access(loaded.settings):
        typer.echo(f"Open without authentication: {what}: {detail}.", err=True)


@app.command()
def health(
    url: Annotated[
        str | None,
        typer.Argument(
            help="The gateway's address, http://127.0.0.1:7860 unless PATCHBAY_SERVER__PORT says otherwise; "
            "with a path, as /readyz, that one is asked instead of /livez."
        ),
    ] = None,
) -> None:
    """Ask a running gateway whether it lives, as a container's health check does. Exits with 1 if not."""
    from gateway.server.health_probe import UnhealthyError, address_in, ask  # noqa: PLC0415

    try:
        typer.echo(ask(url or address_in(os.environ)))
    except UnhealthyError as error:
        typer.echo(f"{error}.", err=True)
        raise typer.Exit(1) from None


daily = typer.Typer(
    help="The organisations' domains at Daily.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(daily, name="daily")


@daily.command("setup")
def daily_setup(
    agent_name: Annotated[str, typer.Argument(metavar="AGENT.ORG", help="The agent that takes the calls.")],
    number: Annotated[str, typer.Option(help="The number at Daily, as in +15559876543.")],
    write: Annotated[
        bool, typer.Option("--write", help="Change it at Daily; without, it is printed.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Show what Daily does with calls to a number, and with --write have it ask this gateway."""
    settings = _settings(config)
    from gateway.carriers.daily.setup import SetupFailed, run  # noqa: PLC0415

    try:
        run(settings, agent_name, number, write=write, say=typer.echo)
    except SetupFailed as failure:
        typer.echo(f"{failure}.", err=True)
        raise typer.Exit(1) from None


@app.command()
def xml(
    carrier: Annotated[Carrier, typer.Argument(help="Whose document to write.")],
    *,
    agent: Annotated[str, typer.Option(metavar="AGENT.ORG", help="The agent that its calls are for.")],
    config: ConfigFile = None,
) -> None:
    """Print the document that leads a carrier's calls to an agent, to be pasted into the carrier's console.

    It is the one that /xml/CARRIER answers with, but without a token, which is good for one call alone.
    """
    settings = _settings(config)
    from gateway.carriers.console_document import console_document  # noqa: PLC0415

    try:
        document = console_document(settings, carrier.value, agent)
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(document, nl=not document.endswith("\n"))


def _settings(config: Path | None) -> Settings:
    """Load the settings as `_load` does."""
    return _load(config).settings


def _load(config: Path | None) -> Loaded:
    """Load the settings. If they cannot be used, print every problem to stderr and exit with 1."""
    from gateway.audio.prompt import read_prompt  # noqa: PLC0415
    from gateway.config import ConfigError  # noqa: PLC0415 - pydantic is slow to import
    from gateway.config.loading import load_with_places  # noqa: PLC0415

    try:
        return load_with_places(config, os.environ, check_recording=read_prompt)
    except ConfigError as error:
        _refuse(error.problems)


def _refuse(problems: Sequence[Problem]) -> NoReturn:
    """Print every problem to stderr and exit with 1."""
    typer.echo(f"The configuration has {len(problems)} problem{'s' if len(problems) > 1 else ''}:", err=True)
    for problem in problems:
        typer.echo(f"  {problem}", err=True)
    raise typer.Exit(1)


app.command()(call)
app.command()(agent)
app.command()(demo)


def main() -> None:
    """Run the `patchbay` command."""
    app()
