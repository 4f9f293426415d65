# SPDX-License-Identifier: BSD-2-Clause
"""Call control through the carrier's REST API, from any worker: hang up, transfer, send digits.

The order is always the same: the worker that runs the call gets the command first (command_bus.py), then the
carrier is asked, and the sockets close last. If they closed first, the document behind the stream would run,
or the agent would hang up the call that is to be transferred (docs/reference/carriers.md §4.5, §8.3).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from gateway.calls.awaited_streams import awaits_stream
from gateway.calls.command_bus import REASON_BY_COMMAND, CallCommand
from gateway.calls.deferred_command import DeferredCommand, wait_for_playback
from gateway.calls.services import CallServices
from gateway.calls.spending import CallRateLimiter, check_destination
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed, CarrierRest, JoiningRest
from gateway.config import AgentSettings
from gateway.media.hangup_after_playback import HangupAfterPlayback
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reason, Reasons
from gateway.model.session import TELEPHONY_OPTIONS, SessionRecord
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Topic
from serializers.dialect import Dialect
from serializers.events import Start
from texml.document import Dial, DocumentError, OwnXml

log = structlog.get_logger(__name__)

CANCEL_TIMEOUT_S: Final = 3.0
"""Seconds to wait for the end of a ringing call that is to be canceled."""

_EFFECTS: Final = frozenset(
    {
        Reasons.caller_hangup,
        Reasons.carrier_lost,
        Reasons.agent_ended,
        Reasons.agent_lost,
        Reasons.agent_failed,
        Reasons.stopped,
    }
)
"""The reasons that a command's effect looks like on the sockets."""

_FAILURE_REASONS: Final[dict[str, Reason]] = {
    "refused": Reasons.carrier_refused,
    "rate_limited": Reasons.carrier_busy,
    "unreachable": Reasons.carrier_unreachable,
    "timeout": Reasons.carrier_timeout,
    "broken": Reasons.carrier_unreachable,
}


class MayFollow(Protocol):
    """A call of which something may be asked just before its agent ends it."""

    @property
    def deferred(self) -> DeferredCommand | None:
        """The command that waits for the agent's last sound; None for nothing."""


class CallNotActive(Exception):  # noqa: N818 - an answer, not a fault
    """The session has no running call. `str()` says why."""


@dataclass(frozen=True, slots=True)
class RunningCall:
    """A running call, and the client of the carrier's account that it belongs to."""

    client: CarrierRest
    call_id: str


def reason_after_command(command: CallCommand | None, end: CallEnded) -> CallEnded:
    """Return the end of a call that got `command`: the command's own, if `end` is only its effect."""
    if command in REASON_BY_COMMAND and end.reason in _EFFECTS:
        return CallEnded(REASON_BY_COMMAND[command])
    return end


def hangup_after_playback(
    services: CallServices,
    agent: AgentSettings,
    dialect: Dialect,
    start: Start,
    call: MayFollow,
) -> HangupAfterPlayback:
    """Return how to end the call when the agent ends the session.

    The call is hung up unless the agent's settings say otherwise, or its `after` dials a number; without an
    account at the carrier only its stream can be closed. Either way after the last sound. `call`: may have
    been asked to end in another way, which is done then.
    """
    longest_s = services.settings.limits.playback_timeout
    hangs_up = agent.hangup_on_agent_end
    if hangs_up is None:
        hangs_up = not isinstance(agent.after, Dial | OwnXml)
    accounts = services.accounts.of(agent.organization, dialect.name)
    client = services.clients.first(accounts, start.account_id) if hangs_up else None

    async def hang_up() -> None:
        if client is None or "hangup" in client.unsupported:  # the stream's end is all
            return
        try:
            await client.hang_up(start.call_id)
        except CarrierFailed as failure:
            log.warning("not hung up", carrier=dialect.name, kind=failure.kind, words=failure.detail)

    async def end_call() -> None:
        if call.deferred is None:
            await hang_up()
        else:
            await call.deferred.instead_of(hang_up)

    hangs_up = client is not None or call.deferred is not None
    return HangupAfterPlayback(dialect, start, end_call, hangs_up=hangs_up, longest_s=longest_s)


