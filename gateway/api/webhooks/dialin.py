# SPDX-License-Identifier: BSD-2-Clause
"""Daily's pinless dial-in: a caller on hold at Daily, a room to meet in, an agent that fetches the call.

docs/reference/carriers.md §6.1 has the way of the call, §6.3 the webhook, §6.5 what the agent must be told.
It is the agent that takes the caller off hold, with `pinlessCallUpdate`, once its room is ready; here only
the room and the session are made. Daily wants a prompt 200, so an answer that takes longer than that goes
out before they are.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import Response

from gateway.api.framework.errors import bad_json, invalid
from gateway.api.framework.operation import Access, Answer, Context, Operation, Style
from gateway.api.framework.services import Services
from gateway.api.framework.strict_json import JsonError, dump, parse
from gateway.api.webhooks.deduplication import SharedCall, joined
from gateway.calls.bot_session import NotReady
from gateway.calls.session_start import RoomFailed, SessionRequest, Telephone, start_session
from gateway.carriers.daily.auth import SIGNATURE, TIMESTAMP, authenticate_dialin
from gateway.carriers.daily.rest import dialin_properties
from gateway.carriers.signatures import AuthenticationFailed
from gateway.config import AgentSettings, DailySettings
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import Store, StoreFailed

log = structlog.get_logger(__name__)

MAX_FIELD_CHARACTERS: Final = 256
MAX_SIP_HEADERS: Final = 64
MAX_SIP_HEADER_CHARACTERS: Final = 1024

_SIP_HEADER_NAME: Final = re.compile(r"[!%'*+\-.`~0-9A-Za-z_]{1,128}")  # RFC 3261 §25.1, `token`


@dataclass(frozen=True, slots=True)
class Dialin:
    """A caller on hold, as the webhook told it. `sip_headers`: those that can be passed on."""

    call_id: str
    call_domain: str
    from_number: str
    to_number: str
    sip_headers: Mapping[str, str]


def read_dialin(raw: bytes) -> Dialin | None:
    """Reads the webhook's body; None for a probe, which is whatever has no `callId`. Raises ApiError.

    Also where `test` is set, as Pipecat's runner has it (docs/reference/carriers.md §6.2, §6.5).
    """
    try:
        given = parse(raw or b"{}")
    except JsonError as error:
        raise bad_json(str(error), Style.PCC) from None
    if not isinstance(given, dict) or given.get("test") or given.get("Test") or "callId" not in given:
        return None
    return Dialin(
        call_id=_text(given, "callId"),
        call_domain=_text(given, "callDomain"),
        from_number=_text(given, "From"),
        to_number=_text(given, "To"),
        sip_headers=_sip_headers(given.get("sipHeaders")),
    )


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_FIELD_CHARACTERS or not value.isprintable():
        detail = f"{name} must be a text of 1 to {MAX_FIELD_CHARACTERS} characters that can be printed"
        raise invalid(detail, Style.PCC, name)
    return value


def _sip_headers(given: object) -> dict[str, str]:
    """Names and texts that can stand in a SIP header; the agent's model takes no other
    (docs/reference/carriers.md §6.5).

    The rest is left out rather than refused: a caller is not turned away for a header.
    """
    if given is None:
        return {}
    found = {
        name: value
        for name, value in (given.items() if isinstance(given, dict) else ())
        if _SIP_HEADER_NAME.fullmatch(name)
        and isinstance(value, str)
        and len(value) <= MAX_SIP_HEADER_CHARACTERS
        and (value.isprintable() or not value)
    }
    kept = dict(list(found.items())[:MAX_SIP_HEADERS])
    left_out = len(given) - len(kept) if isinstance(given, dict) else 1
    if left_out:
        log.info("sip headers left out", count=left_out)
    return kept


MAX_WEBHOOK_BYTES: Final = 65_536

ANSWER_S: Final = 0.8
"""How long Daily waits for what was started; later it is answered with the session's id alone."""

GIVE_UP_S: Final = 110.0
"""The hold music is played twice and is shorter than 60 s (docs/reference/carriers.md §6.2): nobody waits
for longer.
"""

NOT_READY_PAUSE_S: Final = 0.25
"""How often an agent whose instances are all starting is looked at; the caller is on hold meanwhile."""

MAX_BEGINNING: Final = 64
"""Dial-ins that one worker is starting at once: each may make a room before the store counts it."""

