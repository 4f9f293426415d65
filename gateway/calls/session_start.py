# SPDX-License-Identifier: BSD-2-Clause
"""What it takes to start a session, whichever resource was asked for it (docs/reference/public-api.md,
"Start").

A start that fails leaves nothing: no place, no session that runs, no room at Daily.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from gateway.api.framework.errors import ApiError
from gateway.api.framework.services import Services
from gateway.api.framework.strict_json import dump
from gateway.auth.media_tokens import TOKEN_S
from gateway.calls.bot_session import BotRequest
from gateway.calls.media_url import media_url
from gateway.carriers.daily.rest import Daily, DailyFailed, Room
from gateway.config import AgentSettings
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionOptions

log = structlog.get_logger(__name__)

Transport = Literal["bot", "daily", "webrtc", "websocket"]
"""How the caller's sound comes; "bot" is a start without more, whose agent finds its caller by itself."""

MAX_BODY_BYTES: Final = 1_000_000
"""Of the JSON for the agent; for a media socket `[limits] max_body_bytes` holds, as it does there."""


DIALOUT: Final = "dialout_settings"
"""In a start's `body`: whom the agent is to call from its room (docs/reference/carriers.md §6.5)."""


@dataclass(frozen=True, slots=True)
class Telephone:
    """The call that a session is for, where it is one: the carrier's id of it, caller and called number."""

    call_id: str
    from_number: str
    to_number: str


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What is to be started.

    `body`: any JSON for the agent, None for none. `room_properties`, `token_properties`: Daily's.
    `metadata`: JSON text. `idle_timeout`, `max_duration`: seconds, None for the agent's own; a session lasts
    no longer than its agent allows. `session_id`: where it was given out already; None makes one.
    """

    agent: AgentSettings
    transport: Transport
    body: Any = None
    room_properties: Mapping[str, Any] | None = None
    token_properties: Mapping[str, Any] | None = None
    metadata: str | None = None
    idle_timeout: float | None = None
    max_duration: float | None = None
    call: Telephone | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class StartedSession:
    """What was started. What the transport does not have is None.

    `body`: base64 of the JSON, for the socket's query. `expires_at`: Unix seconds, when the socket must have
    come, or the room is over.
    """

    session_id: str
    room_url: str | None = None
    room_token: str | None = None
    ws_url: str | None = None
    ws_token: str | None = None
    body: str | None = None
    expires_at: float | None = None


def agent_of(services: Services, organization: str, name: str) -> AgentSettings:
    """The organisation's agent of this name, in whatever region. Raises CallEnded(unknown_agent)."""
    for agent in services.agents.agents:
        if (agent.organization, agent.name) == (organization, name):
            return agent
    raise CallEnded(Reasons.unknown_agent, "there is no agent of this name")


async def start_session(
    services: Services, wish: SessionRequest, address: tuple[str, int] | None
) -> StartedSession:
    """Starts a session. `address`: of this gateway, as the caller reached it; where no public URL is set.

    Raises CallEnded as `BotSessions.start` does, and bad_request, too_large and draining; ApiError where
    Daily did not
    do what it was asked; StoreFailed.
    """
    if services.active.draining:
        raise CallEnded(Reasons.draining)
    body = dump({} if wish.body is None else wish.body)
    most = services.settings.limits.max_body_bytes if wish.transport == "websocket" else MAX_BODY_BYTES
    if len(body) > most:
        raise CallEnded(Reasons.too_large, f"body has {len(body)} bytes of JSON, {most} are allowed")
    if wish.transport == "websocket":
        return await _promise(services, wish, body, address)
    if wish.transport == "daily":
        return await _start_in_room(services, wish, body)
    headers = {"x-daily-transport-type": "webrtc"} if wish.transport == "webrtc" else {}
    return StartedSession(await _start(services, wish, headers, body))


async def _start(services: Services, wish: SessionRequest, headers: Mapping[str, str], body: bytes) -> str:
    details, options = _details(services, wish), _options(services, wish)
    await services.bots.start(wish.agent, details, options, BotRequest(headers, body, longest_s(wish)))
    return details.session_id