async def hang_up(services: CallServices, record: SessionRecord, *, at_once: bool = False) -> None:
    """Hang up the session's call, also one that is ringing.

    The caller hears out what the agent has said, unless `at_once`. Raises CallNotActive, CallEnded
    (carrier_cannot or one of the carrier's failures), StoreFailed.
    """
    if _is_ringing(record):
        await send_command(services, record, CallCommand.CANCEL)
        record = await _until_canceled(services, record)
        if not record.active:
            return
    call = await running_call(services, record, "hangup")
    if not at_once:
        await wait_for_playback(services, record, CallCommand.WAIT_TO_HANG_UP)
        ended = await services.store.session(record.session_id)
        if ended is None or not ended.active:  # the agent has ended the session meanwhile, or the caller
            with suppress(CarrierFailed):
                await call.client.hang_up(call.call_id)
            return
    await send_command(services, record, CallCommand.HANG_UP)
    try:
        await call.client.hang_up(call.call_id)
    except CarrierFailed as failure:
        await services.commands.send(record.session_id, CallCommand.REVOKED)
        raise _failed(failure) from None
    await services.commands.stop(record.session_id)


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """The destination of a transfer: a number in E.164 form, or a `sip:` address.

    `timeout_s`: seconds it may ring; None for the carrier's own. `is_configured`: whether the operator wrote
    the number into the configuration. `at_once`: the caller need not hear out what the agent has said.
    """

    to: str
    caller_id: str | None = None
    timeout_s: int | None = None
    is_configured: bool = False
    at_once: bool = False


async def transfer(services: CallServices, record: SessionRecord, request: TransferRequest) -> None:
    """Transfer the session's call, which ends the session.

    Raises as `hang_up`, and CallEnded(bad_request, number_refused, rate_limited).
    """
    organization = services.settings.find_organization(record.organization)
    if not request.is_configured:
        check_destination(request.to, organization)  # the organisation pays for the call
    call = await running_call(services, record, "transfer")
    if record.state is not SessionState.RUNNING and not request.is_configured:
        raise CallNotActive("the session's agent is being started")  # and not: it could not be
    carrier, session_id = record.carrier, record.session_id
    agent = services.agents.find(record.agent)
    time_limit_s = None if agent is None else agent.max_session_duration  # as a call out has
    callbacks = services.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", record.region)
    try:
        writer = CARRIERS[carrier].documents
        document = writer.transfer(
            request.to,
            caller_id=request.caller_id,
            action=f"{callbacks}/transferred",
            timeout_s=request.timeout_s,
            time_limit_s=time_limit_s,
        )
        if writer.inline_limit:
            writer.inline(document)
    except DocumentError as error:
        raise CallEnded(Reasons.bad_request, str(error)) from None
    spending = CallRateLimiter(services.store.key_values, services.now)
    if request.is_configured:
        await spending.acquire_forwarding(organization)
    elif organization is not None:
        await spending.acquire(organization)
    await services.call_log.save_document(session_id, document)
    if not request.at_once and not await wait_for_playback(services, record, CallCommand.WAIT_TO_TRANSFER):
        raise CallNotActive("the call is over")
    moved = MovedCall(request.to, document, request.caller_id, time_limit_s)
    await move_call(services, record, call, moved)


@dataclass(frozen=True, slots=True)
class MovedCall:
    """The place that a call is moved to. `document`: for carriers that take one; the others use the rest.

    `join_with`: the id of the call that it is joined with, for a carrier that does so by request.
    """

    to: str
    document: str
    caller_id: str | None
    time_limit_s: int | None
    join_with: str | None = None


