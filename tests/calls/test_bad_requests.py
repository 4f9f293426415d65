# SPDX-License-Identifier: BSD-2-Clause
"""Upgrades that are refused before they are answered: an HTTP status, one log line, no session."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_next_call_works, assert_refused
from tests.harness.caller import open_socket
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, opening
from tests.harness.websocket_peer import WebSocketPeer


@pytest.fixture(scope="module")
def settings(agent_port: Callable[[], AgentPort]) -> dict[str, Any]:
    vault = {
        "name": "vault",
        "organization": "acme",
        "instances": [agent_port().url],
        "websocket_auth": "token",
    }
    return {"agents": [vault]}


def base64_of(data: bytes) -> str:
    return quote(base64.b64encode(data).decode(), safe="")


TOO_LONG = base64_of(json.dumps("x" * 4095).encode())
REFUSALS = [
    # Paths and carriers
    ("/", 404, "not_found"),
    ("/ws", 404, "not_found"),
    ("/ws/", 404, "not_found"),
    ("/ws/vonage", 404, "not_found"),
    ("/ws/vonage/support.acme", 404, "not_found"),
    ("/WS/twilio/support.acme", 404, "not_found"),
    ("/media/twilio/support.acme", 404, "not_found"),
    ("/ws/twilio/support.acme/token/more", 404, "not_found"),
    ("/ws/generic/a/b/c/d/e/f", 404, "not_found"),
    ("/status", 404, "not_found"),
    ("/ws/%00", 404, "not_found"),
    ("/ws/%ff%fe", 404, "not_found"),
    ("//ws/twilio", 404, "not_found"),
    # A proxy that merges slashes takes these for paths below /ws/; nothing before /ws/ is passed over.
    ("//ws/ws/twilio/support.acme", 404, "not_found"),
    ("//elsewhere/ws/generic/support.acme", 404, "not_found"),
    ("//ws/v1/public/support/sessions/0/ws", 404, "not_found"),
    # Agents
    ("/ws/generic", 400, "bad_request"),
    ("/ws/generic/notaservicehost", 400, "bad_request"),
    ("/ws/generic?serviceHost=", 400, "bad_request"),
    ("/ws/twilio?serviceHost=Support.ACME", 400, "bad_request"),
    ("/ws/twilio?serviceHost=..%2F", 400, "bad_request"),
    # The body for the agent
    ("/ws/twilio/support.acme?body=%21%21%21", 400, "bad_request"),
    ("/ws/twilio/support.acme?body=abc", 400, "bad_request"),
    ("/ws/twilio/support.acme?body=%C3%A9", 400, "bad_request"),
    (f"/ws/twilio/support.acme?body={base64_of(b'no JSON')}", 400, "bad_request"),
    (f"/ws/twilio/support.acme?body={base64_of(b'{')}", 400, "bad_request"),
    (f"/ws/twilio/support.acme?body={base64_of(b'[' * 4000)}", 400, "bad_request"),
    (f"/ws/twilio/support.acme?body={base64_of(bytes(range(256)))}", 400, "bad_request"),
    (f"/ws/twilio/support.acme?body={base64_of(b'{}')}&body={base64_of(b'{}')}", 400, "bad_request"),
    (f"/ws/twilio/support.acme?body={TOO_LONG}", 413, "too_large"),
    (f"/ws/generic/support.acme?body={TOO_LONG}", 413, "too_large"),
    # Tokens, of which none were given out
    ("/ws/generic/vault.acme", 403, "unauthorized"),
    ("/ws/twilio/vault.acme", 403, "unauthorized"),
    ("/ws/telnyx/vault.acme/a-token", 403, "unauthorized"),
    ("/ws/telnyx/a-token?serviceHost=vault.acme", 403, "unauthorized"),
]


@pytest.mark.parametrize(("target", "status", "code"), REFUSALS)
async def test_refused_before_the_upgrade(
    gateway: Gateway, support: Agent, target: str, status: int, code: str
) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial(target)
    assert caller.refusal == (status, code)
    assert caller.json["error"]
    assert caller.headers["content-type"] == "application/json"
    assert caller.headers["connection"] == "close"
    await assert_refused(gateway, before, code)
    assert support.upgrades == 0
    await assert_next_call_works(gateway, support)


@pytest.mark.parametrize(
    "target", ["/ws/generic/nobody.acme", "/ws/twilio/nobody.acme", "/ws/twilio?serviceHost=support.nowhere"]
)
async def test_a_name_that_no_agent_has_is_refused_as_one_that_wants_a_token(
    gateway: Gateway, support: Agent, target: str
) -> None:
    before = len(gateway.ends())
    assert (await gateway.dial(target)).refusal == (403, "unauthorized")
    await assert_refused(gateway, before, "unknown_agent")
    assert support.upgrades == 0


@pytest.mark.parametrize("carrier", [*CARRIERS, "generic"])
async def test_a_token_of_another_secret_is_refused_wherever_it_stands(
    gateway: Gateway, carrier: str
) -> None:
    before = len(gateway.ends())
    headers: dict[str, str | None] = {"Authorization": "Bearer eyJhbGciOi"}
    caller = await gateway.dial(f"/ws/{carrier}/vault.acme?token=eyJ", headers=headers)
    assert caller.refusal == (403, "unauthorized")
    await assert_refused(gateway, before, "unauthorized")


async def test_an_agent_that_requires_a_token_named_by_parameter(gateway: Gateway) -> None:
    """Twilio drops the query, so it is only known once the socket is open (docs/reference/public-api.md)."""
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio")
    for message in opening("twilio", {"_pipecatCloudServiceHost": "vault.acme"}):
        caller.say(message)
    assert (await caller.closed())[0] == 1008
    await assert_refused(gateway, before, "unauthorized")


BROKEN_HANDSHAKES: list[dict[str, str | None]] = [
    {"Sec-WebSocket-Key": None},
    {"Sec-WebSocket-Key": "short"},
    {"Sec-WebSocket-Version": None},
    {"Sec-WebSocket-Version": "8"},
    {"Sec-WebSocket-Version": "8, 13"},
]


@pytest.mark.parametrize("headers", BROKEN_HANDSHAKES, ids=str)
@pytest.mark.parametrize("carrier", ["twilio", "generic"])
async def test_a_request_that_is_no_websocket_handshake(
    gateway: Gateway, support: Agent, carrier: str, headers: dict[str, str | None]
) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial(f"/ws/{carrier}/support.acme", headers=headers)
    assert caller.refusal == (400, "bad_request")
    await assert_refused(gateway, before, "bad_request")
    assert support.upgrades == 0, "no agent is started for it"
    await assert_next_call_works(gateway, support)


async def test_extensions_and_subprotocols_are_not_negotiated(gateway: Gateway, support: Agent) -> None:
    """Compressed frames could not be passed on as they came (architecture.md, decision 2)."""
    headers: dict[str, str | None] = {
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Protocol": "audio",
    }
    caller = await gateway.dial("/ws/generic/support.acme", headers=headers)
    assert caller.status == 101
    assert not {"sec-websocket-extensions", "sec-websocket-protocol"} & caller.headers.keys()
    taken = await support.call()
    assert not {"sec-websocket-extensions", "sec-websocket-protocol"} & taken.headers.keys()


NO_REQUESTS = [
    b"\r\n\r\n",
    b"HELLO\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET //[x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET http://[x/ws/twilio HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /ws/twilio HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /ws/tw\xffilio HTTP/1.1\r\nHost: \xff\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"POST /ws/twilio HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /ws/twilio HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /ws/twilio HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: "
    + b"x" * 9000
    + b"\r\n\r\n",
    b"GET /ws/twilio HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    + b"".join(b"X%d: y\r\n" % number for number in range(200))
    + b"\r\n",
    b"GET /ws/twilio/"
    + b"x" * 9000
    + b" HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
]


@pytest.mark.parametrize("raw", NO_REQUESTS, ids=lambda raw: repr(raw[:40]))
async def test_bytes_that_are_no_http_request(gateway: Gateway, support: Agent, raw: bytes) -> None:
    """Whatever they are, the answer is the sender's fault (4xx) or the end; nothing of ours breaks."""
    reader, writer = await open_socket(gateway.port)
    peer = WebSocketPeer(reader, writer, masks=True)
    peer.send(raw)
    peer.half_close()
    answer = await peer.ended()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    # The others never were an upgrade: no request, or a head that is refused as a whole.
    gateway.upgrades += b'"code": "bad_request"' in answer or b'"code": "not_found"' in answer
    await peer.leave()
    assert "internal_error" not in [line["reason"] for line in gateway.ends()]
    await assert_next_call_works(gateway, support)
