# SPDX-License-Identifier: BSD-2-Clause
"""What a stranger learns from answers: no inner address, no file, no agent that wants credentials."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.media.accept import error_response
from gateway.model.reasons import CallEnded, Reasons
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import AgentPort
from tests.harness.gateway import Gateway
from tests.harness.transcripts import IDS, opening

KEY = {"Authorization": "Bearer pk_acme", "Content-Type": "application/json"}
CARRIERS = ("twilio", "telnyx", "plivo", "exotel")


@pytest.fixture(scope="module")
def nowhere(agent_port: Callable[[], AgentPort]) -> AgentPort:
    """The port of instances that do not run."""
    return agent_port()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], nowhere: AgentPort) -> Gateway:
    agents = [
        {
            "name": name,
            "organization": "acme",
            "instances": [nowhere.url],
            "websocket_auth": auth,
            "hold": "none",
        }
        for name, auth in (("support", "none"), ("locked", "token"))
    ]
    return start_gateway(
        organizations=[{"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}],
        agents=agents,
        limits={"agent_connect_timeout": 0.5},  # there is none to wait for
    )


@pytest.fixture(autouse=True)
async def callers_leave(gateway: Gateway) -> AsyncIterator[None]:
    """Close the sockets that a test has left open."""
    yield
    await gateway.callers_leave()


def post(gateway: Gateway, path: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    return answer.status, said


async def test_nobody_learns_where_an_instance_is(gateway: Gateway, nowhere: AgentPort) -> None:
    refused = await gateway.dial("/ws/generic/support.acme")
    caller = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        caller.say(message)
    code, words = await caller.closed()
    status, answer = post(gateway, "/v1/public/support/start", "{}", KEY)
    assert (refused.status, code, status) == (502, 1011, 502)
    for said in (refused.body.decode(), words, answer):
        assert str(nowhere.number) not in said
        assert "127.0.0.1" not in said
        assert "agent" in said, "but they learn that it is the agent"

    def with_address() -> list[str]:
        return [line["words"] for line in gateway.ends() if str(nowhere.number) in line["words"]]

    await eventually(lambda: len(with_address()) == 2, "the operator reads it in the log")


async def test_nobody_learns_which_agents_want_a_token(gateway: Gateway) -> None:
    for target in (
        "/ws/generic/{}.acme",
        "/ws/generic/{}.acme?token=nonsense",
        "/ws/generic/{}.acme/" + "A" * 140,
        "/ws/twilio/{}.acme",
        "/ws/generic?serviceHost={}.acme",
    ):
        locked, nobody = [await gateway.dial(target.format(name)) for name in ("locked", "nobody")]
        assert locked.status == nobody.status == 403, target
        assert locked.body == nobody.body.replace(b"nobody", b"locked"), target

    def reasons() -> list[str]:
        return [line["reason"] for line in gateway.ends()[-2:]]

    await eventually(
        lambda: reasons() == ["unauthorized", "unknown_agent"], "the operator learns which it was"
    )


@pytest.mark.parametrize("parameter", ["serviceHost"])
async def test_nobody_learns_it_from_a_start_either(gateway: Gateway, parameter: str) -> None:
    closes = []
    for name in ("locked", "nobody"):
        caller = await gateway.dial("/ws/twilio")
        for message in opening("twilio", {parameter: f"{name}.acme"}):
            caller.say(message)
        code, words = await caller.closed()
        closes.append((code, words.replace(name, "")))
    assert closes[0] == closes[1]
    assert closes[0][0] == 1008


async def test_a_name_that_no_agent_can_have_is_told_so(gateway: Gateway) -> None:
    caller = await gateway.dial(f"/ws/generic/{'a' * 200}.acme")
    assert caller.refusal == (400, "bad_request")


def test_the_stores_file_is_in_no_answer() -> None:
    end = CallEnded(Reasons.store_failed, "the session store /var/lib/patchbay/patchbay.db does not answer")
    assert b"/var/lib" not in error_response(end)
    assert "/var/lib" in end.detail, "the operator reads it in the log"


# Identifiers from outside


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("which", [0, 1], ids=["call", "stream"])
async def test_an_id_that_is_too_long_is_neither_stored_nor_logged(
    gateway: Gateway, carrier: str, which: int
) -> None:
    long_id = "x" * 20_000
    before = len(gateway.sessions())
    caller = await gateway.dial(f"/ws/{carrier}/support.acme")
    for message in opening(carrier):
        caller.say(message.replace(IDS[carrier][which], long_id))
    code, words = await caller.closed()
    assert code == 1008
    assert "longer than 256 characters" in words
    await eventually(lambda: gateway.ends()[-1]["reason"] == "bad_opening", "its end is logged")
    assert len(gateway.sessions()) == before
    assert long_id[:1000] not in gateway.log_text()


async def test_a_number_that_is_too_long_is_none(gateway: Gateway) -> None:
    caller = await gateway.dial("/ws/telnyx/support.acme")
    for message in opening("telnyx", from_number="+1" * 20_000):
        caller.say(message)
    assert (await caller.closed())[0] == 1011, "the call is served, as far as its agent runs"
    (session,) = [one for one in gateway.sessions() if one["carrier"] == "telnyx"]
    assert session["from_number"] is None
    assert session["call_id"] == IDS["telnyx"][0]


def test_a_callback_for_a_session_with_too_long_an_id_is_not_logged(gateway: Gateway) -> None:
    long_id = "y" * 50_000
    status, said = post(gateway, f"/callbacks/twilio/{long_id}/status", "", {})
    assert (status, json.loads(said)["code"]) == (404, "404")
    assert long_id[:1000] not in gateway.log_text()