async def move_call(
    services: CallServices, record: SessionRecord, call: RunningCall, moved: MovedCall
) -> None:
    """Move a call away from its stream, which ends its session as `transferred`.

    `moved.document` must be stored (`CallLog.save_document`). Raises as `hang_up`.
    """
    session_id, carrier = record.session_id, record.carrier
    writer = CARRIERS[carrier].documents
    callbacks = services.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", record.region)
    await send_command(services, record, CallCommand.TRANSFER)
    try:
        if moved.join_with is not None and isinstance(call.client, JoiningRest):
            await call.client.join(call.call_id, moved.join_with)
        else:
            await call.client.transfer(
                call.call_id,
                moved.to,
                document=moved.document if writer.inline_limit else None,
                document_url=f"{callbacks}/transfer",
                caller_id=moved.caller_id,
                time_limit_s=moved.time_limit_s,
            )
    except CarrierFailed as failure:
        await services.commands.send(session_id, CallCommand.REVOKED)
        raise _failed(failure) from None
    try:
        await services.commands.send(session_id, CallCommand.TRANSFERRED)
    except StoreFailed as error:  # the carrier has done it; the stream's end shows it to the worker
        log.warning("store", session=session_id, error=str(error))


async def send_dtmf(services: CallServices, record: SessionRecord, digits: str) -> None:
    """Send digits to the far end of the session's call. Raises as `hang_up`."""
    call = await running_call(services, record, "dtmf")
    try:
        await call.client.send_dtmf(call.call_id, digits)
    except CarrierFailed as failure:
        raise _failed(failure) from None


async def _until_canceled(services: CallServices, record: SessionRecord) -> SessionRecord:
    """Wait until a ringing call's session is over, or its stream arrived all the same. Return its record."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CANCEL_TIMEOUT_S
    with services.store.notifications.subscribe(
        Topic.SESSION_CHANGED, key=record.session_id, urgent=True
    ) as changes:
        while _is_ringing(record) and (left_s := deadline - loop.time()) > 0:
            await changes.wait(left_s)
            record = await services.store.session(record.session_id) or record
    return record


def _is_ringing(record: SessionRecord) -> bool:
    """Return True if the session is an outbound call that has no stream yet."""
    is_telephony = record.transport == TELEPHONY_OPTIONS.transport
    return record.active and is_telephony and record.stream_id is None and not awaits_stream(record)


async def running_call(services: CallServices, record: SessionRecord, action: str) -> RunningCall:
    """Return the session's call. `action`: what is asked of the carrier, as in `CarrierRest.unsupported`.

    Raises CallNotActive, CallEnded(carrier_cannot), StoreFailed.
    """
    if record.transport != TELEPHONY_OPTIONS.transport:
        raise CallEnded(Reasons.carrier_cannot, "the session is no telephone call")
    if not record.active or record.call_id is None or record.stream_id is None:
        raise CallNotActive(f"the session is {record.state}, and its call does not run")
    state = await services.call_log.of(record.session_id)
    client = services.clients.first(services.accounts.of(record.organization, record.carrier), state.account)
    if client is None:
        detail = f"the organisation has no account with {record.carrier} that could"
        raise CallEnded(Reasons.carrier_cannot, detail)
    if action in client.unsupported:
        raise CallEnded(Reasons.carrier_cannot, client.unsupported[action])
    return RunningCall(client, record.call_id)


async def send_command(services: CallServices, record: SessionRecord, command: CallCommand) -> None:
    """Send a command to the worker that runs the call. Raises CallNotActive if no worker follows it."""
    if not await services.commands.send(record.session_id, command):
        raise CallNotActive("nobody carries the session's call")


def _failed(failure: CarrierFailed) -> CallEnded | CallNotActive:
    if failure.gone:
        return CallNotActive("the call is over")
    return CallEnded(_FAILURE_REASONS[failure.kind], failure.detail)
