# SPDX-License-Identifier: BSD-2-Clause
"""A line to wait in, over two workers, and what becomes of those for whom there is no room."""

from __future__ import annotations

import asyncio
import json
import wave
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulator.waiting import eventually
from serializers.events import Clear, Media
from serializers.registry import DIALECTS
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.callees import Callee
from tests.harness.caller import Caller
from tests.harness.frames import CLOSE
from tests.harness.gateway import Gateway
from tests.harness.rest_accounts import CREDENTIALS, SERVERS
from tests.harness.rest_plivo import PlivoCall
from tests.harness.rest_telnyx import TelnyxCall
from tests.harness.rest_twilio import TwilioCall
from tests.harness.transcripts import IDS, opening

RECORDED_S = 0.5
DESK = "+15550001111"
AGENTS: dict[str, dict[str, Any]] = {
    "support": {"queue_size": 3, "hold": "ringback"},
    "impatient": {"queue_size": 1, "queue_timeout": 1, "hold": "ringback"},
    "first": {"overflow": "second.acme", "hold": "ringback"},
    "second": {"overflow": "first.acme", "hold": "none"},
    "sorry": {"hold": "ringback"},
    "poor": {"overflow": DESK},
    "plain": {},
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second, as an operator might have it."""
    path = tmp_path_factory.mktemp("sounds") / "sorry.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(b"\x00\x10" * round(16000 * RECORDED_S))
    return path


@pytest.fixture(scope="module")
def made(agent_port: Callable[[], AgentPort]) -> dict[str, Any]:
    """Three carriers with which the organisation has an account."""
    return {carrier: SERVERS[carrier](agent_port()) for carrier in CALLS}


CALLS: dict[str, Callable[[str], Any]] = {
    "twilio": lambda call_id: TwilioCall({"sid": call_id, "status": "in-progress"}, None),  # type: ignore[arg-type]
    "telnyx": lambda call_id: TelnyxCall(call_id, {}, state="answered"),
    "plivo": lambda call_id: PlivoCall(call_id, call_id, {}, "in-progress"),
}


@pytest.fixture(params=CALLS)
async def phone(
    request: pytest.FixtureRequest, made: dict[str, Any], gateway: Gateway
) -> AsyncIterator[Callee]:
    """Somebody who calls by one of them."""
    carrier: str = request.param
    server = made[carrier]
    server.via = f"http://127.0.0.1:{gateway.port}"
    call_id = IDS[carrier][0]
    server.calls[call_id] = CALLS[carrier](call_id)
    await server.start()
    yield Callee(carrier, server, server.calls[call_id])
    await server.stop()


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, recording: Path, made: dict[str, Any]
) -> Gateway:
    place = {"organization": "acme", "instances": [support_port.url], "max_agents": 1}
    agents = [{"name": name, **place, **settings} for name, settings in AGENTS.items()]
    next(agent for agent in agents if agent["name"] == "sorry")["overflow"] = str(recording)
    desk = {"organization": "desks", "instances": [support_port.url], "max_agents": 1, "name": "desk"}
    desk["websocket_auth"] = "none"  # the account with Telnyx has nothing that authenticates a call
    agents.append(desk | {"overflow": DESK})
    agents.append(desk | {"overflow": DESK, "organization": "frugal"})
    accounts = [
        {"carrier": carrier, "api_url": server.api_url} | CREDENTIALS[carrier]
        for carrier, server in made.items()
    ]
    return start_gateway(
        server={"workers": 2, "public_url": "https://voice.test"},
        agents=agents,
        organizations=[
            {"name": "acme"},
            {"name": "desks", "carriers": accounts},
            {"name": "frugal", "carriers": accounts, "forward_per_minute": 1},
        ],
        limits={"close_timeout": 0.2},
    )


async def ring(gateway: Gateway, agent: str, carrier: str = "twilio") -> Caller:
    caller = await gateway.dial(f"/ws/{carrier}/{agent}.acme")
    assert caller.status == 101
    for message in opening(carrier):
        caller.say(message)
    return caller


async def served(gateway: Gateway, support: Agent, agent: str) -> tuple[Caller, AgentCall]:
    """A call that has taken the agent's one place."""
    caller = await ring(gateway, agent)
    return caller, await support.call()


async def leaves(caller: Caller, call: AgentCall) -> None:
    caller.send(caller.close_frame(1000))
    await call.closed()


def waiting(gateway: Gateway) -> list[str]:
    """Those in the line, the first first."""
    return [row["id"] for row in gateway.rows("SELECT id FROM waiting ORDER BY number")]


async def in_line(gateway: Gateway, count: int) -> list[str]:
    found: list[str] = await eventually(
        lambda: ids if len(ids := waiting(gateway)) == count else [], f"{count} wait"
    )
    return found


async def how_it_ends(caller: Caller, carrier: str = "twilio") -> tuple[list[Any], tuple[int, str]]:
    """Everything the caller hears, and the close."""
    heard = []
    while (frame := await caller.next()) is not None and frame.opcode != CLOSE:
        heard.append(DIALECTS[carrier].read_agent(frame.payload))
    assert frame is not None
    return heard, frame.close


async def test_first_come_first_served_whichever_worker_they_came_to(
    gateway: Gateway, support: Agent
) -> None:
    caller, call = await served(gateway, support, "support")
    callers, order = [], []
    for count in (1, 2, 3):
        callers.append(await ring(gateway, "support"))
        order = await in_line(gateway, count)
        callers[-1].say(json.dumps({"event": "dtmf", "dtmf": {"digit": str(count)}}))
    assert isinstance(DIALECTS["twilio"].read_agent((await callers[-1].hear()).payload), Media)

    refused = await ring(gateway, "support")
    _, close = await how_it_ends(refused)
    assert close == (1013, "1 of 1 places are taken"), "the line is full"

    for number, session in enumerate(order, 1):
        await leaves(caller, call)
        caller, call = callers[number - 1], await support.call()
        assert call.session == session
        while json.loads((await call.hear()).payload).get("dtmf") != {"digit": str(number)}:
            pass
    await leaves(caller, call)
    await eventually(lambda: not waiting(gateway), "the line is empty")


async def test_who_hangs_up_leaves_the_line(gateway: Gateway, support: Agent) -> None:
    caller, call = await served(gateway, support, "support")
    first, second = await ring(gateway, "support"), None
    await in_line(gateway, 1)
    second = await ring(gateway, "support")
    order = await in_line(gateway, 2)
    await first.hang_up()
    assert await in_line(gateway, 1) == order[1:]
    await leaves(caller, call)
    taken = await support.call()
    assert taken.session == order[1]
    await leaves(second, taken)


async def test_nobody_waits_longer_than_is_set(gateway: Gateway, support: Agent) -> None:
    caller, call = await served(gateway, support, "impatient")
    late = await ring(gateway, "impatient")
    heard, close = await how_it_ends(late)
    assert close == (1013, "no place became free within 1 s")
    assert isinstance(heard[0], Media)
    assert isinstance(heard[-1], Clear)
    await eventually(lambda: not waiting(gateway), "the line is empty")
    await leaves(caller, call)


@pytest.mark.parametrize(
    ("agent", "says"), [("support", "<Stream"), ("poor", "<Stream"), ("plain", "<Reject")]
)
async def test_the_document_of_an_agent_that_is_full(
    gateway: Gateway, support: Agent, agent: str, says: str
) -> None:
    caller, call = await served(gateway, support, agent)
    form = {"CallSid": "CA" + "1" * 32, "From": "+14155550100", "To": "+14155550199"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"http://127.0.0.1:{gateway.port}/xml/twilio?agent={agent}&org=acme",
            data=form,
            headers={"Host": "voice.test"},
        ) as answer,
    ):
        assert answer.status == 200
        assert says in await answer.text()
    await leaves(caller, call)


