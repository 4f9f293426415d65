# SPDX-License-Identifier: BSD-2-Clause
"""`POST /v1/sessions`: what starts, the answers, the refusals."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.calls.target import read_target
from serializers.registry import DIALECTS
from tests.harness.daily_server import rate_limits
from tests.harness.failing_server import fails, stalls
from tests.harness.token_use import redeem

BOT = {"agent": "support", "transport": {"type": "bot"}}
SOCKET = {"agent": "support", "transport": {"type": "websocket"}}
ROOM = {"agent": "support", "transport": {"type": "daily"}}


# The agent alone


async def test_an_agent_is_started_with_its_session_id_and_body(worker: Any, bot_agent: Any) -> None:
    session = await worker.starts(body={"name": "Ada", "ü": [1, 2.5, None]})
    told = await bot_agent.next()
    assert told.session == session["id"]
    assert told.body == {"name": "Ada", "ü": [1, 2.5, None]}
    assert {name for name in told.headers if name.startswith("x-daily")} == {"x-daily-session-id"}
    assert session == await worker.shows(session["id"])
    assert session["object"] == "session"
    assert session["agent"] == "support.acme"
    assert session["status"] == "running"
    assert session["created_at"] == session["started_at"] == "2026-01-31T09:30:00.250Z"
    assert session["ended_at"] is session["failed_at"] is session["failure"] is None
    assert session["usage"] == {"seconds": 0.0, "frames_in": 0, "frames_out": 0}
    assert session["transport"] == {
        "type": "bot",
        "url": None,
        "token": None,
        "expires_at": None,
        "carrier": None,
    }
    assert (session["idle_timeout_seconds"], session["max_duration_seconds"]) == (30, 900)
    assert session["metadata"] is session["transcript"] is session["results"] is None


async def test_without_a_body_the_agent_gets_an_empty_object(worker: Any, bot_agent: Any) -> None:
    await worker.starts(agent="support.acme")
    assert (await bot_agent.next()).body == {}


async def test_the_answer_has_the_sessions_location(worker: Any) -> None:
    reply = await worker("POST", "/v1/sessions", BOT, X_Request_Id="my-request.1")
    assert reply.headers["Location"] == f"/v1/sessions/{reply.json['id']}"
    assert reply.headers["X-Request-Id"] == "my-request.1"


async def test_the_session_ends_with_the_agents_request(worker: Any, bot_agent: Any, clock: Any) -> None:
    session = await worker.starts()
    clock.now += 62.5
    (await bot_agent.next()).ends.set()
    reply = await worker("GET", f"/v1/sessions/{session['id']}?wait_for_completion=true")
    assert (reply.json["status"], reply.json["end_reason"]) == ("ended", "agent_ended")
    assert reply.json["ended_at"] == "2026-01-31T09:31:02.750Z"
    assert reply.json["usage"]["seconds"] == 62.5


async def test_at_capacity_is_503_with_retry_after(worker: Any) -> None:
    for _ in range(2):
        await worker.starts()
    for wanted in (BOT, ROOM):
        reply = await worker("POST", "/v1/sessions", wanted)
        assert reply.refuses(503, "at_capacity", "service_unavailable")
        assert reply.headers["Retry-After"] == "5"


async def test_an_agent_that_fails_is_502_and_frees_its_slot(worker: Any, bot_agent: Any) -> None:
    bot_agent.status = 500
    for _ in range(3):
        reply = await worker("POST", "/v1/sessions", BOT)
        if reply.status == 201:  # it had taken the request before it failed, which is a session that failed
            reply = await worker("GET", f"/v1/sessions/{reply.json['id']}?wait_for_completion=true")
            assert (reply.json["status"], reply.json["failure"]["code"]) == ("failed", "agent_failed")
        else:
            assert reply.refuses(502, "agent_failed", "service_unavailable")


async def test_an_agent_that_is_not_there_is_502(worker: Any, bot_agent: Any) -> None:
    await bot_agent.stop()
    assert (await worker("POST", "/v1/sessions", BOT)).refuses(
        502, "agent_unreachable", "service_unavailable"
    )
    (session,) = (await worker("GET", "/v1/sessions?status=failed")).json["data"]
    assert session["failure"]["code"] == "agent_unreachable"
    assert session["failure"]["message"].startswith("connecting to the agent failed")
    assert session["failed_at"] == session["ended_at"] == "2026-01-31T09:30:00.250Z"
    assert session["started_at"] is None


async def test_a_draining_gateway_is_503(worker: Any) -> None:
    worker.wiring.active.draining = True
    for wanted in (BOT, SOCKET, ROOM):
        assert (await worker("POST", "/v1/sessions", wanted)).refuses(503, "draining", "service_unavailable")


# A socket of the caller's


async def test_a_pending_session_has_a_url_and_a_token(worker: Any, settings: Any) -> None:
    session = await worker.starts(**SOCKET, metadata={"ticket": "4711"})
    assert (session["status"], session["started_at"]) == ("created", None)
    assert (session["idle_timeout_seconds"], session["max_duration_seconds"]) == (30, 900)
    transport = session["transport"]
    assert transport["url"] == "wss://us-west.voice.example.com/ws/generic/support.acme"
    assert transport["expires_at"] == "2026-01-31T09:35:00.250Z"
    redeemed = await redeem(worker.tokens, transport["token"], "support.acme", "acme")
    assert redeemed.session_id == session["id"]


async def test_the_socket_of_another_region_is_on_its_host(worker: Any) -> None:
    session = await worker.starts(agent="sales", transport={"type": "websocket"})
    assert session["transport"]["url"] == "wss://us-east.voice.example.com/ws/generic/sales.acme"


async def test_the_body_for_a_socket_is_in_its_url_and_bound_to_its_token(worker: Any, settings: Any) -> None:
    session = await worker.starts(**SOCKET, body={"??>": "ÿþ~"})
    target = read_target(
        urlsplit(session["transport"]["url"]),
        "voice.example.com",
        carriers=DIALECTS.keys(),
        regions=[],
        region="us-west",
        max_body_bytes=4096,
    )
    assert target.body is not None
    assert json.loads(base64.b64decode(target.body)) == {"??>": "ÿþ~"}
    redeemed = await redeem(worker.tokens, session["transport"]["token"], "support.acme", "acme")
    assert redeemed.allows(target.body)
    assert not redeemed.allows(base64.b64encode(b"{}").decode())


async def test_a_body_needs_a_socket_with_a_token(worker: Any) -> None:
    reply = await worker("POST", "/v1/sessions", SOCKET | {"agent": "sales", "body": {}})
    assert reply.refuses(400, "bad_request", "invalid_request")
    assert (await worker("GET", "/v1/sessions")).json["total"] == 0


async def test_url_and_token_are_in_one_answer_only(worker: Any) -> None:
    session = await worker.starts(**SOCKET, body={"secret": "s3cret"})
    token = session["transport"]["token"]
    shown = await worker.shows(session["id"])
    assert shown["transport"] == {
        "type": "websocket",
        "url": "[redacted]",
        "token": "[redacted]",
        "expires_at": "2026-01-31T09:35:00.250Z",
        "carrier": None,
    }
    for path in ("", f"/{session['id']}"):
        assert token not in json.dumps((await worker("GET", f"/v1/sessions{path}")).json)
    stopped = await worker("POST", f"/v1/sessions/{session['id']}/stop")
    assert token not in json.dumps(stopped.json)


# A room at Daily


async def test_a_room_is_created_and_the_agent_gets_it(
    worker: Any, bot_agent: Any, daily_server: Any, clock: Any
) -> None:
    transport = {"type": "daily", "room_properties": {"geo": "eu-central-1"}}
    transport["token_properties"] = {"user_name": "Ada"}
    session = await worker.starts(transport=transport, max_duration_seconds=600)
    (room,) = daily_server.rooms.values()
    token = daily_server.token(is_owner=False)
    properties = daily_server.tokens[token]
    assert session["transport"]["url"] == room["url"]
    assert session["transport"]["token"] == token
    assert room["config"]["geo"] == "eu-central-1"
    assert properties["user_name"] == "Ada"
    assert properties["room_name"] == room["name"]
    assert room["config"]["exp"] == int(clock.now) + 600
    told = await bot_agent.next()
    assert told.headers["x-daily-room-url"] == room["url"]
    assert told.headers["x-daily-room-token"] == daily_server.token(is_owner=True)
    assert told.headers["x-daily-transport-type"] == "daily"
    shown = await worker.shows(session["id"])
    assert (shown["transport"]["url"], shown["transport"]["token"]) == ("[redacted]", "[redacted]")


@pytest.mark.parametrize(
    ("transport", "words"),
    [
        ({"room_properties": {"enable_dialout": True}}, "enable_dialout"),
        ({"token_properties": {"is_owner": True}}, "is_owner"),
    ],
)
async def test_a_property_that_the_operator_has_not_allowed(
    worker: Any, daily_server: Any, transport: dict[str, Any], words: str
) -> None:
    """A private key is held to the same list: it is the organisation's, not the operator's."""
    new = {"agent": "support", "transport": {"type": "daily"} | transport}
    reply = await worker("POST", "/v1/sessions", new)
    assert reply.refuses(403, "property_refused", "permission")
    assert words in reply.json["error"]["message"]
    assert daily_server.seen == []


async def test_the_room_is_deleted_if_the_agent_does_not_start(
    worker: Any, bot_agent: Any, daily_server: Any
) -> None:
    bot_agent.status = 500
    reply = await worker("POST", "/v1/sessions", ROOM)
    assert reply.refuses(502, "agent_failed", "service_unavailable")
    assert len(daily_server.requests_of("create_room")) == 1
    assert daily_server.rooms == {}


@pytest.mark.parametrize("operation", ["create_room", "create_token"])
@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (fails(401, "authentication-error"), "daily_refused"),
        (fails(500), "daily_broken"),
        (rate_limits("7"), "daily_rate_limited"),
    ],
)
async def test_a_daily_that_refuses_is_502_and_nothing_is_left(
    operation: str, behaviour: Any, code: str, worker: Any, bot_agent: Any, daily_server: Any
) -> None:
    daily_server.next(operation, behaviour)
    reply = await worker("POST", "/v1/sessions", ROOM)
    assert reply.refuses(502, code, "service_unavailable")
    assert daily_server.rooms == {}
    assert bot_agent.started == []
    assert (await worker("GET", "/v1/sessions")).json["total"] == 0


async def test_a_daily_that_does_not_answer_is_504(
    worker: Any, daily_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.carriers.daily.rest.Daily.__init__.__kwdefaults__", {"timeout_s": 0.05})
    daily_server.next("create_room", stalls)
    reply = await worker("POST", "/v1/sessions", ROOM)
    assert reply.refuses(504, "daily_timeout", "service_unavailable")


async def test_no_room_is_created_while_all_slots_are_taken(worker: Any, daily_server: Any) -> None:
    for _ in range(2):
        await worker.starts()
    assert (await worker("POST", "/v1/sessions", ROOM)).refuses(503, "at_capacity", "service_unavailable")
    assert daily_server.seen == []


async def test_without_a_domain_at_daily_there_is_no_room(worker: Any) -> None:
    reply = await worker("POST", "/v1/sessions", ROOM, key="sk_globex")
    assert reply.refuses(400, "bad_request", "invalid_request")


async def test_an_invalid_expiry_is_refused(worker: Any, daily_server: Any) -> None:
    transport = {"type": "daily", "room_properties": {"exp": "tomorrow"}}
    reply = await worker("POST", "/v1/sessions", ROOM | {"transport": transport})
    assert reply.refuses(400, "bad_request", "invalid_request")
    assert daily_server.seen == []


# What is given back


@pytest.mark.parametrize("metadata", [{"ticket": "4711", "": "ü\u0000", "avatar.": "", "_": "a"}, {}])
async def test_metadata_is_returned_with_the_session(metadata: Any, worker: Any) -> None:
    for wanted in (BOT, SOCKET):
        session = await worker.starts(**wanted, metadata=metadata)
        session_id = session["id"]
        assert session["metadata"] == metadata
        assert (await worker.shows(session_id))["metadata"] == metadata
        assert (await worker("GET", "/v1/sessions")).json["data"][0]["metadata"] == metadata
        if wanted is BOT:
            reply = await worker("POST", f"/v1/sessions/{session_id}/complete", {"results": {}})
            assert reply.json["metadata"] == metadata
        stopped = await worker("POST", f"/v1/sessions/{session_id}/stop")
        assert stopped.json["metadata"] == metadata
        await worker("GET", f"/v1/sessions/{session_id}?wait_for_completion=true")


async def test_metadata_has_8_kb_of_utf_8_at_most(worker: Any) -> None:
    fits = {"text": "ü" * ((8192 - len('{"text":""}')) // 2)}
    size = len(json.dumps(fits, ensure_ascii=False, separators=(",", ":")).encode())
    assert size in (8191, 8192)
    padded = {"text": fits["text"] + "x" * (8192 - size)}
    assert (await worker.starts(metadata=padded))["metadata"] == padded
    reply = await worker("POST", "/v1/sessions", BOT | {"metadata": {"text": padded["text"] + "x"}})
    assert reply.refuses(422, "invalid_parameter", "unprocessable", "metadata")
    assert "8193" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ({"idle_timeout_seconds": 1, "max_duration_seconds": 1}, (1, 1)),
        ({"idle_timeout_seconds": 600, "max_duration_seconds": 899}, (600, 899)),
        ({"idle_timeout_seconds": 600, "max_duration_seconds": 14400}, (600, 900)),  # the agent's is shorter
    ],
)
async def test_limits_at_their_bounds_are_accepted(worker: Any, wanted: Any, held: Any) -> None:
    session = await worker.starts(transport={"type": "websocket"}, **wanted)
    assert (session["idle_timeout_seconds"], session["max_duration_seconds"]) == held
    record = await worker.store.session(session["id"])
    assert (record.idle_timeout, record.max_duration) == held


# What is refused


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"agent": None}, "agent"),
        ({"agent": ""}, "agent"),
        ({"agent": "../support"}, "agent"),
        ({"agent": "support.acme.more"}, "agent"),
        ({"agent": "a" * 129}, "agent"),
        ({"transport": None}, "transport"),
        ({"transport": {}}, "transport"),
        ({"transport": "websocket"}, "transport"),
        ({"transport": {"type": "bot", "room_properties": {}}}, "transport.bot.room_properties"),
        ({"transport": {"type": "daily", "room_properties": 1}}, "transport.daily.room_properties"),
        ({"idle_timeout_seconds": 0}, "idle_timeout_seconds"),
        ({"idle_timeout_seconds": 601}, "idle_timeout_seconds"),
        ({"idle_timeout_seconds": "30"}, "idle_timeout_seconds"),
        ({"idle_timeout_seconds": True}, "idle_timeout_seconds"),
        ({"idle_timeout_seconds": None}, "idle_timeout_seconds"),
        ({"max_duration_seconds": 0}, "max_duration_seconds"),
        ({"max_duration_seconds": 14401}, "max_duration_seconds"),
        ({"max_duration_seconds": 1.5}, "max_duration_seconds"),
        ({"metadata": {"text": "x" * 8192}}, "metadata"),
        ({"metadata": {"ticket": 4711}}, "metadata.ticket"),
        ({"metadata": {"nested": {"a": "b"}}}, "metadata.nested"),
        ({"metadata": {"nothing": None}}, "metadata.nothing"),
        ({"metadata": "text"}, "metadata"),
        ({"metadata": ["text"]}, "metadata"),
        ({"metadata": {"_avatar.voice": "a"}}, "metadata"),
        ({"metadata": {"_patchbay.a": "a"}}, "metadata"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_an_invalid_session_is_refused(
    change: dict[str, Any], param: str, worker: Any, bot_agent: Any
) -> None:
    reply = await worker("POST", "/v1/sessions", BOT | change)
    assert reply.refuses(422, "invalid_parameter", "unprocessable", param)
    assert bot_agent.started == []


async def test_an_agent_and_a_transport_are_needed(worker: Any) -> None:
    reply = await worker("POST", "/v1/sessions", {})
    assert reply.refuses(422, "invalid_parameter", "unprocessable", "agent")


PROTOFACE = {
    "avatar_id": "av_demo",
    "idle_timeout_seconds": 30,
    "max_duration_seconds": 600,
    "metadata": {"customer_session_id": "abc123"},
    "quality": "standard",
    "transport": {
        "room_name": "demo-room",
        "type": "livekit",
        "url": "wss://my-app.livekit.cloud",
        "worker_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...",
    },
}
"""A request to a service that this resource is like, whose transport this gateway does not have."""


@pytest.mark.parametrize(
    "wanted",
    [
        PROTOFACE,
        BOT | {"transport": {"type": "pipecat"}},
        BOT | {"transport": {"type": "webrtc"}},
        BOT | {"transport": {"type": "livekit"}, "body": "x" * 100_000},
        BOT | {"transport": {"type": 1}, "unknown": 1},
    ],
)
async def test_a_transport_that_is_not_served_has_a_code_of_its_own(
    wanted: Any, worker: Any, bot_agent: Any
) -> None:
    reply = await worker("POST", "/v1/sessions", wanted)
    assert reply.refuses(400, "transport.unsupported", "invalid_request", "transport.type")
    assert "'websocket', 'bot', 'daily'" in reply.json["error"]["message"]
    assert bot_agent.started == []


@pytest.mark.parametrize("agent", ["unknown", "support.globex", "support.unknown", "acme"])
async def test_another_organisations_agent_is_unknown(agent: str, worker: Any) -> None:
    for transport in ("bot", "websocket", "daily"):
        reply = await worker("POST", "/v1/sessions", {"agent": agent, "transport": {"type": transport}})
        assert reply.refuses(404, "unknown_agent", "not_found")


@pytest.mark.parametrize(
    ("transport", "most"), [("bot", 1_000_000), ("websocket", 4096), ("daily", 1_000_000)]
)
async def test_a_body_has_its_limit(
    transport: str, most: int, worker: Any, bot_agent: Any, daily_server: Any
) -> None:
    wanted = {"transport": {"type": transport}, "body": "x" * (most - 2)}
    too_much = {"agent": "support", "transport": {"type": transport}, "body": "x" * (most - 1)}
    reply = await worker("POST", "/v1/sessions", too_much)
    assert reply.refuses(413, "too_large", "invalid_request")
    assert (bot_agent.started, daily_server.seen) == ([], [])
    await worker.starts(**wanted)


@pytest.mark.parametrize(
    ("key", "status", "code", "kind"),
    [
        (None, 401, "unauthorized", "authentication"),
        ("sk_wrong", 401, "unauthorized", "authentication"),
        ("pk_acme", 403, "private_key_needed", "permission"),
    ],
)
async def test_every_request_needs_a_private_key(
    key: str | None, status: int, code: str, kind: str, worker: Any
) -> None:
    for method, path in [
        ("POST", "/v1/sessions"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/1"),
        ("POST", "/v1/sessions/1/stop"),
        ("POST", "/v1/sessions/1/complete"),
    ]:
        assert (await worker(method, path, key=key)).refuses(status, code, kind)


# Idempotency-Key


async def test_the_same_key_and_body_start_once(worker: Any, bot_agent: Any) -> None:
    first = await worker("POST", "/v1/sessions", BOT, Idempotency_Key="one")
    again = await worker("POST", "/v1/sessions", BOT, Idempotency_Key="one")
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["Location"] == first.headers["Location"]
    assert (await bot_agent.next()).session == first.json["id"]
    assert len(bot_agent.started) == 1
    other = await worker("POST", "/v1/sessions", BOT, Idempotency_Key="two")
    assert other.json["id"] != first.json["id"]


async def test_another_body_with_the_same_key_is_a_conflict(worker: Any) -> None:
    await worker("POST", "/v1/sessions", BOT, Idempotency_Key="one")
    reply = await worker("POST", "/v1/sessions", SOCKET, Idempotency_Key="one")
    assert reply.refuses(409, "idempotency_key_reused", "conflict", "Idempotency-Key")


async def test_a_malformed_key_is_refused(worker: Any, bot_agent: Any) -> None:
    for key in ("x" * 256, "ü"):
        reply = await worker("POST", "/v1/sessions", BOT, Idempotency_Key=key)
        assert reply.refuses(400, "bad_idempotency_key", "invalid_request", "Idempotency-Key")
    assert bot_agent.started == []
