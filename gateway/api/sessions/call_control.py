# SPDX-License-Identifier: BSD-2-Clause
"""Control of a session's call:

`POST /v1/sessions/{session_id}/call/…` hangs up, transfers, or sends digits.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.api.framework.errors import ApiError, not_found
from gateway.api.framework.operation import Access, Answer, Context, Operation, Style
from gateway.calls import control
from gateway.model.addresses import PHONE_NUMBER
from gateway.model.session import SessionRecord
from texml.document import MAX_TEXT_CHARACTERS

NUMBER_OR_SIP: Final = rf"^({PHONE_NUMBER}|sips?:[!-~]{{1,250}})$"
NUMBER: Final = rf"^{PHONE_NUMBER}$"
DIGITS: Final = r"^[0-9A-D*#wW]{1,32}$"

_TAG: Final = "Calls"


class _Request(BaseModel):
    """A request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_AT_ONCE: Final = (
    "Do not wait until the caller has heard what the agent has said so far. By default it waits as long as "
    "that lasts, `playback_timeout` at the longest."
)


class HangUp(_Request):
    """When to hang up."""

    at_once: bool = Field(default=False, description=_AT_ONCE)


class Nothing(_Request):
    """No parameters."""


class Transfer(_Request):
    """The destination of a transfer."""

    to: str = Field(
        pattern=NUMBER_OR_SIP,
        description="A number in E.164 form, which the organisation's `dial_prefixes` must allow, or a "
        "`sip:` address, whose user they must allow if it is a number.",
        examples=["+14155550142"],
    )
    caller_id: str | None = Field(
        default=None,
        pattern=NUMBER,
        description="The caller id of the new call. By default the carrier chooses.",
    )
    timeout_seconds: int | None = Field(
        default=None, ge=5, le=120, description="Seconds it may ring. By default the carrier's own limit."
    )
    at_once: bool = Field(default=False, description=_AT_ONCE)
    mode: Literal["cold", "warm"] = Field(
        default="cold",
        description="`warm`: the called person is reached and told first, while the caller stays with the "
        "agent and hears the holding sound; both are joined once key 1 takes the call.",
    )
    announcement: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TEXT_CHARACTERS,
        description="What the called person of a warm transfer hears; it should say that key 1 takes the "
        "call.",
        examples=["A customer asks about order 4711. Press 1 to take the call."],
    )

    @model_validator(mode="after")
    def _check_announcement(self) -> Transfer:
        if self.announcement is not None and self.mode == "cold":
            raise ValueError("an announcement belongs to mode warm")
        return self


class Dtmf(_Request):
    """Digits for the other party of the call."""

    digits: str = Field(pattern=DIGITS, description="0-9, A-D, *, #; w and W are pauses.", examples=["1w2#"])


class CallAction(BaseModel):
    """The action that was taken."""

    object: Literal["call"] = "call"
    session: str = Field(description="The session's id.", examples=["7c9e6679-7425-40de-944b-e07fc1f90ae7"])
    action: Literal["hung_up", "transferred", "consulting", "withdrawn", "dtmf_sent"]


async def hang_up(context: Context) -> Answer:
    """`POST …/call/hangup`: hang up."""
    request = context.body_as(HangUp)
    record = await _session(context)
    await _checked(control.hang_up(context.services.calls, record, at_once=request.at_once))
    return Answer(200, CallAction(session=record.session_id, action="hung_up"))


async def transfer(context: Context) -> Answer:
    """`POST …/call/transfer`: transfer the call."""
    request = context.body_as(Transfer)
    record = await _session(context)
    requested = control.TransferRequest(
        request.to, request.caller_id, request.timeout_seconds, at_once=request.at_once
    )
    if request.mode == "warm":
        consultations = context.services.outbound.consultations
        await _checked(consultations.start(record, requested, request.announcement))
        return Answer(200, CallAction(session=record.session_id, action="consulting"))
    await _checked(control.transfer(context.services.calls, record, requested))
    return Answer(200, CallAction(session=record.session_id, action="transferred"))


async def withdraw(context: Context) -> Answer:
    """`POST …/call/transfer/withdraw`: take the caller back from a warm transfer."""
    record = await _session(context)
    if not await context.services.outbound.consultations.withdraw(record.session_id):
        raise ApiError(409, "call_not_active", "Nobody is being called for this caller")
    return Answer(200, CallAction(session=record.session_id, action="withdrawn"))


async def dtmf(context: Context) -> Answer:
    """`POST …/call/dtmf`: send digits."""
    request = context.body_as(Dtmf)
    record = await _session(context)
    await _checked(control.send_dtmf(context.services.calls, record, request.digits))
    return Answer(200, CallAction(session=record.session_id, action="dtmf_sent"))


async def _session(context: Context) -> SessionRecord:
    """Return the session that the path names. Raises ApiError (404), StoreFailed."""
    record = await context.services.calls.store.session(context.path["session_id"])
    if record is None or record.organization != context.caller.organization:
        raise not_found("There is no such session", Style.ENVELOPE)
    return record


async def _checked(work: Awaitable[object]) -> None:
    """Wait for a command to the carrier. Raises ApiError (409) if the session has no active call."""
    try:
        await work
    except control.CallNotActive as error:
        raise ApiError(409, "call_not_active", str(error)) from None


_ANSWERS: Final = {
    200: CallAction,
    400: None,
    403: None,
    409: None,
    422: None,
    429: None,
    502: None,
    503: None,
    504: None,
}
_ID_NOTE: Final = {"session_id": "The session's id, as in the start's answer or in the agent's headers."}

CALL_CONTROL: Final = (
    Operation(
        "POST",
        "/v1/sessions/{session_id}/call/hangup",
        hang_up,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Hang up a session's call",
        _TAG,
        audited=True,
        body=HangUp,
        answers=_ANSWERS,
        description="Through the carrier, once the caller has heard the agent out; the session ends as "
        "`hung_up`. A ringing call is cancelled. What "
        "the carrier does not support is refused with `carrier_cannot` and the reason.",
        path_notes=_ID_NOTE,
    ),
    Operation(
        "POST",
        "/v1/sessions/{session_id}/call/transfer",
        transfer,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Transfer a session's call",
        _TAG,
        audited=True,
        body=Transfer,
        answers=_ANSWERS,
        description="Cold: the call goes to a number or a SIP address, once the caller has heard the agent "
        "out; the session ends as `transferred`. Warm: the answer comes when the carrier has the call to the "
        "other person, and the session's `consultation` says how it goes. An "
        "agent that gets the call's id keeps its socket, without audio, until the call is over.",
        path_notes=_ID_NOTE,
    ),
    Operation(
        "POST",
        "/v1/sessions/{session_id}/call/transfer/withdraw",
        withdraw,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Take a caller back from a warm transfer",
        _TAG,
        audited=True,
        body=Nothing,
        answers=_ANSWERS,
        description="The other person is not called any more, unless it has taken the call already.",
        path_notes=_ID_NOTE,
    ),
    Operation(
        "POST",
        "/v1/sessions/{session_id}/call/dtmf",
        dtmf,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Send digits",
        _TAG,
        audited=True,
        body=Dtmf,
        answers=_ANSWERS,
        description="To the other party of the call, if the carrier supports it.",
        path_notes=_ID_NOTE,
    ),
)
