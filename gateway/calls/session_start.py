# SPDX-License-Identifier: BSD-2-Clause
"""The start of a session that no carrier's stream begins, whichever API resource asked for it
(docs/reference/public-api.md, "Start").

    bot         POST /bot to the agent, which finds its caller by itself; webrtc likewise
    daily       create a room at Daily, then POST /bot with the room and a token
    websocket   store a pending session and return the URL and token of its media socket

A start waits for a cold agent as a call does, `agent_connect_timeout` at most. One that fails leaves nothing:
no running session, no room at Daily, and no slot unless the agent had been asked already (slot_release.py).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from gateway.auth.media_tokens import TOKEN_S
from gateway.calls.active import ActiveCalls
from gateway.calls.bot_session import BotRequest, BotSessions
from gateway.calls.capacity import with_limits
from gateway.calls.services import CallServices
from gateway.calls.spending import CallRateLimiter, check_destinations, destinations
from gateway.carriers.daily.rest import Daily, DailyFailed, Room
from gateway.carriers.daily.room_properties import (
    DIALOUT,
    OWNER,
    PropertyRefused,
    check_room_properties,
    check_token_properties,
)
from gateway.config import AgentSettings, DailySettings, Organization, Settings
from gateway.model.addresses import host_in_region
from gateway.model.json_text import JsonText, dump
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, PendingLimit, SessionOptions
from gateway.store.interface import AtCapacity

log = structlog.get_logger(__name__)

Transport = Literal["bot", "daily", "webrtc", "websocket"]
"""How the caller's audio reaches the agent; "bot": the agent finds its caller by itself."""

MAX_BODY_BYTES: Final = 1_000_000
"""Limit of the JSON for an agent; for a media socket `[limits] max_body_bytes` applies, as it does there."""

MAX_SETTINGS_BYTES: Final = 16_384
"""Limit of `dialout_settings` in a large body."""

DIALOUT_SETTINGS: Final = "dialout_settings"
"""The member of a start's `body` with the numbers that the agent is to call from its room
(docs/reference/carriers.md §6.5).
"""


@dataclass(frozen=True, slots=True)
class SessionStartServices:
    """The services that starting a session uses. `http`: a client for Daily's REST API."""

    calls: CallServices
    active: ActiveCalls
    bots: BotSessions
    http: aiohttp.ClientSession


