# SPDX-License-Identifier: BSD-2-Clause
"""One carrier, one gateway, one agent with one slot: calls from the carrier's webhook to the session's
record.

Each module has the fixture `carrier`, and a function that adds an incoming call to the carrier's REST server.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import (
    Call,
    assert_agent_heard,
    assert_caller_heard,
    assert_each_end_logged,
    assert_ended,
    assert_no_slots_taken,
)
from tests.harness.callees import Callee, next_callee
from tests.harness.document_calls import (
    STREAM_HOST,
    DocumentCalls,
    accounts,
    opening_of_call,
    servers,
    token_of,
)
from tests.harness.frames import PING, PONG
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture
from tests.harness.rest_accounts import CREDENTIALS
from tests.harness.rest_server import Answered, Placed
from tests.harness.transcripts import replies, talk

FROM, TO = "+14155550199", "+14155550142"


@dataclass
class Way:
    """One carrier's calls through the gateway to the agent support.acme, and back."""

    line: DocumentCalls
    agent: Agent
    http: aiohttp.ClientSession

    @property
    def server(self) -> Any:
        return self.line.server

    @property
    def gateway(self) -> Gateway:
        return self.line.gateway

    # Incoming calls

    async def rings(self) -> Placed:
        """A caller dials the number: the carrier requests the webhook, signed, and reads the document."""
        unsigned = await self.line.place(proven=False)
        assert unsigned.answered.status == 403, "without a signature there is no document"
        return await self.line.place()

    async def connects(self, placed: Placed) -> Call:
        """The carrier opens the document's stream, and the agent receives the opening of this call."""
        assert placed.stream_url.startswith(f"wss://{STREAM_HOST}/ws/{self.line.carrier}")
        assert token_of(placed.stream_url)
        document = placed.document
        parameters = document.parameters if document is not None else {}
        caller, agent = await self.line.stream(placed, self.agent, **parameters)
        call = Call(caller, agent, [])
        record = await self._running(call.session)
        assert (record["call_id"], record["carrier"]) == (placed.call_id, self.line.carrier)
        return call

    async def talk(self, call: Call) -> None:
        """The agent hears the caller, and the caller hears the agent's answer."""
        carrier = self.line.carrier
        await assert_agent_heard(call.agent, [call.caller.say(talk(carrier)[0])])
        await assert_caller_heard(call.caller, [call.agent.say(replies(carrier)[0])])

    def streams_while(self, operation: str, call: Call, *, then: Any = None) -> None:
        """The next such request finds the call's stream alive.

        `then`: what the carrier does after it has acted.
        """

        async def answer(_: Any, request: Any, act: Callable[[], Any]) -> Any:
            await self.talk(call)
            answered = act()
            if then is not None:
                await then()
            return answered

        self.server.next(operation, answer)

    async def assert_agent_kept(self, call: Call) -> None:
        """The agent of a transferred call keeps its socket: if it lost it, it would hang up the call."""
        call.agent.send(call.agent.frame(PING, b"there?"))
        while (message := await call.agent.hear()).opcode != PONG:
            assert json.loads(message.payload)["event"] == "stop"
        assert message.payload == b"there?"

    async def refused_socket(self, placed: Placed) -> int:
        """The carrier opens the document's stream, which the gateway closes. Return the close code."""
        before = len(self.gateway.ends())
        caller = await self.line.dial(placed.stream_url)
        assert caller.status == 101
        for message in opening_of_call(self.line.carrier, placed.call_id):
            caller.say(message)
        code, _ = await caller.closed()
        await eventually(lambda: self.gateway.ends()[before:], "its end is logged")
        assert self.gateway.ends()[before]["reason"] == "at_capacity"
        return code

    # Outbound calls

    async def dials(self, **more: Any) -> tuple[str, Callee]:
        """Request a call through the API, which the carrier makes.

        Return the session and the phone that rings.
        """
        before = len(self.server.calls)
        body = {"carrier": self.line.carrier, "to": TO, "from": FROM, **more}
        status, answer = await self.post("/v1/public/support/dialout", body, "pk_acme")
        assert status == 200, answer
        phone = await next_callee(self.line.carrier, self.server, before)
        await phone.rings()
        return answer["sessionId"], phone

    async def picks_up(self, session: str, phone: Callee) -> Call:
        """The callee answers, and the carrier opens the stream."""
        url = await phone.answered()
        caller = await self.line.dial(url)
        assert caller.status == 101, caller.body
        agent = await self.line.opened(caller, phone.call_id, self.agent)
        assert agent.session == session
        await self._running(session)
        return Call(caller, agent, [])

    # The API, callbacks, and the end of a call

    async def post(self, path: str, body: Any, key: str) -> tuple[int, Any]:
        async with self.http.post(
            f"http://127.0.0.1:{self.gateway.port}{path}",
            data=io.BytesIO(json.dumps(body).encode()),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        ) as answer:
            return answer.status, await answer.json()

    async def control(self, call: Call, what: str, **body: Any) -> tuple[int, Any]:
        status, answer = await self.post(f"/v1/sessions/{call.session}/call/{what}", body, "sk_acme")
        return status, answer.get("error", answer)

    async def report(self, url: str, fields: dict[str, str]) -> Answered:
        """The carrier's signed callback is accepted, the same without a signature is not."""
        unsigned = await self.server.post(url, fields, signed=False)
        assert unsigned.status == 403, unsigned
        answered: Answered = await self.server.post(url, fields)
        assert answered.status == 200, answered
        return answered

    async def over(self, session: str, reason: str, side: str) -> dict[str, Any]:
        """The record and exactly one log line have this end, and the slot is free."""
        record = await assert_ended(self.gateway, session, reason, side)
        (line,) = [each for each in self.gateway.ends() if each["session"] == session]
        assert (line["agent"], line["carrier"]) == ("support.acme", self.line.carrier)
        assert (line["call_id"], record["state"]) == (record["call_id"], "ended")
        await self.gateway.callers_leave()
        await assert_no_slots_taken(self.gateway)
        await assert_each_end_logged(self.gateway)
        return record

    async def _running(self, session: str) -> dict[str, Any]:
        def running() -> list[dict[str, Any]]:
            return [each for each in self.gateway.sessions(session) if each["state"] == "running"]

        return dict((await eventually(running, f"{session} runs"))[0])


