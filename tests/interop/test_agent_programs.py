# SPDX-License-Identifier: BSD-2-Clause
"""The telephone handlers of other agent frameworks (agent_programs.py) take calls through a gateway.

Each says back what it heard (Patter answers it), ends when the caller hangs up, and is free for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.simulator.call_plan import CallPlan
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.wav import read_speech

PROGRAM = "agent_programs.py"
PYTHON = Path(__file__).parents[2] / ".venv-interop" / "agents" / "bin" / "python"
SPEECH = read_speech("caller")
ONE_SECOND = SPEECH.pcm[: 2 * SPEECH.sample_rate]

ENDS_OF_THE_CALLER = {"caller_hangup", "agent_ended"}
"""An agent may close at Twilio's `stop`, before Twilio does."""

PROGRAMS = {
    "bolna-twilio": "twilio",
    "bolna-plivo": "plivo",
    "bolna-exotel": "exotel",
    "fastrtc": "twilio",
    "patter": "twilio",
    "twilio-agent-connect": "twilio",
    "vision-agents": "twilio",
}
"""The programs, each with the carrier whose calls it takes."""


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, run_bot: Callable[..., str]
) -> Iterator[GatewayProcess]:
    """A gateway with each program as an agent, of one call at a time."""
    if not PYTHON.exists():
        pytest.fail("the agent frameworks are not installed: `make interop` does it")
    tmp_path_factory.getbasetemp()  # made once; several threads would make one each
    with ThreadPoolExecutor() as starting:
        urls = starting.map(lambda name: run_bot(PROGRAM, name, ready=None, python=PYTHON), PROGRAMS)
        agents = [
            {"name": name, "organization": "acme", "instances": [url], "hold": "none"}
            for name, url in zip(PROGRAMS, urls, strict=True)
        ]
    settings = {"organizations": [{"name": "acme"}], "agents": agents}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings) as running:
        yield running


@pytest.mark.parametrize(("name", "carrier"), PROGRAMS.items(), ids=PROGRAMS)
async def test_a_caller_is_heard_and_answered_by_another_frameworks_agent(
    gateway: GatewayProcess, name: str, carrier: str
) -> None:
    for _ in range(2):
        plan = CallPlan(
            gateway.media_url, carrier, ONE_SECOND, SPEECH.sample_rate, f"{name}.acme", answer_wait=0.1
        )
        report = await place_call(plan)
        assert report.error is None
        assert not report.complaints
        assert report.audible_ms > 500
        session = gateway.ended_session(report.call_id)
        assert session["reason"] in ENDS_OF_THE_CALLER
