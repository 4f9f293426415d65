# SPDX-License-Identifier: BSD-2-Clause
"""Each carrier breaks in its own words: openings, ends and lost sockets of Telnyx, Plivo and Exotel beside
Twilio's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.case import Case
from tests.faults.conversation import SOUND
from tests.faults.stream_token import url_with_token
from tests.faults.suite_settings import LIMITS
from tests.harness.agent import Agent
from tests.harness.transcripts import CARRIERS, opening, opening_messages, stop

Cases = Callable[..., Case]


def at(carrier: str) -> str:
    return f"/ws/{carrier}/support.acme"


@pytest.mark.parametrize("carrier", ["telnyx", "plivo", "exotel"])
async def test_resets(case: Cases, support: Agent, carrier: str) -> None:
    async with case(f"resets ({carrier.capitalize()})") as fault:
        talk = await fault.talk(support, at(carrier))
        talk.silence()
        fault.strike()
        talk.caller.reset()
        assert (await talk.agent_recorder.closed())[0] == 1011
        await fault.over("carrier_lost", "carrier")
        fault.heard = "sound, then it was gone"


async def test_resets_and_does_not_dial_again(case: Cases, support: Agent) -> None:
    """The session waits for the socket that Plivo may open, and the agent hears nothing of it."""
    async with case(f"resets, and dials not again in {LIMITS['reconnect_timeout']:g} s (Plivo)") as fault:
        talk = await fault.talk(support, url_with_token(fault.gateway))
        talk.silence()
        fault.strike()
        talk.caller.reset()
        assert (await talk.agent_recorder.closed())[0] == 1011
        line = await fault.over("carrier_lost", "carrier")
        assert "no other came" in line["words"]
        fault.heard = "sound, then it was gone"


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_opens_as_another_carrier(case: Cases, support: Agent, carrier: str) -> None:
    other = CARRIERS[CARRIERS.index(carrier) - 1]
    async with case(f"opens as {other.capitalize()} at {carrier.capitalize()}'s socket") as fault:
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller(at(carrier), opening(other))
        await fault.ends(recorder, 1008, "bad_opening", "carrier")


IDS = {"twilio": "callSid", "telnyx": "call_control_id", "plivo": "callId", "exotel": "call_sid"}


@pytest.mark.parametrize("carrier", IDS)
async def test_opens_without_a_call_id(case: Cases, support: Agent, carrier: str) -> None:
    async with case(f"opens without the call's id ({carrier.capitalize()})") as fault:
        fault.agent = support
        messages = opening_messages(carrier)
        del messages[-1]["start"][IDS[carrier]]
        fault.strike()
        _, recorder = await fault.caller(at(carrier), [json.dumps(message) for message in messages])
        await fault.ends(recorder, 1008, "bad_opening", "carrier")


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "exotel"])
async def test_says_stop_and_is_gone(case: Cases, support: Agent, carrier: str) -> None:
    """The carrier has told the end, so nothing is lost."""
    async with case(f"says `stop`, and is gone without a close ({carrier.capitalize()})") as fault:
        talk = await fault.talk(support, at(carrier), caller_speaks=False)
        talk.silence()
        fault.strike()
        talk.caller.say(stop(carrier))
        await talk.agent_recorder.until(1)
        talk.caller.half_close()
        assert (await talk.agent_recorder.closed())[0] == 1000
        await fault.over("caller_hangup", "caller")
        fault.heard = "sound, to its end"


ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no `start` in its `start`": lambda message: message.pop("start"),
    "a list for its `start`": lambda message: message.update(start=[]),
    "an audio format that there is not": lambda message: message["start"].update(
        mediaFormat={"encoding": "audio/opus", "sampleRate": -1, "channels": 1}
    ),
    "half a character in its ids": lambda message: message["start"].update(callSid="\ud800"),
}


@pytest.mark.parametrize("name", ODD)
async def test_opens_oddly(case: Cases, support: Agent, name: str) -> None:
    async with case(f"opens with {name}") as fault:
        fault.agent = support
        messages = opening_messages("twilio")
        ODD[name](messages[-1])
        fault.strike()
        _, recorder = await fault.caller(messages=[json.dumps(message) for message in messages])
        await fault.ends(recorder, 1008, "bad_opening", "carrier")


async def test_closes_before_its_agent_is_there(case: Cases, support: Agent) -> None:
    async with case("hangs up behind its opening, before the agent is there") as fault:
        fault.agent = support
        caller, recorder = await fault.caller()
        fault.strike()
        caller.say(SOUND)
        recorder.hang_up()
        assert (await recorder.closed())[0] == 1000
        await fault.over("caller_hangup", "caller")
        fault.heard = "nothing"
