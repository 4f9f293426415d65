# SPDX-License-Identifier: BSD-2-Clause
"""Daily's pinless dial-in: while Daily holds a caller, this webhook starts the agent in a room.

docs/reference/carriers.md has the call flow (§6.1), the webhook (§6.3) and the agent's body (§6.5). The
agent itself takes the caller off hold, with `pinlessCallUpdate`, when its room is ready. Daily expects a
prompt 200: if the start takes longer, the answer is sent before it is done.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import Response

from gateway.api.framework.errors import bad_json, invalid
from gateway.api.framework.handler_services import Services
from gateway.api.framework.operation import MAX_BODY_BYTES, Access, Answer, Context, Operation, Style
from gateway.api.framework.strict_json import JsonError, parse
from gateway.api.webhooks.carrier_request import read_custom_query
from gateway.api.webhooks.deduplication import MIN_INTERVAL_S, SharedCall, joined, take_for
from gateway.calls.session_start import DIALOUT_SETTINGS, RoomFailed, SessionRequest, Telephone, start_session
from gateway.carriers.daily.auth import SIGNATURE, TIMESTAMP, authenticate_dialin
from gateway.carriers.daily.rest import dialin_properties
from gateway.carriers.signatures import AuthenticationFailed
from gateway.config import AgentSettings, DailySettings
from gateway.model.addresses import service_host
from gateway.model.json_text import dump
from gateway.model.reasons import CallEnded, Reasons, Severity
from gateway.observability.log import log_at
from gateway.store.interface import Store, StoreFailed

log = structlog.get_logger(__name__)

MAX_FIELD_CHARACTERS: Final = 256
MAX_SIP_HEADERS: Final = 64
MAX_SIP_HEADER_CHARACTERS: Final = 1024

_FIELDS: Final = frozenset({"callId", "callDomain", "From", "To", "sipHeaders", "test", "Test"})
"""The webhook's own fields (docs/reference/carriers.md §6.3)."""

_OURS: Final = frozenset({"dialin_settings", "daily_api_key", "daily_api_url", DIALOUT_SETTINGS})
"""Members of the agent's body that neither the webhook nor its URL can set."""

_SIP_HEADER_NAME: Final = re.compile(r"[!%'*+\-.`~0-9A-Za-z_]{1,128}")  # RFC 3261 §25.1, `token`


@dataclass(frozen=True, slots=True)
class Dialin:
    """A caller on hold, from the webhook. `sip_headers`: those that can be passed on to the agent.

    `from_number`, `to_number`: None where Daily names none, as of a caller who withholds his number. `more`:
    all other fields, which go on as they are.
    """

    call_id: str
    call_domain: str
    from_number: str | None
    to_number: str | None
    sip_headers: Mapping[str, str]
    more: Mapping[str, Any] = field(default_factory=dict)


def read_dialin(raw: bytes) -> Dialin | None:
    """Return the call in the webhook's body; None for a probe. Raises ApiError (400).

    A probe has no `callId`, or sets `test`, as Pipecat's runner does (docs/reference/carriers.md §6.2, §6.5).
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
        from_number=_number(given, "From"),
        to_number=_number(given, "To"),
        sip_headers=_sip_headers(given.get("sipHeaders")),
        more={name: value for name, value in given.items() if name not in _FIELDS},
    )


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_FIELD_CHARACTERS or not value.isprintable():
        detail = f"{name} must be a text of 1 to {MAX_FIELD_CHARACTERS} characters that can be printed"
        raise invalid(detail, Style.PCC, name)
    return value


def _number(given: Mapping[str, Any], name: str) -> str | None:
    """Return a number, or None if it is not there, null or empty: an anonymous caller is a caller."""
    return None if given.get(name) in (None, "") else _text(given, name)


def _sip_headers(given: object) -> dict[str, str]:
    """Return the names and texts that are valid in a SIP header; the agent's model accepts no others.

    Invalid ones are dropped (docs/reference/carriers.md §6.5): a caller is not rejected because of a header.
    """
    if given is None:
        return {}
    valid = {
        name: value
        for name, value in (given.items() if isinstance(given, dict) else ())
        if _SIP_HEADER_NAME.fullmatch(name)
        and isinstance(value, str)
        and len(value) <= MAX_SIP_HEADER_CHARACTERS
        and (value.isprintable() or not value)
    }
    headers = dict(list(valid.items())[:MAX_SIP_HEADERS])
    dropped = len(given) - len(headers) if isinstance(given, dict) else 1
    if dropped:
        log.info("sip headers left out", count=dropped)
    return headers


ANSWER_S: Final = 0.8
"""Seconds after which Daily is answered with the session's id alone."""

