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
from gateway.calls.outbound.outbound_call import OutboundCall
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


MAX_CALLS: Final = 50
"""Calls of one request."""


class DialoutSetting(BaseModel):
    """One call, in the forms of Daily's and Pipecat's guides."""

    model_config = ConfigDict(frozen=True)

    phone_number: str | None = Field(default=None, description="The number to call.")
    sip_uri: str | None = Field(default=None, description="The SIP address to call, in its place.")
    caller_id: str | None = Field(default=None, description="The caller id.")
    phone_number_: str | None = Field(
        default=None, alias="phoneNumber", description="The same as `phone_number`."
    )
    sip_uri_: str | None = Field(default=None, alias="sipUri", description="The same as `sip_uri`.")
    caller_id_: str | None = Field(default=None, alias="callerId", description="The same as `caller_id`.")


class DialoutRequest(BaseModel):
    """A call to place. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True)

    to: str | None = Field(
        default=None,
        description="The number to call, in E.164 form, or a SIP address, `sip:USER@HOST`.",
        examples=["+14155550142"],
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
        default=None,
        description=f"The same as `to` and `from`, of one call or of several, at most {MAX_CALLS}: each is a "
        "session of its own. If one of them may not be placed, none is.",
    )


class DialoutCall(BaseModel):
    """The session of a call, which waits for its media stream."""

    session_id: str = Field(
        serialization_alias="sessionId", examples=["7c9e6679-7425-40de-944b-e07fc1f90ae7"]
    )
    call_id: str | None = Field(
        default=None,
        serialization_alias="callId",
        description="The carrier's id of the call, if it has one already.",
        examples=["CA00000000000000000000000000000001"],
    )
    status: Literal["queued", "dialing", "failed"] = Field(
        description="`queued`: the carrier has the call. `dialing`: it is in the queue, or the carrier has "
        "not answered yet. `failed`, of one of several calls: the carrier did not take it. The session has "
        "the call's further course."
    )
    error: str | None = Field(default=None, description="Why the call has failed.")


class DialoutAnswer(DialoutCall):
    """The session of the call, or of the first of several."""

    calls: list[DialoutCall] | None = Field(
        default=None, description="All of several calls, in the order of `dialout_settings`."
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
    requests = [_outbound_request(context, request, agent, each) for each in _settings(request)]
    calls = await context.services.outbound.start_all(requests)
    # The calls continue whatever becomes of this request.
    await asyncio.wait([call.accepted for call in calls], timeout=ANSWER_S)
    placed = [_placed(call) for call in calls]
    if all(each.status == "failed" for each in placed):
        calls[0].accepted.result()  # raises its end
    answer = DialoutAnswer(**placed[0].model_dump(), calls=placed if len(placed) > 1 else None)
    return Answer(200, answer.model_dump(mode="json", by_alias=True, exclude_none=True))


def _placed(call: OutboundCall) -> DialoutCall:
    """Return what is known of a call by now."""
    accepted = call.accepted
    if not accepted.done():
        return DialoutCall(session_id=call.session_id, status="dialing")
    if (failure := accepted.exception()) is None:
        return DialoutCall(session_id=call.session_id, call_id=accepted.result(), status="queued")
    words = failure.public_detail if isinstance(failure, CallEnded) else None
    return DialoutCall(session_id=call.session_id, status="failed", error=words)


def _outbound_request(
    context: Context, request: DialoutRequest, agent: AgentSettings, setting: DialoutSetting
) -> OutboundRequest:
    """Return one call to place. Raises CallEnded: bad_request, carrier_cannot, too_large."""
    services = context.services
    settings = services.calls.settings
    organization = settings.find_organization(agent.organization)
    if organization is None:
        raise CallEnded(Reasons.carrier_cannot, "the organisation has no account with any carrier")
    account = _account(organization, request.carrier)
    to = _value(
        "to",
        request.to,
        request.to_number,
        request.phone_number,
        *(setting.phone_number, setting.phone_number_, setting.sip_uri, setting.sip_uri_),
    )
    from_number = _value("from", request.from_, request.from_number, setting.caller_id, setting.caller_id_)
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


def _settings(request: DialoutRequest) -> list[DialoutSetting]:
    """Return the settings of each call, empty for one without. Raises CallEnded(bad_request)."""
    settings = request.dialout_settings
    if not isinstance(settings, list):
        return [settings or DialoutSetting()]
    if len(settings) > MAX_CALLS:
        raise CallEnded(Reasons.bad_request, f"dialout_settings has more than {MAX_CALLS} calls")
    return settings or [DialoutSetting()]


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
        description="Answers when the carrier has accepted the call, or all of several. A session holds a "
        "slot while it rings, and ends if there is no answer. Calls beyond the carrier's rate wait in a "
        "queue.",
        request_headers={
            HEADER: "The same key with the same body is answered the same for 24 hours, and calls once."
        },
        path_notes={"agent": "The agent's name."},
    ),
)