async def test_a_client_without_a_carrier_does_not_wait(gateway: Gateway, support: Agent) -> None:
    caller, call = await served(gateway, support, "support")
    client = await gateway.dial("/ws/generic/support.acme")
    assert client.refusal == (429, "at_capacity")
    await leaves(caller, call)


async def test_calls_flow_over_to_another_agent_and_not_in_a_circle(gateway: Gateway, support: Agent) -> None:
    kept = [await served(gateway, support, "first")]
    kept.append((await ring(gateway, "first"), await support.call()))
    assert Counter(session["agent"] for session in gateway.sessions() if session["ended_at"] is None) == {
        "first.acme": 1,
        "second.acme": 1,
    }
    for agent in ("first", "second"):
        _, close = await how_it_ends(await ring(gateway, agent))
        assert close == (1013, "1 of 1 places are taken")
    for caller, call in kept:
        await leaves(caller, call)


async def test_a_message_is_played_to_its_end_and_then_refused(gateway: Gateway, support: Agent) -> None:
    caller, call = await served(gateway, support, "sorry")
    for carrier, sound_bytes in (("twilio", 8000 * RECORDED_S), ("exotel", 2 * 8000 * 0.6)):
        heard, close = await how_it_ends(await ring(gateway, "sorry", carrier), carrier)
        assert sum(len(one.payload) for one in heard if isinstance(one, Media)) == sound_bytes
        assert close == (1013, "1 of 1 places are taken")
        assert not any(isinstance(one, Clear) for one in heard), "it is not cut off"
    await leaves(caller, call)


