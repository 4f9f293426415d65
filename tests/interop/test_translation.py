# SPDX-License-Identifier: BSD-2-Clause
"""Each carrier reaches Pipecat bots that were written for something else: for Twilio, for Vonage, and for web
clients that speak Pipecat's frames. The serializers are Pipecat's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.simulator.call_plan import CallPlan
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.wav import read_speech
from tests.interop.test_pipecat import ALIKE, RATE_HZ, UNLIKE, likeness, samples

BOTS = ("twilio", "pipecat", "vonage")


@pytest.fixture(scope="module")
def translating(
    bot_url: str,
    protobuf_bot: str,
    run_bot: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    """A gateway in front of one bot of each kind, each an agent with one slot."""
    urls = {"twilio": bot_url, "pipecat": protobuf_bot, "vonage": run_bot("vonage_bot.py")}
    agents = [
        {
            "name": dialect,
            "organization": "interop",
            "instances": [urls[dialect]],
            "dialect": dialect,
            "sessions_per_instance": 1,
        }
        for dialect in BOTS
    ]
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), {"agents": agents}) as running:
        yield running


@pytest.mark.parametrize(
    ("carrier", "dialect"),
    [
        ("plivo", "twilio"),
        ("exotel", "twilio"),
        ("twilio", "pipecat"),
        ("exotel", "pipecat"),
        ("telnyx", "vonage"),
        ("exotel", "vonage"),
    ],
)
async def test_a_bot_repeats_callers_of_a_carrier_that_it_does_not_know(
    carrier: str, dialect: str, translating: GatewayProcess
) -> None:
    said = samples(read_speech("caller"))[: 3 * RATE_HZ]
    plan = CallPlan(
        translating.media_url,
        carrier,
        said.astype("<i2").tobytes(),
        RATE_HZ,
        f"{dialect}.interop",
        answer_wait=0.1,
        quiet=2.5,
    )
    report = await place_call(plan)
    assert report.error is None
    assert not report.complaints
    assert likeness(said, report) > ALIKE
    assert likeness(samples(read_speech("greeting")), report) < UNLIKE
    ended: dict[str, Any] = translating.ended_session(report.call_id)
    assert (ended["state"], ended["reason"]) == ("ended", "caller_hangup")
    if dialect == "pipecat":  # whose keys only bots with an RTVI processor understand
        return
    report = await place_call(replace(plan, digits="#"))
    assert report.error is None
    assert (report.ended_by, report.close_code) == ("far side", 1000)
