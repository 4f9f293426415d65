# SPDX-License-Identifier: BSD-2-Clause
"""The bots of examples/, as docs/pipecat.md has them, take calls through a gateway."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.call_plan import CallPlan, CallReport
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.wav import read_speech
from serializers.registry import DIALECTS

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGE = "base_image.py"
SPEECH = read_speech("caller")
HALF_A_SECOND = SPEECH.pcm[: SPEECH.sample_rate]

RunBot = Callable[..., str]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, run_bot: RunBot) -> Iterator[GatewayProcess]:
    """A gateway with each way of running a bot as an agent, and two runners with options to be left off."""
    runner = EXAMPLES / "development_runner" / "bot.py"
    instances = {
        "runner": run_bot(runner, ready="/status"),
        "image": run_bot(IMAGE, EXAMPLES / "base_image"),
        "ws-auth": run_bot(runner, "--ws-auth", "token", ready="/status"),
        "origins": run_bot(runner, "--allowed-origins", "https://app.example.com", ready="/status"),
    }
    agents = [{"name": name, "organization": "acme", "instances": [url]} for name, url in instances.items()]
    keys = {"public_keys": ["pk_0123456789abcdef0123"], "private_keys": ["sk_0123456789abcdef0123"]}
    settings = {"organizations": [{"name": "acme", **keys}], "agents": agents}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings) as running:
        yield running


async def call(gateway: GatewayProcess, carrier: str, agent: str) -> CallReport:
    """Say something to an agent that does not greet."""
    plan = CallPlan(
        gateway.media_url, carrier, HALF_A_SECOND, SPEECH.sample_rate, f"{agent}.acme", answer_wait=0.1
    )
    return await place_call(plan)


async def test_the_bot_on_the_development_runner_repeats_a_caller_of_twilio(gateway: GatewayProcess) -> None:
    report = await call(gateway, "twilio", "runner")
    assert (report.error, report.ended_by) == (None, "caller")
    assert report.audible_ms > 300
    assert gateway.ended_session(report.call_id)["reason"] == "caller_hangup"


@pytest.mark.parametrize("carrier", list(DIALECTS))
async def test_the_bot_in_the_base_image_repeats_the_caller_of_any_carrier(
    gateway: GatewayProcess, carrier: str
) -> None:
    report = await call(gateway, carrier, "image")
    assert (report.error, report.ended_by) == (None, "caller")
    assert report.audible_ms > 300
    assert not report.complaints
    session = gateway.ended_session(report.call_id)
    assert session["reason"] == "caller_hangup"
    assert started_with(gateway, "image")[-1]["session"] == session["id"]


@pytest.mark.parametrize("agent", ["ws-auth", "origins"])
async def test_a_runner_with_an_option_that_is_to_be_left_off_answers_no_call(
    gateway: GatewayProcess, agent: str
) -> None:
    report = await call(gateway, "twilio", agent)
    assert report.close_code == 1011
    (end,) = [line for line in gateway.ends() if line.get("call_id") == report.call_id]
    assert end["reason"] == "agent_unreachable"
    assert "answered 403 instead of 101" in end["words"]


def test_the_runner_has_no_bot_route_for_starts_without_a_media_socket(gateway: GatewayProcess) -> None:
    request = urllib.request.Request(
        f"{gateway.url}/v1/public/runner/start",
        b"{}",
        {"Authorization": "Bearer pk_0123456789abcdef0123", "Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 502
    assert json.load(refused.value)["code"] == "agent_failed"


def started_with(gateway: GatewayProcess, agent: str) -> list[dict[str, Any]]:
    """What the bot of an agent was started with."""
    (instance,) = {row["instance"] for row in gateway.sessions() if row["agent"] == f"{agent}.acme"}
    with urllib.request.urlopen(f"{instance}/calls") as response:
        started: list[dict[str, Any]] = json.load(response)
    return started
