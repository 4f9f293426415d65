# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay demo`: a gateway, an agent, and a call from every carrier."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gateway import DISTRIBUTION
from gateway.simulator.call_exit_status import exit_status
from gateway.simulator.call_plan import CallPlan, CallReport
from gateway.simulator.carrier_profiles import PROFILES
from gateway.simulator.free_ports import LOOPBACK, free_port
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.place_calls import place_calls
from gateway.simulator.report_table import calls_table, problems
from gateway.simulator.server_process import PATCHBAY, ServerProcess, StartError, answers
from gateway.simulator.wav import WavError, read_speech, write_wav

SESSIONS = 10
AGENT = "echo.demo"
DIGITS = "12#"
COLUMNS = 80
"""The width of the output if it is not a terminal."""


def run_demo(out: Path, *, stay: bool, expect_audio: bool = True) -> int:
    """Run the demonstration. `stay`: remain up until Ctrl-C, or SIGTERM, or the terminal is closed.

    Return the exit status.

    `expect_audio`: whether a call fails in which the caller hears nothing of the agent.
    """
    console = Console() if sys.stdout.isatty() else Console(width=COLUMNS)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="patchbay-demo-") as scratch:
            return asyncio.run(_demonstrate(out, Path(scratch), console, stay, expect_audio))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0 if stay else 1
    except (StartError, WavError) as error:
        _print(console, str(error), "red")
    except OSError as error:
        _print(console, f"{error.filename or out}: {error.strerror}", "red")
    return 1


async def _demonstrate(out: Path, scratch: Path, console: Console, stay: bool, expect_audio: bool) -> int:
    _stop_on_signals()
    agent_port = free_port()
    agent_url = f"http://{LOOPBACK}:{agent_port}"
    agent_options = ["--host", LOOPBACK, "--port", str(agent_port), "--sessions", str(SESSIONS)]
    async with ServerProcess("the agent", [*PATCHBAY, "agent", *agent_options], out / "agent.log") as agent:
        await agent.ready(lambda: answers(f"{agent_url}/readyz"))
        async with GatewayProcess(scratch, _settings(agent_url), log_path=out / "gateway.log") as gateway:
            _print(
                console,
                f"The gateway is on {LOOPBACK}:{gateway.port}, the agent {AGENT} on {LOOPBACK}:{agent_port}.",
            )
            speech = read_speech("caller")
            plans = [
                CallPlan(
                    gateway.media_url,
                    carrier,
                    speech.pcm,
                    speech.sample_rate,
                    agent=AGENT,
                    digits=DIGITS,
                    expect_audio=expect_audio,
                )
                for carrier in PROFILES
            ]
            reports = await place_calls(plans, console)
            _show(reports, out, console)
            if stay:
                await _stay(gateway.media_url, console)
    return exit_status(reports)


def _stop_on_signals() -> None:
    """Cancel the task that runs on SIGTERM and SIGHUP: gateway and agent would outlive this process."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _settings(agent_url: str) -> dict[str, Any]:
    port = free_port()
    agent = {"name": "echo", "organization": "demo", "region": "us-west", "instances": [agent_url]}
    return {
        "server": {"port": port, "public_url": f"http://{LOOPBACK}:{port}"},
        "organizations": [{"name": "demo"}],
        "agents": [agent | {"sessions_per_instance": SESSIONS}],
    }


def _show(reports: Sequence[CallReport], out: Path, console: Console) -> None:
    """Print the table, write recordings and pictures."""
    console.print(
        calls_table(reports, "A call from every carrier, through the gateway to the agent and back")
    )
    for report in reports:
        write_wav(out / f"{report.carrier}-caller.wav", report.sent_audio, report.sample_rate)
        write_wav(out / f"{report.carrier}-heard.wav", report.played_audio, report.sample_rate)
    _print(console, f"Recordings: {out}/CARRIER-caller.wav (said), {out}/CARRIER-heard.wav (heard)")
    _print(console, _draw(reports, out))
    for line in problems(reports):
        _print(console, line, "red")


def _draw(reports: Sequence[CallReport], out: Path) -> str:
    try:
        from gateway.simulator.picture import draw_call  # noqa: PLC0415 - matplotlib is optional
    except ImportError:
        return f"Pictures: none, for want of matplotlib (pip install '{DISTRIBUTION}[demo]')"
    for report in reports:
        if report.played_audio:
            draw_call(report, out / f"{report.carrier}.png")
    return f"Pictures: {out}/CARRIER.png"


async def _stay(url: str, console: Console) -> None:
    _print(console, "\nStill up. Call it yourself from another terminal:")
    _print(console, f"  patchbay call {url} --carrier twilio --agent {AGENT} --out reply.wav")
    _print(console, f"  patchbay call {url} --carrier plivo --agent {AGENT} --digits '*#' --calls 5")
    _print(console, "Ctrl-C ends it.")
    await asyncio.Event().wait()


def _print(console: Console, detail: str, style: str | None = None) -> None:
    """Print a line that can be copied: neither wrapped nor coloured by its content."""
    console.print(detail, style=style, markup=False, highlight=False, soft_wrap=True)