async def _start_in_room(services: Services, wish: SessionRequest, body: bytes) -> StartedSession:
    """The room comes first, because the agent is told it; a place is taken after that."""
    daily = _daily_of(services, wish.agent.organization)
    await services.bots.check(wish.agent)
    expires_at = services.now() + longest_s(wish)
    try:
        room = await daily.create_room(_room_properties(wish), expires_at=expires_at)
        async with _deleted_unless_used(daily, room):
            token = await daily.create_token(room.name, wish.token_properties, expires_at=expires_at)
            headers = {
                "x-daily-transport-type": "daily",
                "x-daily-room-url": room.url,
                "x-daily-room-token": token,
            }
            session_id = await _start(services, wish, headers, body)
    except DailyFailed as failure:
        wait = {} if failure.retry_after is None else {"Retry-After": str(failure.retry_after)}
        raise ApiError(failure.status, f"daily_{failure.reason}", failure.detail, headers=wait) from None
    except ValueError as error:  # of the caller's properties
        raise CallEnded(Reasons.bad_request, str(error)) from None
    return StartedSession(session_id, room_url=room.url, room_token=token, expires_at=expires_at)


def _room_properties(wish: SessionRequest) -> Mapping[str, Any] | None:
    """The caller's. An agent that is to call somebody needs a room that may (docs/reference/carriers.md
    §6.4).
    """
    if isinstance(wish.body, Mapping) and wish.body.get(DIALOUT):
        return {"enable_dialout": True, **(wish.room_properties or {})}
    return wish.room_properties


@asynccontextmanager
async def _deleted_unless_used(daily: Daily, room: Room) -> AsyncIterator[None]:
    used = False
    try:
        yield
        used = True
    finally:
        if not used:
            try:
                await daily.delete_room(room.name)
            except DailyFailed as failure:  # its expiry ends it, then
                log.warning("room left at Daily until it expires", reason=failure.reason)


def _daily_of(services: Services, organization: str) -> Daily:
    owner = services.settings.find_organization(organization)
    if owner is not None and owner.daily is not None:
        return Daily(services.http, owner.daily.api_key.get_secret_value(), owner.daily.api_url)
    detail = (
        "this organisation has no domain at Daily: the operator sets one as [organizations.daily] api_key"
    )
    raise CallEnded(Reasons.bad_request, detail)


async def _promise(
    services: Services, wish: SessionRequest, json_body: bytes, address: tuple[str, int] | None
) -> StartedSession:
    """No agent starts: it does when the socket comes, under this session's id."""
    agent = wish.agent
    body = None if wish.body is None else base64.b64encode(json_body).decode("ascii")
    if body is not None and agent.websocket_auth == "none":
        detail = "body goes to a media socket only with a token: the agent's websocket_auth is none"
        raise CallEnded(Reasons.bad_request, detail)
    details = _details(services, wish)
    now = services.now()
    expires_at = now + TOKEN_S
    await services.store.promise(details, _options(services, wish), now, expires_at)
    token = services.tokens.mint(agent.service_host, agent.organization, details.session_id, body)
    return StartedSession(
        details.session_id,
        ws_url=media_url(services.settings, agent, address),
        ws_token=token,
        body=body,
        expires_at=expires_at,
    )


def longest_s(wish: SessionRequest) -> float:
    """How long the session may last, in seconds."""
    allowed = float(wish.agent.max_session_duration)
    return allowed if wish.max_duration is None else min(wish.max_duration, allowed)


def _details(services: Services, wish: SessionRequest) -> CallDetails:
    call = wish.call
    return CallDetails(
        session_id=wish.session_id or services.new_id(),
        agent=wish.agent.service_host,
        organization=wish.agent.organization,
        region=wish.agent.region,
        carrier="generic" if wish.transport == "websocket" else wish.transport,
        call_id=call.call_id if call else None,
        stream_id=None,
        from_number=call.from_number if call else None,
        to_number=call.to_number if call else None,
    )


def _options(services: Services, wish: SessionRequest) -> SessionOptions:
    return SessionOptions(
        transport=wish.transport,
        start_type=services.calls.capacity.start_type(wish.agent),
        metadata=wish.metadata,
        idle_timeout=wish.idle_timeout,
        max_duration=wish.max_duration,
    )