DOCUMENT_KIND: Final = "dialin"
LEASE_S: Final = 2 * GIVE_UP_S
"""How long a call is known that is being started: until then it is, or was given up."""
KEPT_S: Final = 86_400.0
"""How long a call's id is known; a webhook that is repeated starts nothing."""
POLL_S: Final = 0.05
"""How often a repeated webhook looks whether the first one has its answer."""


class DialinAnswer(BaseModel):
    """What was started. The probe with which Daily tests the URL is answered with `status` alone."""

    session_id: str | None = Field(default=None, serialization_alias="sessionId")
    daily_room: str | None = Field(
        default=None,
        serialization_alias="dailyRoom",
        description="The room's URL, if made in time.",
    )
    daily_token: str | None = Field(
        default=None, serialization_alias="dailyToken", description="The agent's meeting token for it."
    )
    status: str | None = Field(default=None, description="`OK`, to a probe.")


async def dialin(context: Context) -> Answer | Response:
    """Starts the session of one call, once; or answers a probe. Raises ApiError, CallEnded, StoreFailed."""
    services = context.services
    organization = context.path["org"]
    agent = services.agents.of_organization(organization, context.path["agent"])
    call = read_dialin(context.raw_body)
    if call is None:
        return Answer(200, {"status": "OK"})
    try:
        daily = _daily_of(services, organization)
        _prove(context, daily)
    except CallEnded as failure:
        log.info("dialin refused", agent=agent.service_host, organization=organization, **_reason(failure))
        raise
    return await _DialinHandler(services, agent, daily, call).answer()


def _daily_of(services: Services, organization: str) -> DailySettings:
    owner = services.settings.find_organization(organization)
    if owner is not None and owner.daily is not None:
        return owner.daily
    detail = "this organisation has no domain at Daily: the operator sets [organizations.daily] api_key"
    raise CallEnded(Reasons.bad_request, detail)


def _prove(context: Context, daily: DailySettings) -> None:
    """The webhook is Daily's, where there is a secret to tell by (docs/reference/carriers.md §6.3). Raises
    CallEnded.
    """
    if not daily.webhook_secrets:
        return
    headers = context.request.headers
    timestamp, signature = joined(headers, TIMESTAMP), joined(headers, SIGNATURE)
    try:
        authenticate_dialin(
            daily.webhook_secrets, timestamp, signature, context.raw_body, context.services.now()
        )
    except AuthenticationFailed as failure:
        raise CallEnded(Reasons.unauthorized, str(failure)) from None