async def calls_the_desk(gateway: Gateway, phone: Callee, organization: str = "desks") -> Caller:
    caller, _ = await phone.opens(gateway, f"wss://voice.test/ws/{phone.carrier}/desk.{organization}")
    assert caller.status == 101
    return caller


async def test_a_call_is_transferred_to_the_number(gateway: Gateway, support: Agent, phone: Callee) -> None:
    caller = await calls_the_desk(gateway, phone)
    call = await support.call()
    before = len(gateway.ends())
    late = await calls_the_desk(gateway, phone)
    _, close = await how_it_ends(late, phone.carrier)
    assert close == (1000, "no place was free")
    (end,) = await eventually(lambda: gateway.ends()[before:], "its end is told")
    assert (end["reason"], end["agent"]) == ("transferred", "desk.desks")
    match phone.carrier:
        case "telnyx":
            assert phone.call.commands == [("transfer", {"to": DESK, "time_limit_secs": 7200})]
        case "twilio":
            assert DESK in phone.call.updates[-1].one("Twiml")
        case "plivo":  # it asks for the document when the socket is closed
            fields = {"CallUUID": phone.call_id, "From": "14155550100", "To": "14155550199"}
            answered = await phone.server.post(phone.call.transfers[-1]["aleg_url"], fields)
            assert answered.status == 200
            assert DESK.removeprefix("+") in answered.text
    await leaves(caller, call)


async def test_or_refused_where_its_carrier_will_not(gateway: Gateway, support: Agent, phone: Callee) -> None:
    caller = await calls_the_desk(gateway, phone)
    call = await support.call()
    phone.server.calls.clear()  # it knows no such call
    _, close = await how_it_ends(await calls_the_desk(gateway, phone), phone.carrier)
    assert close == (1013, "1 of 1 places are taken")
    await leaves(caller, call)


@pytest.mark.parametrize("phone", ["telnyx"], indirect=True)
async def test_or_when_too_many_were_transferred_within_a_minute(
    gateway: Gateway, support: Agent, phone: Callee
) -> None:
    caller = await calls_the_desk(gateway, phone, "frugal")
    call = await support.call()
    for expected in [(1000, "no place was free"), (1013, "1 of 1 places are taken")]:
        _, close = await how_it_ends(await calls_the_desk(gateway, phone, "frugal"), phone.carrier)
        assert close == expected
    assert phone.call.commands == [("transfer", {"to": DESK, "time_limit_secs": 7200})]
    await leaves(caller, call)


async def test_or_where_there_is_no_account(gateway: Gateway, support: Agent) -> None:
    caller, call = await served(gateway, support, "poor")
    _, close = await how_it_ends(await ring(gateway, "poor"))
    assert close == (1013, "1 of 1 places are taken")
    await leaves(caller, call)


async def test_a_caller_who_hangs_up_during_the_message(gateway: Gateway, support: Agent) -> None:
    caller, call = await served(gateway, support, "sorry")
    late = await ring(gateway, "sorry")
    await late.hear()
    await late.hang_up()
    await asyncio.sleep(0)
    await leaves(caller, call)
