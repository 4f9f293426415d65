# SPDX-License-Identifier: BSD-2-Clause
"""Outbound calls: `POST /v1/public/{agent}/dialout`.

It accepts its own field names and those of Pipecat's guides.
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.api.framework.idempotency import HEADER, IdempotentRequest, fingerprint_of, key_of, run_once
from gateway.api.framework.operation import UNAUTHORIZED_START, Access, Answer, Context, Operation, Style
from gateway.api.sessions.session_models import METADATA_WORDS, Metadata
from gateway.calls.outbound.outbound_request import OutboundRequest, body_for
from gateway.config import AgentSettings, CarrierAccount, CarrierName, Organization
from gateway.model.json_text import dump
from gateway.model.reasons import CallEnded, Reasons

ANSWER_S: Final = 10.0
"""Seconds to wait for the carrier before the request is answered without the call's id."""

MIN_TIMEOUT_S: Final = 5
MAX_TIMEOUT_S: Final = 600
DEFAULT_TIMEOUT_S: Final = 60

_FROM_NUMBER: Final = re.compile(r"\+?[0-9]{5,15}")
"""Not only E.164: Exotel's own numbers begin with a 0 (docs/reference/carriers.md §5.2)."""

Machines = Literal["detect", "wait_for_end"]


class DialoutSetting(BaseModel):
    """One call, in the form of Daily's guide."""

    model_config = ConfigDict(frozen=True)

    phone_number: str | None = Field(default=None, alias="phoneNumber", description="The number to call.")
    caller_id: str | None = Field(default=None, alias="callerId", description="The caller id.")


class DialoutRequest(BaseModel):
    """A call to place. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True)

    to: str | None = Field(
        default=None, description="The number to call, in E.164 form.", examples=["+14155550142"]
    )
    from_: str | None = Field(
        default=None,
        alias="from",
        description="The caller id: one of your numbers with the carrier. By default the agent's first in "
        "`[[numbers]]`.",
        examples=["+14155550199"],
    )
    carrier: CarrierName | None = Field(
        default=None, description="The carrier of the call. By default the organisation's only one."
    )
    body: Any = Field(default=None, description="Any JSON for the agent: at most 4,096 bytes.")
    timeout_seconds: int = Field(
        default=DEFAULT_TIMEOUT_S,
        ge=MIN_TIMEOUT_S,
        le=MAX_TIMEOUT_S,
        description="Seconds it may ring; and, before that, wait in the queue.",
    )
    machine_detection: Machines | bool | None = Field(
        default=None,
        description="`detect` (or true) hangs up when a machine answers; `wait_for_end` gives the call to "
        "the agent when the machine's greeting is over.",
    )
    metadata: Metadata | None = Field(default=None, description=METADATA_WORDS)
    to_number: str | None = Field(default=None, description="The same as `to`.")
    phone_number: str | None = Field(default=None, description="The same as `to`.")
    from_number: str | None = Field(default=None, description="The same as `from`.")
    dialout_settings: list[DialoutSetting] | DialoutSetting | None = Field(
        default=None, description="The same as `to` and `from`, of one call."
    )


class DialoutAnswer(BaseModel):
    """The session of the call, which waits for its media stream."""

    session_id: str = Field(
        serialization_alias="sessionId", examples=["7c9e6679-7425-40de-944b-e07fc1f90ae7"]
    )
    call_id: str | None = Field(
        default=None,
        serialization_alias="callId",
        description="The carrier's id of the call, if it has one already.",
        examples=["CA00000000000000000000000000000001"],
    )
    status: Literal["queued", "dialing"] = Field(
        description="`queued`: the carrier has the call. `dialing`: it is in the queue, or the carrier has "
        "not answered yet. The session has the call's further course."
    )


async def dialout(context: Context) -> Answer:
    """Place a call, or repeat the answer to the same `Idempotency-Key`."""
    key = key_of(context.request.headers, Style.PCC)
    if key is None:
        return await _dialout(context)
    fingerprint = fingerprint_of(context.request.url.path.encode(), context.raw_body)

    async def work() -> Answer:
        return await _dialout(context)

    request = IdempotentRequest(context.caller.organization, key, fingerprint, Style.PCC)
    return await run_once(context.services, request, work)


async def _dialout(context: Context) -> Answer:
    request = context.body_as(DialoutRequest)
    agent = context.services.calls.agents.of_organization(context.caller.organization, context.path["agent"])
    call = await context.services.outbound.start(_outbound_request(context, request, agent))
    # The call continues whatever becomes of this request.
    await asyncio.wait([call.accepted], timeout=ANSWER_S)
    call_id = call.accepted.result() if call.accepted.done() else None
    answer = DialoutAnswer(
        session_id=call.session_id,
        call_id=call_id,
        status="queued" if call.accepted.done() else "dialing",
    )
    return Answer(200, answer.model_dump(mode="json", by_alias=True, exclude_none=True))


def _outbound_request(context: Context, request: DialoutRequest, agent: AgentSettings) -> OutboundRequest:
    """Return the call to place. Raises CallEnded: bad_request, carrier_cannot, too_large."""
    services = context.services
    settings = services.calls.settings
    organization = settings.find_organization(agent.organization)
    if organization is None:
        raise CallEnded(Reasons.carrier_cannot, "the organisation has no account with any carrier")
    account = _account(organization, request.carrier)
    setting = _setting(request)
    to = _value("to", request.to, request.to_number, request.phone_number, setting.phone_number)
    from_number = _value("from", request.from_, request.from_number, setting.caller_id)
    from_number = from_number or next(
        (each.number for each in settings.numbers if each.agent == agent.service_host), None
    )
    if to is None:
        raise CallEnded(Reasons.bad_request, "to is needed: whom to call")
    if from_number is None:
        raise CallEnded(Reasons.bad_request, "from is needed: none of the configured numbers is the agent's")
    if not _FROM_NUMBER.fullmatch(from_number):
        raise CallEnded(Reasons.bad_request, "from is no number: 5 to 15 digits, with or without +")
    machines = request.machine_detection
    return OutboundRequest(
        agent=agent,
        organization=organization,
        account=account,
        to=to,
        from_number=from_number,
        body=_agent_body(request, account, (from_number, to), settings.limits.max_body_bytes),
        timeout_s=float(request.timeout_seconds),
        machine_detection=("detect" if machines else None) if isinstance(machines, bool) else machines,
        metadata=None if request.metadata is None else dump(request.metadata).decode(),
    )


def _account(organization: Organization, carrier: str | None) -> CarrierAccount:
    """Return the organisation's account with the carrier, or with its only one. Raises CallEnded."""
    accounts = [each for each in organization.carriers if carrier in (None, each.carrier)]
    if not accounts:
        named = carrier or "any carrier"
        raise CallEnded(Reasons.carrier_cannot, f"the organisation has no account with {named}")
    if carrier is None and len({each.carrier for each in accounts}) > 1:
        raise CallEnded(Reasons.bad_request, "carrier is needed: the organisation has several")
    return accounts[0]


