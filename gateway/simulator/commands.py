# SPDX-License-Identifier: BSD-2-Clause
"""The commands that need no telephone: `patchbay call`, `patchbay agent`, `patchbay demo`.

Heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

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
            help="ws:// or wss://: a base, to which /ws/CARRIER is added, or a URL with its path."
        ),
    ],
    *,
    carrier: Annotated[Carrier, typer.Option(help="Whose media stream to be.")] = Carrier.TWILIO,
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
    calls: Annotated[int, typer.Option(min=1, max=MAX_CALLS, help="How many calls at the same time.")] = 1,
) -> None:
    """Be a carrier: place a call, play the caller, and say what came of it. Exits with 1 if a call failed."""
    import asyncio  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from gateway.simulator.call_plan import CallPlan  # noqa: PLC0415
    from gateway.simulator.place_calls import place_calls  # noqa: PLC0415
    from gateway.simulator.report_table import calls_table, problems  # noqa: PLC0415
    from gateway.simulator.wav import WavError, read_speech, read_wav, write_wav  # noqa: PLC0415

    try:
        speech = read_speech("caller") if wav is None else read_wav(wav, 16000)
        plan = CallPlan(
            url=url,
            carrier=carrier.value,
            speech=speech.pcm,
            speech_rate=speech.sample_rate,
            agent=agent,
            digits=digits,
            from_number=from_number,
            to_number=to_number,
        )
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    reports = asyncio.run(place_calls([plan] * calls, Console(stderr=True)))
    Console(width=None if sys.stdout.isatty() else 80).print(calls_table(reports, f"{carrier.value} {url}"))
    for detail in problems(reports):
        typer.echo(detail, err=True)
    try:
        for number, report in enumerate(reports, 1):
            if out is not None and report.played_audio:
                path = out if calls == 1 else out.with_stem(f"{out.stem}-{number}")
                write_wav(path, report.played_audio, report.sample_rate)
    except WavError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(1 if any(report.failed for report in reports) else 0)


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
) -> None:
    """Run the demonstration agent: it greets and repeats the caller. Key * interrupts it, *# ends."""
    from gateway.simulator.agent_call import AgentBehaviour  # noqa: PLC0415
    from gateway.simulator.fake_agent import serve_agent  # noqa: PLC0415
    from gateway.simulator.wav import read_speech  # noqa: PLC0415

    serve_agent(AgentBehaviour(read_speech("greeting") if greeting else None, delay), host, port, sessions)


def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where recordings, pictures and logs go.")
    ] = Path("demo-output"),
) -> None:
    """Call an agent through the gateway from every carrier, and show what was said and heard."""
    from gateway.simulator.demo import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(out, stay=sys.stdin.isatty()))
