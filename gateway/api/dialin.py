# SPDX-License-Identifier: BSD-2-Clause
"""Daily's pinless dial-in: a caller on hold at Daily, a room to meet in, an agent that fetches the call.

carriers.md §6.1 has the way of the call, §6.3 the webhook, §6.5 what the agent must be told. It is the agent
that takes the caller off hold, with `pinlessCallUpdate`, once its room is ready; here only the room and the
session are made. Daily wants a prompt 200, so an answer that takes longer than that goes out before they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakKeyDictionary

import structlog
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import Response

from gateway.api.dialin_call import Dialin, read_dialin
from gateway.api.known_call import KnownCall, joined
from gateway.api.operation import Access, Answer, Context, Operation, Style
from gateway.api.refusals import Refusal
from gateway.api.services import Services
from gateway.api.starting import Telephone, Wish, agent_of, begin
from gateway.api.strict_json import dump
from gateway.calls.bots import NotReady
from gateway.carriers.daily import dialin_properties
from gateway.carriers.daily_proof import SIGNATURE, TIMESTAMP, prove_dialin
from gateway.carriers.proof import NotProven
from gateway.config import AgentSettings, DailySettings
from gateway.errors import CallEnd, Endings
from gateway.sessions.store import Store, StoreFailed

log = structlog.get_logger(__name__)

MAX_WEBHOOK_BYTES: Final = 65_536

ANSWER_S: Final = 0.8
"""How long Daily waits for what was started; later it is answered with the session's id alone."""

GIVE_UP_S: Final = 110.0
"""The hold music is played twice and is shorter than 60 s (carriers.md §6.2): nobody waits for longer."""

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
    """Starts the session of one call, once; or answers a probe. Raises Refusal, CallEnd, StoreFailed."""
    services = context.services
    organization = context.path["org"]
    agent = agent_of(services, organization, context.path["agent"])
    call = read_dialin(context.raw_body)
    if call is None:
        return Answer(200, {"status": "OK"})
    try:
        daily = _daily_of(services, organization)
        _prove(context, daily)
    except CallEnd as failure:
        log.info("dialin refused", agent=agent.service_host, organization=organization, **_reason(failure))
        raise
    return await _Arrival(services, agent, daily, call).answer()


def _daily_of(services: Services, organization: str) -> DailySettings:
    for owner in services.settings.organizations:
        if owner.name == organization and owner.daily is not None:
            return owner.daily
    words = "this organisation has no domain at Daily: the operator sets [organizations.daily] api_key"
    raise CallEnd(Endings.bad_request, words)


def _prove(context: Context, daily: DailySettings) -> None:
    """The webhook is Daily's, where there is a secret to tell by (carriers.md §6.3). Raises CallEnd."""
    if not daily.webhook_secrets:
        return
    headers = context.request.headers
    timestamp, signature = joined(headers, TIMESTAMP), joined(headers, SIGNATURE)
    try:
        prove_dialin(daily.webhook_secrets, timestamp, signature, context.raw_body, context.services.now())
    except NotProven as failure:
        raise CallEnd(Endings.unauthorized, str(failure)) from None


class _Arrival:
    """One webhook of one call, the first or a repeated one."""

    def __init__(self, services: Services, agent: AgentSettings, daily: DailySettings, call: Dialin) -> None:
        self._services = services
        self._agent = agent
        self._daily = daily
        self._call = call
        self._known = KnownCall(services, DOCUMENT_KIND, agent.service_host, call.call_domain, call.call_id)
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
        except (CallEnd, Refusal, StoreFailed) as failure:
            say.info("dialin refused", **_reason(failure))
            raise
        except asyncio.CancelledError:
            say.warning("dialin given up", reason=Endings.draining.code)
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
                        begun = await begin(self._services, wish, None)
                    except NotReady:
                        if loop.time() >= until:
                            raise
                        await asyncio.sleep(NOT_READY_PAUSE_S)
                    else:
                        break
        except TimeoutError:
            words = f"nobody stays on hold for longer than {GIVE_UP_S:g} s"
            raise CallEnd(Endings.agent_start_timeout, words) from None
        assert begun.room_url is not None
        assert begun.room_token is not None
        return {"dailyRoom": begun.room_url, "dailyToken": begun.room_token, "sessionId": session_id}

    def _wish(self, session_id: str) -> Wish:
        call = self._call
        body = {
            "dialin_settings": {
                "call_id": call.call_id,
                "call_domain": call.call_domain,
                # Pipecat's model reads the capitals, the guide's bots the small letters (carriers.md §6.5).
                "To": call.to_number,
                "From": call.from_number,
                "to": call.to_number,
                "from": call.from_number,
                "sip_headers": call.sip_headers,
            },
            "daily_api_key": self._daily.api_key.get_secret_value(),
            "daily_api_url": self._daily.api_url,
        }
        return Wish(
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
    except (CallEnd, Refusal, StoreFailed):
        return


def _reason(failure: CallEnd | Refusal | StoreFailed) -> dict[str, str]:
    match failure:
        case CallEnd():
            return {"reason": failure.ending.code, "words": failure.words}
        case Refusal():
            return {"reason": failure.code, "words": failure.message}
    return {"reason": Endings.store_failed.code, "words": str(failure)}


_beginning: WeakKeyDictionary[Store, int] = WeakKeyDictionary()
"""How many dial-ins each worker is starting."""


@contextmanager
def _counted(store: Store) -> Iterator[None]:
    """One more that is being started. Raises CallEnd: overloaded."""
    if _beginning.get(store, 0) >= MAX_BEGINNING:
        raise CallEnd(Endings.overloaded, f"{MAX_BEGINNING} dial-ins are being started")
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