def _setting(request: DialoutRequest) -> DialoutSetting:
    settings = request.dialout_settings
    if not isinstance(settings, list):
        return settings or DialoutSetting()
    if len(settings) > 1:
        raise CallEnded(Reasons.bad_request, "dialout_settings has more than one call: each is a request")
    return settings[0] if settings else DialoutSetting()


def _value(name: str, *given: str | None) -> str | None:
    """Return the value that was given under one or more names. Raises CallEnded if they differ."""
    values = {value for value in given if value is not None}
    if len(values) > 1:
        raise CallEnded(Reasons.bad_request, f"{name} is given several times, and differently")
    return values.pop() if values else None


def _agent_body(
    request: DialoutRequest, account: CarrierAccount, numbers: tuple[str, str], max_bytes: int
) -> str | None:
    """Return the body for the agent in base64. `numbers`: from and to. Raises CallEnded (too_large)."""
    from_number, to = numbers
    body = None
    if request.body is not None:
        raw = dump(request.body)
        if len(raw) > max_bytes:
            raise CallEnded(Reasons.too_large, f"body has {len(raw)} bytes of JSON, {max_bytes} are allowed")
        body = base64.b64encode(raw).decode("ascii")
    return body_for(body, account.carrier, from_number, to, max_bytes)


DIALOUT: Final = (
    Operation(
        method="POST",
        path="/v1/public/{agent}/dialout",
        handler=dialout,
        access=Access.PUBLIC,
        style=Style.PCC,
        summary="Call somebody",
        tag="Start",
        body=DialoutRequest,
        answers={
            200: DialoutAnswer,
            400: None,
            403: None,
            404: None,
            409: None,
            413: None,
            422: None,
            429: None,
            502: None,
            503: None,
            504: None,
        },
        unauthorized=UNAUTHORIZED_START,
        description="Answers when the carrier has accepted the call. The session holds a slot while it "
        "rings, and ends if there is no answer. Calls beyond the carrier's rate wait in a queue.",
        request_headers={
            HEADER: "The same key with the same body is answered the same for 24 hours, and calls once."
        },
        path_notes={"agent": "The agent's name."},
    ),
)