START_TIMEOUT_S: Final = 110.0
"""Seconds after which a start is given up: Daily plays its hold music, under 60 s, twice and then hangs up
(docs/reference/carriers.md §6.2).
"""

MAX_STARTING: Final = 64
"""Dial-ins that one worker starts at once: each may make a room before the store counts its session."""

DOCUMENT_KIND: Final = "dialin"
LEASE_S: Final = 2 * START_TIMEOUT_S
"""Seconds for which a call that is being started is on record; its start has ended by then."""
RECORD_LIFETIME_S: Final = 86_400.0
"""Seconds for which a started call is on record, so that a repeated webhook starts nothing."""


class DialinAnswer(BaseModel):
    """The started session; or only `status`, for the probe with which Daily tests the URL."""

    session_id: str | None = Field(default=None, serialization_alias="sessionId")
    daily_room: str | None = Field(
        default=None,
        serialization_alias="dailyRoom",
        description="The room's URL, if it was created in time.",
    )
    daily_token: str | None = Field(
        default=None,
        serialization_alias="dailyToken",
        description="A guest's meeting token for it; the agent gets its own.",
    )
    status: str | None = Field(default=None, description="`OK`, for a probe.")


async def dialin(context: Context) -> Answer | Response:
    """Start the session of a call, once, or answer a probe. Raises ApiError, CallEnded, StoreFailed."""
    services = context.services
    organization = context.path["org"]
    owner = services.calls.settings.find_organization(organization)
    if owner is None:
        raise CallEnded(Reasons.not_found)
    if owner.daily is None:
        detail = "there is no [organizations.daily] of this organisation"  # for the operator alone
        log.info("dialin refused", organization=organization, reason=Reasons.not_found.code, words=detail)
        raise CallEnded(Reasons.not_found)
    call = read_dialin(context.raw_body)
    if call is None:
        return Answer(200, {"status": "OK"})
    name = service_host(context.path["agent"], organization)[:MAX_FIELD_CHARACTERS]
    try:
        _authenticate(context, owner.daily)
        agent = services.calls.agents.of_organization(organization, context.path["agent"])
        if not owner.daily.allow_unsigned:
            signature = joined(context.request.headers, SIGNATURE) or ""
            await take_for(services.calls, agent.service_host, signature)
        custom = {**read_custom_query(context), **call.more}
    except (CallEnded, StoreFailed) as failure:
        refused_log = log.bind(agent=name, organization=organization)
        log_at(refused_log, _severity(failure), "dialin refused", **_reason(failure))
        raise
    custom = {name: value for name, value in custom.items() if name not in _OURS}
    return await _DialinHandler(services, agent, owner.daily, replace(call, more=custom)).answer()


def _authenticate(context: Context, daily: DailySettings) -> None:
    """Check the webhook's signature (docs/reference/carriers.md §6.3), unless it need not have one.

    Raises CallEnded (unauthorized).
    """
    if daily.allow_unsigned:
        return
    if not daily.webhook_secrets:
        raise CallEnded(Reasons.unauthorized, "there are no webhook_secrets that could have signed it")
    headers = context.request.headers
    timestamp, signature = joined(headers, TIMESTAMP), joined(headers, SIGNATURE)
    try:
        authenticate_dialin(
            daily.webhook_secrets, timestamp, signature, context.raw_body, context.services.calls.now()
        )
    except AuthenticationFailed as failure:
        raise CallEnded(Reasons.unauthorized, str(failure)) from None


