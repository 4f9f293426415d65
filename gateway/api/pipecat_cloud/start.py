# SPDX-License-Identifier: BSD-2-Clause
"""Start a session: `POST /v1/public/{agent}/start` (docs/reference/public-api.md, "Start")."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.api.framework.errors import ApiError
from gateway.api.framework.idempotency import HEADER, IdempotentRequest, fingerprint_of, key_of, run_once
from gateway.api.framework.operation import (
    UNAUTHORIZED_START,
    Access,
    Answer,
    Context,
    LargeMember,
    Operation,
    Style,
)
from gateway.auth.ice_credentials import ice_servers
from gateway.calls.bot_session import NotReady
from gateway.calls.session_start import SessionRequest, Transport, start_session
from gateway.config import AgentSettings
from gateway.model.reasons import CallEnded, Reasons

NOT_READY_CODE: Final = "PCC-1001"

MAX_START_BYTES: Final = 1_100_000
"""1,000,000 for `body` (docs/reference/public-api.md, "Start") and the rest for other members."""

STUN_URL: Final = "stun:stun.l.google.com:19302"
"""The default ICE server of Pipecat's own runner (pipecat/runner/run.py)."""


class StartRequest(BaseModel):
    """A session to start. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True)

    create_daily_room: bool = Field(
        default=False,
        alias="createDailyRoom",
        description="The same as `transport` `daily`, for clients that send none.",
    )
    daily_room_properties: dict[str, Any] | None = Field(
        default=None,
        alias="dailyRoomProperties",
        description="Daily's room properties, over the gateway's own: those that cost nothing, and those "
        "that the operator allows.",
    )
    daily_meeting_token_properties: dict[str, Any] | None = Field(
        default=None,
        alias="dailyMeetingTokenProperties",
        description="Properties of the client's meeting token, likewise.",
    )
    enable_default_ice_servers: bool = Field(
        default=False, alias="enableDefaultIceServers", description="With `webrtc`: answer with ICE servers."
    )
    transport: Literal["daily", "webrtc", "websocket"] | None = Field(
        default=None,
        description="How the caller's audio arrives. By default the agent finds its caller by itself.",
    )
    body: Any = Field(
        default=None,
        description="Any JSON for the agent, null for none: at most 1,000,000 bytes, 4,096 with `websocket`.",
        examples=[{"customer": 4711}],
    )


class IceServerView(BaseModel):
    """STUN or TURN servers: WebRTC's RTCIceServer."""

    urls: list[str]
    username: str | None = Field(default=None, description="For TURN servers.")
    credential: str | None = Field(default=None, description="For TURN servers.")


class IceConfig(BaseModel):
    """ICE servers: WebRTC's RTCConfiguration."""

    ice_servers: list[IceServerView] = Field(serialization_alias="iceServers")


class StartAnswer(BaseModel):
    """The started session. Fields that its transport does not have are omitted."""

    session_id: str = Field(
        serialization_alias="sessionId",
        examples=["7c9e6679-7425-40de-944b-e07fc1f90ae7"],
    )
    daily_room: str | None = Field(
        default=None, serialization_alias="dailyRoom", description="`daily`: the room's URL."
    )
    daily_token: str | None = Field(
        default=None,
        serialization_alias="dailyToken",
        description="`daily`: the client's meeting token for it, which is no owner's.",
    )
    ws_url: str | None = Field(
        default=None,
        serialization_alias="wsUrl",
        description="`websocket`: the URL of the caller's socket.",
    )
    token: str | None = Field(
        default=None, description="`websocket`: the token that opens it, once, within 5 minutes."
    )
    body: str | None = Field(
        default=None, description="`websocket`: base64 of the `body` sent, for the socket's query `body`."
    )
    ice_config: IceConfig | None = Field(
        default=None,
        serialization_alias="iceConfig",
        description="`webrtc`, on request: the organisation's ICE servers, else one STUN server.",
    )


async def start(context: Context) -> Answer:
    """Start a session, or repeat the answer to the same `Idempotency-Key`."""
    key = key_of(context.request.headers, Style.PCC)
    if key is None:
        return await _start(context)
    path = context.request.url.path.encode()
    fingerprint = fingerprint_of(path, context.raw_body)

    async def work() -> Answer:
        return await _start(context)

    request = IdempotentRequest(context.caller.organization, key, fingerprint, Style.PCC)
    return await run_once(context.services, request, work)


async def known_agent(context: Context) -> AgentSettings:
    """Return the agent that the path names. Raises CallEnded (unknown_agent)."""
    return context.services.calls.agents.of_organization(context.caller.organization, context.path["agent"])


async def _start(context: Context) -> Answer:
    request = context.body_as(StartRequest)
    agent = await known_agent(context)
    transport = _transport(request)
    session_request = SessionRequest(
        agent,
        transport,
        body=request.body,
        room_properties=request.daily_room_properties,
        token_properties=request.daily_meeting_token_properties,
        key_id=context.caller.key_id,
    )
    try:
        session = await start_session(
            context.services.session_start, session_request, context.request.scope.get("server")
        )
    except NotReady as end:
        raise ApiError(400, NOT_READY_CODE, f"The agent is not ready: {end.detail}") from None
    ice = request.enable_default_ice_servers and transport == "webrtc"
    answer = StartAnswer(
        session_id=session.session_id,
        daily_room=session.room_url,
        daily_token=session.room_token,
        ws_url=session.ws_url,
        token=session.ws_token,
        body=session.body,
        ice_config=_ice_config(context, agent, session.session_id) if ice else None,
    )
    return Answer(200, answer.model_dump(mode="json", by_alias=True, exclude_none=True))


def _ice_config(context: Context, agent: AgentSettings, session_id: str) -> IceConfig:
    """Return the ICE servers for the client of a session that was started just now."""
    calls = context.services.calls
    owner = calls.settings.find_organization(agent.organization)
    expires_at = calls.now() + agent.max_session_duration
    servers = ice_servers(owner.ice_servers if owner else (), session_id, expires_at)
    views = [
        IceServerView(urls=list(server.urls), username=server.username, credential=server.credential)
        for server in servers
    ]
    return IceConfig(ice_servers=views or [IceServerView(urls=[STUN_URL])])


def _transport(request: StartRequest) -> Transport:
    """Return the transport of a start. Raises CallEnded if `createDailyRoom` contradicts `transport`."""
    if not request.create_daily_room:
        return request.transport or "bot"
    if request.transport not in (None, "daily"):
        detail = f"createDailyRoom makes a room at Daily, and transport is {request.transport}"
        raise CallEnded(Reasons.bad_request, detail)
    return "daily"


START: Final = (
    Operation(
        method="POST",
        path="/v1/public/{agent}/start",
        handler=start,
        access=Access.PUBLIC,
        style=Style.PCC,
        summary="Start a session",
        tag="Start",
        body=StartRequest,
        max_body_bytes=MAX_START_BYTES,
        check=known_agent,
        large=(LargeMember("body", "body", b"true", MAX_START_BYTES),),
        answers={
            200: StartAnswer,
            400: None,
            403: None,
            404: None,
            409: None,
            413: None,
            429: None,
            502: None,
            503: None,
            504: None,
        },
        unauthorized=UNAUTHORIZED_START,
        description="Answers when the agent has accepted the session. With `websocket` the agent starts "
        "later, under this session's id, when the caller's socket comes.",
        request_headers={
            HEADER: "The same key with the same body is answered the same for 24 hours, and starts once."
        },
        path_notes={"agent": "The agent's name."},
    ),
)
