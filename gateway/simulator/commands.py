# SPDX-License-Identifier: BSD-2-Clause
"""The commands that need no telephone: `patchbay call`, `patchbay agent`, `patchbay demo`.

Heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.simulator.call_options import CallOptions
    from gateway.simulator.call_plan import CallReport

MAX_CALLS = 1000
MAX_SESSIONS = 10_000


class Carrier(StrEnum):
    """The carriers that can be simulated."""

    TWILIO = "twilio"
    TELNYX = "telnyx"
    PLIVO = "plivo"
    EXOTEL = "exotel"


def call(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="ws:// or wss://: a media socket; a base, to which /ws/CARRIER is added, or a URL with its "
            "path. http:// or https://: the document that names it. Or env:NAME, file:PATH, - for one with a "
            "token in it.",
        ),
    ],
    *,
    carrier: Annotated[
        Carrier | None,
        typer.Option(help="Whose call to be; left out: the carrier that URL's path names, else twilio."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="AGENT.ORG", help="Which agent to ask for; none: by called number.")
    ] = None,
    wav: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the caller says, 16-bit WAV; else a recording.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write what the caller heard, as WAV.")
    ] = None,
    digits: Annotated[str, typer.Option(help="Keys pressed after the speech: 0-9 * # A-D.")] = "",
    from_number: Annotated[
        str | None, typer.Option("--from", metavar="NUMBER", help="The caller's number.")
    ] = None,
    to_number: Annotated[
        str | None, typer.Option("--to", metavar="NUMBER", help="The called number.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A custom parameter; may be repeated.")
    ] = None,
    body: Annotated[str | None, typer.Option(metavar="JSON", help="The agent's body.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="PATCHBAY_CONFIG",
            metavar="FILE",
            help="The gateway's configuration: the call is signed as its account with the carrier signs.",
        ),
    ] = None,
    auth_token: Annotated[
        str | None,
        typer.Option(
            metavar="REFERENCE", help="The carrier's secret to sign with: env:NAME, file:PATH or -."
        ),
    ] = None,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help="The account at the carrier, as `start` names it.")
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The gateway's public_url, which is signed, if URL is another way."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificates of authorities to trust, PEM.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Take any certificate.")] = False,
    expect_audio: Annotated[
        bool, typer.Option(help="Whether it is a failure if the caller hears nothing of the agent.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    calls: Annotated[int, typer.Option(min=1, max=MAX_CALLS, help="How many calls at the same time.")] = 1,
) -> None:
    """Be a carrier: place a call, play the caller, and say what came of it.

    Exits with 1 if a call failed or cannot be made, with 2 if the command is
    none, and with 3 if nothing is wrong but that a caller heard nothing of the
    agent, with --expect-audio.
    """
    from gateway.simulator.call_options import CallOptions  # noqa: PLC0415

    options = CallOptions(
        url=url,
        carrier=(carrier or _carrier_of(url)).value,
        agent=agent,
        digits=digits,
        from_number=from_number,
        to_number=to_number,
        parameters=tuple(param or ()),
        body=body,
        config=config,
        auth_token=auth_token,
        account=account,
        public_url=public_url,
        ca=ca,
        insecure=insecure,
        expect_audio=expect_audio,
    )
    raise typer.Exit(_call(options, wav, out, calls, as_json=as_json))


def _carrier_of(url: str) -> Carrier:
    """Return the carrier whose media socket or document a URL names, Twilio if it names none."""
    segments = url.partition("?")[0].split("/")
    return next((carrier for carrier in Carrier if carrier.value in segments[3:]), Carrier.TWILIO)


def _call(options: CallOptions, wav: Path | None, out: Path | None, calls: int, *, as_json: bool) -> int:
    """Place the calls, print what came of them, and return the exit status."""
    import asyncio  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from gateway.config import ConfigError  # noqa: PLC0415
    from gateway.simulator import report_json  # noqa: PLC0415
    from gateway.simulator.call_exit_status import CALL_FAILED, exit_status  # noqa: PLC0415
    from gateway.simulator.call_options import plan_call  # noqa: PLC0415
    from gateway.simulator.place_calls import place_calls  # noqa: PLC0415
    from gateway.simulator.redacted_url import redacted  # noqa: PLC0415
    from gateway.simulator.report_table import calls_table, problems  # noqa: PLC0415
    from gateway.simulator.wav import read_speech, read_wav  # noqa: PLC0415

    try:
        speech = read_speech("caller") if wav is None else read_wav(wav, 16000)
        planned = plan_call(options, speech)
    except (ConfigError, ValueError) as error:
        typer.echo(str(error), err=True)
        if as_json:
            typer.echo(report_json.as_json((), CALL_FAILED, str(error)))
        return CALL_FAILED
    for remark in planned.remarks:
        typer.echo(remark, err=True)
    reports = asyncio.run(place_calls([planned.plan] * calls, Console(stderr=True)))
    status = exit_status(reports)
    try:
        _write_recordings(out, reports)
    except ValueError as error:
        typer.echo(str(error), err=True)
        status = status or CALL_FAILED
    if as_json:
        typer.echo(report_json.as_json(reports, status))
    else:
        title = f"{options.carrier} {redacted(planned.plan.url)}"
        Console(width=None if sys.stdout.isatty() else 80).print(calls_table(reports, title))
    for detail in problems(reports):
        typer.echo(detail, err=True)
    if not options.expect_audio and any(not report.failed and not report.agent_audible for report in reports):
        typer.echo("the caller heard nothing of the agent; with --expect-audio this is a failure", err=True)
    return status


def _write_recordings(out: Path | None, reports: Sequence[CallReport]) -> None:
    """Write what the callers heard; of several calls, each to a file with its number. Raises WavError."""
    from gateway.simulator.wav import write_wav  # noqa: PLC0415

    for number, report in enumerate(reports, 1):
        if out is not None and report.played_audio:
            path = out if len(reports) == 1 else out.with_stem(f"{out.stem}-{number}")
            write_wav(path, report.played_audio, report.sample_rate)


def agent(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    sessions: Annotated[
        int, typer.Option(min=1, max=MAX_SESSIONS, help="How many calls it takes at a time.")
    ] = 1,
    delay: Annotated[
        float, typer.Option(min=0, max=60, metavar="SECONDS", help="How much later it repeats the caller.")
    ] = 1.0,
    greeting: Annotated[bool, typer.Option(help="Whether it speaks first.")] = True,
    *,
    bot: Annotated[
        float,
        typer.Option(min=0, max=14400, metavar="SECONDS", help="How long a session at POST /bot lasts."),
    ] = 60.0,
) -> None:
    """Run the demonstration agent: it greets and repeats the caller. Key * interrupts it, *# ends.

    At POST /bot, where sessions come that are no calls, it does nothing until
    its time is over or the session is stopped.
    """
    from gateway.simulator.agent_call import AgentBehaviour  # noqa: PLC0415
    from gateway.simulator.fake_agent import serve_agent  # noqa: PLC0415
    from gateway.simulator.wav import read_speech  # noqa: PLC0415

    recording = read_speech("greeting") if greeting else None
    serve_agent(AgentBehaviour(recording, delay, bot_duration=bot), host, port, sessions)


def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where recordings, pictures and logs go.")
    ] = Path("demo-output"),
    expect_audio: Annotated[
        bool, typer.Option(help="Whether it is a failure if a caller hears nothing of the agent.")
    ] = True,
) -> None:
    """Call an agent through the gateway from every carrier, and show what was said and heard.

    Exits as `call` does.
    """
    from gateway.simulator.demo import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(out, stay=sys.stdin.isatty(), expect_audio=expect_audio))
