# SPDX-License-Identifier: BSD-2-Clause
"""The holding sound of a caller while somebody is called who may take the call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serializers.events import Media
from serializers.registry import DIALECTS
from tests.harness.agent import Agent
from tests.harness.warm_transfer import STREAM, start_talk


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return {"support": {"hold": "ringback"}}


async def test_the_caller_hears_the_holding_sound_while_the_agent_is_silent(
    outbound: Any, support: Agent
) -> None:
    call = await start_talk(outbound, support)
    words = DIALECTS["twilio"].write_agent(Media(bytes([0x55] * 160)), STREAM)
    call.agent.say(words)
    assert (await call.caller.hear()).payload == words.encode()
    await call.consults()
    await call.caller.hear()  # the gateway's mark
    events = [json.loads((await call.caller.hear()).payload) for _ in range(3)]
    assert {event["event"] for event in events} == {"media"}
    assert all(event["media"]["payload"] not in words for event in events)
    call.agent.say(words)
    while (event := json.loads((await call.caller.hear()).payload))["event"] == "media":
        assert json.dumps(event) != words
    assert event["event"] == "clear"
    assert (await call.caller.hear()).payload == words.encode()
    await call.hangs_up()
    assert await call.result() == "caller_left"