class _DialinHandler:
    """One webhook of one call, the first or a repeated one."""

    def __init__(self, services: Services, agent: AgentSettings, daily: DailySettings, call: Dialin) -> None:
        self._services = services
        self._agent = agent
        self._daily = daily
        self._call = call
        self._known = SharedCall(services, DOCUMENT_KIND, agent.service_host, call.call_domain, call.call_id)
        self._log = log.bind(agent=agent.service_host, organization=agent.organization)

    async def answer(self) -> Answer | Response:
        """Starts the session, or finds the one that another webhook of this call starts."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ANSWER_S
        session_id = self._services.new_id()
        while not await self._known.claim({"sessionId": session_id}, LEASE_S):
            while (known := await self._known.get()) is not None:
                if "dailyRoom" in known or loop.time() >= until:
                    return Answer(200, known)
                await asyncio.sleep(POLL_S)
        return await self._first(session_id, until - loop.time())

    async def _first(self, session_id: str, wait_s: float) -> Answer | Response:
        begun = asyncio.create_task(self._begin(session_id))
        try:
            await asyncio.wait([begun], timeout=max(wait_s, 0.0))
        except asyncio.CancelledError:
            begun.cancel()
            await asyncio.wait([begun])
            raise
        if begun.done():
            return Answer(200, begun.result())
        # The rest is the request's own task, which the server waits for when it stops, and then cancels.
        content = dump({"sessionId": session_id})
        return Response(content, media_type="application/json", background=BackgroundTask(_late, begun))

    async def _begin(self, session_id: str) -> dict[str, str]:
        """Starts the session: what is to be answered. Whatever goes wrong is told here, in one line."""
        say = self._log.bind(session=session_id)
        known: dict[str, str] | None = None
        try:
            with _counted(self._services.store):
                known = await self._start(session_id)
        except (CallEnded, RoomFailed, StoreFailed) as failure:
            say.info("dialin refused", **_reason(failure))
            raise
        except asyncio.CancelledError:
            say.warning("dialin given up", reason=Reasons.draining.code)
            raise
        finally:
            if known is None:
                await self._known.forget()
        await self._known.keep(known, KEPT_S)
        return known

    async def _start(self, session_id: str) -> dict[str, str]:
        wish = self._wish(session_id)
        patience_s = self._services.settings.limits.agent_connect_timeout
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        try:
            async with asyncio.timeout(GIVE_UP_S):
                while True:
                    try:
                        begun = await start_session(self._services.session_start, wish, None)
                    except NotReady:
                        if loop.time() >= until:
                            raise
                        await asyncio.sleep(NOT_READY_PAUSE_S)
                    else:
                        break
        except TimeoutError:
            detail = f"nobody stays on hold for longer than {GIVE_UP_S:g} s"
            raise CallEnded(Reasons.agent_start_timeout, detail) from None
        assert begun.room_url is not None
        assert begun.room_token is not None
        return {"dailyRoom": begun.room_url, "dailyToken": begun.room_token, "sessionId": session_id}

    def _wish(self, session_id: str) -> SessionRequest:
        call = self._call
        body = {
            "dialin_settings": {
                "call_id": call.call_id,
                "call_domain": call.call_domain,
                # Pipecat's model reads the capitals, the guide's bots the small letters
                # (docs/reference/carriers.md §6.5).
                "To": call.to_number,
                "From": call.from_number,
                "to": call.to_number,
                "from": call.from_number,
                "sip_headers": call.sip_headers,
            },
            "daily_api_key": self._daily.api_key.get_secret_value(),
            "daily_api_url": self._daily.api_url,
        }
        return SessionRequest(
            self._agent,
            "daily",
            body=body,
            room_properties=dialin_properties(call.from_number),
            call=Telephone(call.call_id, call.from_number, call.to_number),
            session_id=session_id,
        )


async def _late(begun: asyncio.Task[dict[str, str]]) -> None:
    """Sees a start to its end whose webhook was answered already, and whose failure was told."""
    try:
        await begun
    except (CallEnded, RoomFailed, StoreFailed):
        return


def _reason(failure: CallEnded | RoomFailed | StoreFailed) -> dict[str, str]:
    match failure:
        case CallEnded():
            return {"reason": failure.reason.code, "words": failure.detail}
        case RoomFailed():
            return {"reason": f"daily_{failure.reason}", "words": failure.detail}
    return {"reason": Reasons.store_failed.code, "words": str(failure)}


_beginning: WeakKeyDictionary[Store, int] = WeakKeyDictionary()
"""How many dial-ins each worker is starting."""


@contextmanager
def _counted(store: Store) -> Iterator[None]:
    """One more that is being started. Raises CallEnded: overloaded."""
    if _beginning.get(store, 0) >= MAX_BEGINNING:
        raise CallEnded(Reasons.overloaded, f"{MAX_BEGINNING} dial-ins are being started")
    _beginning[store] = _beginning.get(store, 0) + 1
    try:
        yield
    finally:
        _beginning[store] -= 1


DIALIN: Final = (
    Operation(
        method="POST",
        path="/v1/public/webhooks/{org}/{agent}/dialin",
        handler=dialin,
        access=Access.NONE,
        style=Style.PCC,
        summary="A caller is on hold at Daily",
        tag="Webhooks",
        description="What a number's `room_creation_api` at Daily points at. Makes a room that takes the "
        "call and starts the agent in it, once for each `callId`. Signed, where the organisation has "
        "`webhook_secrets`: `X-Pinless-Timestamp` is Unix time, `X-Pinless-Signature` base64 of the "
        "HMAC-SHA256 over it, a dot and the body. A body without `callId` is Daily's probe, and answered "
        "without more. What takes longer than a second goes on after the answer.",
        reads_raw=True,
        max_body_bytes=MAX_WEBHOOK_BYTES,
        answers={
            200: DialinAnswer,
            400: None,
            403: None,
            404: None,
            429: None,
            502: None,
            503: None,
            504: None,
        },
        path_notes={"org": "The organisation's name.", "agent": "The agent's name."},
    ),
)
"""The row of the route table."""