class _DialinHandler:
    """Handles one webhook of one call, the first or a repeated one."""

    def __init__(self, services: Services, agent: AgentSettings, daily: DailySettings, call: Dialin) -> None:
        self._services = services
        self._agent = agent
        self._daily = daily
        self._call = call
        self._shared_call = SharedCall(
            services, DOCUMENT_KIND, agent.service_host, call.call_domain, call.call_id
        )
        self._log = log.bind(agent=agent.service_host, organization=agent.organization)

    async def answer(self) -> Answer | Response:
        """Start the session, or return the answer of the webhook that starts it. Raises like `dialin`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ANSWER_S
        session_id = self._services.calls.new_id()
        while not await self._shared_call.claim({"sessionId": session_id}, LEASE_S):
            with self._shared_call.subscribe() as changes:
                while (answer := await self._shared_call.get()) is not None:
                    if "dailyRoom" in answer or loop.time() >= deadline:
                        return Answer(200, answer)
                    await changes.wait(deadline - loop.time(), min_interval_s=MIN_INTERVAL_S)
        return await self._answer_first(session_id, deadline - loop.time())

    async def _answer_first(self, session_id: str, wait_s: float) -> Answer | Response:
        start = asyncio.create_task(self._start_logged(session_id))
        try:
            await asyncio.wait([start], timeout=max(wait_s, 0.0))
        except asyncio.CancelledError:
            start.cancel()
            await asyncio.wait([start])
            raise
        if start.done():
            return Answer(200, start.result())
        # The start continues in the request's task, which the server awaits when it stops, and then cancels.
        content = dump({"sessionId": session_id})
        return Response(content, media_type="application/json", background=BackgroundTask(_finish, start))

    async def _start_logged(self, session_id: str) -> dict[str, str]:
        """Start the session and return the answer. Logs a failure in one line and raises it."""
        session_log = self._log.bind(session=session_id)
        answer: dict[str, str] | None = None
        try:
            with _counted(self._services.calls.store):
                answer = await self._start(session_id)
        except (CallEnded, RoomFailed, StoreFailed) as failure:
            log_at(session_log, _severity(failure), "dialin refused", **_reason(failure))
            raise
        except asyncio.CancelledError:
            session_log.warning("dialin given up", reason=Reasons.draining.code)
            raise
        finally:
            if answer is None:
                await self._shared_call.forget()
        await self._shared_call.save(answer, RECORD_LIFETIME_S)
        return answer

    async def _start(self, session_id: str) -> dict[str, str]:
        request = self._session_request(session_id)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                session = await start_session(self._services.session_start, request, None)
        except TimeoutError:
            detail = f"nobody stays on hold for longer than {START_TIMEOUT_S:g} s"
            raise CallEnded(Reasons.agent_start_timeout, detail) from None
        assert session.room_url is not None
        assert session.room_token is not None
        return {"dailyRoom": session.room_url, "dailyToken": session.room_token, "sessionId": session_id}

    def _session_request(self, session_id: str) -> SessionRequest:
        call = self._call
        body = {
            **call.more,
            "dialin_settings": {
                "call_id": call.call_id,
                "call_domain": call.call_domain,
                # Pipecat's model has the capitals, the bots of the guide the small letters
                # (docs/reference/carriers.md §6.5). In both a number that is not known is null.
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
            own_room_properties=dialin_properties(call.from_number),
            call=Telephone(call.call_id, call.from_number, call.to_number),
            session_id=session_id,
        )


async def _finish(start: asyncio.Task[dict[str, str]]) -> None:
    """Wait for a start whose webhook has been answered. Its failure has been logged."""
    try:
        await start
    except (CallEnded, RoomFailed, StoreFailed):
        return


def _severity(failure: CallEnded | RoomFailed | StoreFailed) -> Severity:
    match failure:
        case CallEnded():
            return failure.reason.severity(ran=False)
        case RoomFailed():
            return Severity.WARNING
    return Reasons.store_failed.severity(ran=False)


def _reason(failure: CallEnded | RoomFailed | StoreFailed) -> dict[str, str]:
    match failure:
        case CallEnded():
            return {"reason": failure.reason.code, "words": failure.detail}
        case RoomFailed():
            return {"reason": f"daily_{failure.reason}", "words": failure.detail}
    return {"reason": Reasons.store_failed.code, "words": str(failure)}


_starting: WeakKeyDictionary[Store, int] = WeakKeyDictionary()
"""The number of dial-ins that each worker, named by its store, is starting."""


@contextmanager
def _counted(store: Store) -> Iterator[None]:
    """Count one more start for the time of the block. Raises CallEnded (overloaded)."""
    if _starting.get(store, 0) >= MAX_STARTING:
        raise CallEnded(Reasons.overloaded, f"{MAX_STARTING} dial-ins are being started")
    _starting[store] = _starting.get(store, 0) + 1
    try:
        yield
    finally:
        _starting[store] -= 1


DIALIN: Final = (
    Operation(
        method="POST",
        path="/v1/public/webhooks/{org}/{agent}/dialin",
        handler=dialin,
        access=Access.NONE,
        style=Style.PCC,
        summary="A caller is on hold at Daily",
        tag="Webhooks",
        description="The URL for a number's `room_creation_api` at Daily. Creates a room for the call and "
        "starts the agent in it, once for each `callId`. Signed with one of the organisation's "
        "`webhook_secrets`: `X-Pinless-Timestamp` is Unix time, `X-Pinless-Signature` base64 of the "
        "HMAC-SHA256 over it, a dot and the body. A body without `callId` is Daily's probe and starts "
        "nothing. A start that takes longer than a second continues after the answer.",
        reads_raw=True,
        max_body_bytes=MAX_BODY_BYTES,
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