@dataclass(frozen=True, slots=True)
class Telephone:
    """The telephone call that a session is for: the carrier's call id, the caller's and the called number.

    A number is None if the carrier does not tell it.
    """

    call_id: str
    from_number: str | None
    to_number: str | None


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A request to start one session.

    `body`: any JSON value for the agent, None for none. `room_properties`, `token_properties`: Daily's, as
    the client wishes them; `own_room_properties`: as the gateway sets them. `metadata`: JSON text.
    `idle_timeout`, `max_duration`: seconds, None for the agent's own; a session never lasts longer than its
    agent allows. `session_id`: None to make one. `key_id`: of the API key that asks, None for a webhook.
    """

    agent: AgentSettings
    transport: Transport
    body: Any = None
    room_properties: Mapping[str, Any] | None = None
    token_properties: Mapping[str, Any] | None = None
    own_room_properties: Mapping[str, Any] | None = None
    metadata: str | None = None
    idle_timeout: float | None = None
    max_duration: float | None = None
    call: Telephone | None = None
    session_id: str | None = None
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class StartedSession:
    """A session that was started. What its transport does not have is None.

    `room_token`: the client's, which is no owner's. `body`: base64 of the JSON, for the query of the media
    socket's URL. `expires_at`: Unix seconds, at which
    the media socket must have been opened, or the room is deleted.
    """

    session_id: str
    room_url: str | None = None
    room_token: str | None = None
    ws_url: str | None = None
    ws_token: str | None = None
    body: str | None = None
    expires_at: float | None = None


class RoomFailed(Exception):  # noqa: N818 - named after what happened
    """Daily did not create the room or its token.

    `status`: the HTTP status for the client. `reason`: what failed, for programs. `detail`: one sentence
    without secrets. `retry_after_s`: seconds, if Daily named them.
    """

    def __init__(self, status: int, reason: str, detail: str, retry_after_s: int | None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


async def start_session(
    services: SessionStartServices, request: SessionRequest, address: tuple[str, int] | None
) -> StartedSession:
    """Start a session and return once the agent has accepted it; a media socket's agent starts later.

    `address`: host and port of this gateway as the client reached it, None if unknown; the media socket's
    URL has them if no public URL is configured.

    Raises CallEnded as `BotSessions.start` does, and bad_request, too_large and draining, and for a room at
    Daily property_refused, number_refused and rate_limited; RoomFailed; StoreFailed.
    """
    if services.active.draining:
        raise CallEnded(Reasons.draining)
    if request.agent.provider is not None:
        raise CallEnded(Reasons.bad_request, "the agent is a provider's, and takes calls of carriers only")
    body = dump({} if request.body is None else request.body)
    max_bytes = MAX_BODY_BYTES
    if request.transport == "websocket":
        max_bytes = services.calls.settings.limits.max_body_bytes
    if len(body) > max_bytes:
        raise CallEnded(Reasons.too_large, f"body has {len(body)} bytes of JSON, {max_bytes} are allowed")
    if request.transport == "websocket":
        return await _create_pending(services, request, body, address)
    if request.transport == "daily":
        return await _start_in_room(services, request, body)
    headers = {"x-daily-transport-type": "webrtc"} if request.transport == "webrtc" else {}
    return StartedSession(await _start_bot(services, request, headers, body))


async def _start_bot(
    services: SessionStartServices, request: SessionRequest, headers: Mapping[str, str], body: bytes
) -> str:
    details = _details(services, request)
    bot_request = BotRequest(headers, body, _max_duration_s(request), request.agent.stop_timeout)
    await services.bots.start(request.agent, details, _options(request), bot_request)
    return details.session_id


async def _start_in_room(
    services: SessionStartServices, request: SessionRequest, body: bytes
) -> StartedSession:
    # The agent gets the room with its request, so the room comes first, and the slot is taken after it.
    owner, settings = _daily_owner(services, request.agent.organization)
    daily = Daily(services.http, settings.api_key.get_secret_value(), settings.api_url)
    room_properties, called = _checked_room(request, owner, settings)
    await services.bots.wait_until_ready(request.agent)
    expires_at = services.calls.now() + _max_duration_s(request)
    try:
        async with _calls_counted(services.calls, owner, called):
            room = await daily.create_room(room_properties, expires_at=expires_at)
            async with _deleted_unless_used(daily, room):
                token, clients_token = await _tokens(daily, room, request, expires_at)
                headers = {
                    "x-daily-transport-type": "daily",
                    "x-daily-room-url": room.url,
                    "x-daily-room-token": token,
                }
                session_id = await _start_bot(services, request, headers, body)
    except DailyFailed as failure:
        raise RoomFailed(failure.status, failure.reason, failure.detail, failure.retry_after) from None
    except ValueError as error:  # the client's properties are not Daily's
        raise CallEnded(Reasons.bad_request, str(error)) from None
    return StartedSession(session_id, room_url=room.url, room_token=clients_token, expires_at=expires_at)


def _checked_room(
    request: SessionRequest, owner: Organization, settings: DailySettings
) -> tuple[Mapping[str, Any], int]:
    """Return the properties of the room, and how many calls its agent is to make from it.

    An agent that is to call numbers needs a room that can dial (docs/reference/carriers.md §6.4); the numbers
    are those of `dialout_settings`, and no other start gets such a room, unless the operator allows it.

    Raises CallEnded: property_refused, number_refused, bad_request.
    """
    body, requested = request.body, request.room_properties or {}
    called: list[str] = []
    allowed = settings.room_properties
    if settings_of_body := _dialout_settings(body):
        called = destinations(settings_of_body)
        check_destinations(called, owner)
        requested = {DIALOUT: True, **requested}
        allowed = [*allowed, DIALOUT]
    try:
        check_room_properties(requested, allowed)
        check_token_properties(request.token_properties, settings.token_properties)
    except PropertyRefused as refused:
        raise CallEnded(Reasons.property_refused, str(refused)) from None
    return {**requested, **(request.own_room_properties or {})}, len(called)


@asynccontextmanager
async def _calls_counted(calls: CallServices, owner: Organization, count: int) -> AsyncIterator[None]:
    """Count the calls that a room's agent is to make, unless the block fails.

    Raises CallEnded(rate_limited).
    """
    limiter = CallRateLimiter(calls.store.key_values, calls.now)
    tokens = await limiter.acquire_all(owner, count) if count else []
    try:
        yield
    except BaseException:
        await limiter.release(*tokens)
        raise


async def _tokens(daily: Daily, room: Room, request: SessionRequest, expires_at: float) -> tuple[str, str]:
    """Return the agent's meeting token and the client's, which Daily makes at the same time.

    The agent owns the room: it calls out, and transfers. The client is a guest. Raises as `create_token`.
    """
    clients = {**(request.token_properties or {}), OWNER: False}
    tasks = [
        asyncio.ensure_future(daily.create_token(room.name, properties, expires_at=expires_at))
        for properties in (None, clients)
    ]
    try:
        token, clients_token = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
    return token, clients_token


class _Settings(msgspec.Struct, frozen=True):
    dialout_settings: msgspec.Raw = msgspec.Raw(b"null")


_read_settings: Final = msgspec.json.Decoder(_Settings, strict=True).decode


def _dialout_settings(body: object) -> object:
    """Return the numbers to call in the `body` of a start, None if it has none.

    A large body is not parsed, only this member of it is. Raises CallEnded(too_large) if that is large too.
    """
    if not isinstance(body, JsonText):
        return body.get(DIALOUT_SETTINGS) if isinstance(body, Mapping) else None
    try:
        settings = bytes(_read_settings(body.raw).dialout_settings)
    except msgspec.ValidationError:  # the body is no object
        return None
    if len(settings) > MAX_SETTINGS_BYTES:
        detail = f"{DIALOUT_SETTINGS} has more than {MAX_SETTINGS_BYTES} bytes"
        raise CallEnded(Reasons.too_large, detail)
    return msgspec.json.decode(settings)


@asynccontextmanager
async def _deleted_unless_used(daily: Daily, room: Room) -> AsyncIterator[None]:
    """Delete the room unless the block completes."""
    is_used = False
    try:
        yield
        is_used = True
    finally:
        if not is_used:
            try:
                await daily.delete_room(room.name)
            except DailyFailed as failure:  # then it ends when it expires
                log.warning("room left at Daily until it expires", reason=failure.reason)


def _daily_owner(services: SessionStartServices, organization: str) -> tuple[Organization, DailySettings]:
    """Return the organisation and its domain at Daily. Raises CallEnded(bad_request) without one."""
    owner = services.calls.settings.find_organization(organization)
    if owner is not None and owner.daily is not None:
        return owner, owner.daily
    detail = "this organisation has no domain at Daily: the operator sets organizations.daily.api_key"
    raise CallEnded(Reasons.bad_request, detail)


async def _create_pending(
    services: SessionStartServices,
    request: SessionRequest,
    json_body: bytes,
    address: tuple[str, int] | None,
) -> StartedSession:
    """Create a pending session: its agent starts, and its slot is taken, when the media socket is opened."""
    agent, calls = request.agent, services.calls
    body = None if request.body is None else base64.b64encode(json_body).decode("ascii")
    if body is not None and agent.is_open:
        detail = "body goes to a media socket only with a token: the agent's websocket_auth is none"
        raise CallEnded(Reasons.bad_request, detail)
    details = _details(services, request)
    options = _options(request, start_type=calls.capacity.start_type(agent))
    now = calls.now()
    expires_at = now + TOKEN_S
    limit = None
    if request.key_id is not None:
        limit = PendingLimit(request.key_id, calls.settings.limits.pending_per_key)
    try:
        await calls.store.create_pending(details, options, now, expires_at, limit)
    except AtCapacity as full:
        detail = f"{full.in_use} sessions of this key wait for their media socket; it may have {full.limit}"
        raise CallEnded(Reasons.rate_limited, detail) from None
    token = calls.tokens.mint(agent.service_host, agent.organization, details.session_id, body)
    return StartedSession(
        details.session_id,
        ws_url=media_url(calls.settings, agent, address),
        ws_token=token,
        body=body,
        expires_at=expires_at,
    )


def media_url(settings: Settings, agent: AgentSettings, address: tuple[str, int] | None) -> str:
    """Return the URL of a client's media socket, `wss://{region}.{host}/ws/generic/{agent}.{org}`.

    `address`: host and port of this gateway as the client reached it, used if no public URL is configured;
    no region stands in front of it (docs/reference/public-api.md, "Media sockets").
    """
    path = f"/ws/generic/{agent.service_host}"
    if settings.server.public_url is None:
        host, port = address or (settings.server.host, settings.server.port)
        return f"ws://{f'[{host}]' if ':' in host else host}:{port}{path}"
    parts = urlsplit(settings.server.public_url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    regions = {region.code for region in settings.regions}
    return f"{scheme}://{host_in_region(parts.netloc, agent.region, regions)}{parts.path}{path}"


def _max_duration_s(request: SessionRequest) -> float:
    """Return how long the session may last, in seconds."""
    allowed = float(request.agent.max_session_duration)
    return allowed if request.max_duration is None else min(request.max_duration, allowed)


def _details(services: SessionStartServices, request: SessionRequest) -> CallDetails:
    call = request.call
    return CallDetails(
        session_id=request.session_id or services.calls.new_id(),
        agent=request.agent.service_host,
        organization=request.agent.organization,
        region=request.agent.region,
        carrier="generic" if request.transport == "websocket" else request.transport,
        call_id=call.call_id if call else None,
        stream_id=None,
        from_number=call.from_number if call else None,
        to_number=call.to_number if call else None,
    )


def _options(request: SessionRequest, start_type: str | None = None) -> SessionOptions:
    requested = SessionOptions(
        transport=request.transport,
        metadata=request.metadata,
        idle_timeout=request.idle_timeout,
        max_duration=request.max_duration,
    )
    return with_limits(requested, request.agent, start_type=start_type)