@pytest.fixture(scope="module")
def server(agent_port: Callable[[], AgentPort], carrier: str) -> Any:
    return servers(agent_port)[carrier]


@pytest.fixture(scope="module")
def workers() -> int:
    """The number of the gateway's workers: two in a module that kills one."""
    return 1


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway],
    agent_port: Callable[[], AgentPort],
    support_port: AgentPort,
    server: Any,
    carrier: str,
    workers: int,
) -> Gateway:
    """acme has an account with the carrier, with credentials for its requests and for its REST API."""
    own_servers = {**servers(agent_port), carrier: server}
    (credentials,) = [each for each in accounts(own_servers) if each["carrier"] == carrier]
    account = {**CREDENTIALS[carrier], **credentials, "api_url": server.api_url, "calls_per_second": 1000.0}
    return start_gateway(
        server={"public_url": "https://voice.example.com", "workers": workers},
        organizations=[
            {
                "name": "acme",
                "public_keys": ["pk_acme"],
                "private_keys": ["sk_acme"],
                "carriers": [account],
                "dial_prefixes": ["+1415"],
            }
        ],
        agents=[
            {"name": "support", "organization": "acme", "instances": [support_port.url], "max_agents": 1}
        ],
        numbers=[{"number": FROM, "agent": "support.acme"}],
    )


@pytest.fixture
async def way(
    gateway: Gateway, server: Any, carrier: str, agent_at: Callable[..., Any], support_port: AgentPort
) -> AsyncIterator[Way]:
    server.via = f"http://127.0.0.1:{gateway.port}"
    await server.start()
    agent = await agent_at(support_port)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S * 2)) as http:
            yield Way(DocumentCalls(gateway, server, carrier), agent, http)
    finally:
        await gateway.callers_leave()
        await server.stop()
