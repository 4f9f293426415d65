# SPDX-License-Identifier: BSD-2-Clause
"""Control of a session's call through its carrier's REST, from any worker: hang up, transfer, send digits.

The worker that carries the session is told first (wishes.py), the carrier is asked second, and the sockets
close last: where they closed first, the document behind the stream would run, or the agent would hang up
what is to be transferred (docs/reference/carriers.md §4.5, §8.3).
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from gateway.calls.command_bus import REASON_BY_COMMAND, CallCommand
from gateway.calls.outbound.dial_limits import CallRateLimiter, check_number
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed, CarrierRest
from gateway.config import AgentSettings
from gateway.media.hangup_after_playback import HangupAfterPlayback
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reason, Reasons
from gateway.model.session import TELEPHONY_OPTIONS, SessionRecord
from serializers.dialect import Dialect
from serializers.events import Start
from texml.document import Dial, DocumentError, OwnXml

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

log = structlog.get_logger(__name__)

GIVEN_UP_S: Final = 3.0
POLL_S: Final = 0.05

_NOT_OURS: Final = frozenset(
    {
        Reasons.caller_hangup,
        Reasons.carrier_lost,
        Reasons.agent_ended,
        Reasons.agent_lost,
        Reasons.agent_failed,
        Reasons.stopped,
    }
)
"""What a wish that came to pass looks like on the sockets."""

_FAILED: Final[dict[str, Reason]] = {
    "refused": Reasons.carrier_refused,
    "rate_limited": Reasons.carrier_busy,
    "unreachable": Reasons.carrier_unreachable,
    "timeout": Reasons.carrier_timeout,
    "broken": Reasons.carrier_unreachable,
}

_NUMBER: Final = re.compile(r"\+")


class CallNotActive(Exception):  # noqa: N818 - an answer: there is no call to do it with
    """The session has no call that runs. `str()` says why."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A call that runs, and the way to its carrier."""

    record: SessionRecord
    rest: CarrierRest
    call_id: str


def reason_after_command(wish: CallCommand | None, end: CallEnded) -> CallEnded:
    """The end of a call of which something was wished: what its sockets say is only how that looked."""
    if wish in REASON_BY_COMMAND and end.reason in _NOT_OURS:
        return CallEnded(REASON_BY_COMMAND[wish])
    return end


def hangup_after_playback(
    services: CallServices, agent: AgentSettings, dialect: Dialect, start: Start
) -> HangupAfterPlayback | None:
    """What is done for the caller when the agent ends the session; None where it is only closed."""
    accounts = services.accounts.of(agent.organization, dialect.name)
    hangs_up = agent.hangup_on_agent_end
    if hangs_up is None:
        hangs_up = not isinstance(agent.after, Dial | OwnXml)
    rest = services.clients.first(accounts, start.account_id) if hangs_up else None
    if rest is None:
        return None

    call_id = start.call_id  # nothing else of it is kept while they talk

    async def hang_up() -> None:
        if "hangup" in rest.unsupported:  # its call ends with the stream
            return
        try:
            await rest.hang_up(call_id)
        except CarrierFailed as failure:
            log.warning("not hung up", carrier=dialect.name, kind=failure.kind, words=failure.detail)

    return HangupAfterPlayback(dialect, start, hang_up)


async def hang_up(services: CallServices, record: SessionRecord) -> None:
    """Hangs the session's call up, also one that rings still.

    Raises CallNotActive, CallEnded (carrier_cannot, carrier_refused and the like), StoreFailed.
    """
    if _rings(record):
        await _tell(services, record, CallCommand.GIVE_UP)
        record = await _given_up(services, record)
        if not record.active:
            return
    line = await _line(services, record, "hangup")
    await _tell(services, record, CallCommand.HANG_UP)
    try:
        await line.rest.hang_up(line.call_id)
    except CarrierFailed as failure:
        await services.commands.tell(record.session_id, CallCommand.NOTHING)
        raise _failed(failure) from None
    await services.store.request_stop(record.session_id, services.now())


async def transfer(
    services: CallServices, record: SessionRecord, to: str, *, caller_id: str | None, timeout_s: int | None
) -> None:
    """Transfers the session's call to a number or a `sip:` address; its session ends with that.

    Raises as `hang_up`, and CallEnded(bad_request, number_refused, rate_limited).
    """
    organization = services.settings.find_organization(record.organization)
    if _NUMBER.match(to):
        check_number(to, organization)  # it is called at the organisation's cost
    line = await _line(services, record, "transfer")
    if record.state is not SessionState.RUNNING:
        raise CallNotActive("the session's agent is being started")
    carrier, session_id = record.carrier, record.session_id
    callbacks = services.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", record.region)
    try:
        writer = CARRIERS[carrier].documents
        document = writer.transfer(
            to, caller_id=caller_id, action=f"{callbacks}/transferred", timeout_s=timeout_s
        )
        inline = writer.inline(document) if writer.inline_limit else None
    except DocumentError as error:
        raise CallEnded(Reasons.bad_request, str(error)) from None
    if organization is not None and _NUMBER.match(to):
        await CallRateLimiter(services.store.documents, services.now).take(organization)
    await services.call_log.save_document(session_id, document)
    await _tell(services, record, CallCommand.TRANSFER)
    try:
        await line.rest.transfer(
            line.call_id, to, document=inline, document_url=f"{callbacks}/transfer", caller_id=caller_id
        )
    except CarrierFailed as failure:
        await services.commands.tell(session_id, CallCommand.NOTHING)
        raise _failed(failure) from None
    await services.commands.tell(session_id, CallCommand.TRANSFERRED)


async def send_dtmf(services: CallServices, record: SessionRecord, digits: str) -> None:
    """Plays digits to the far end. Raises as `hang_up`."""
    line = await _line(services, record, "dtmf")
    try:
        await line.rest.send_dtmf(line.call_id, digits)
    except CarrierFailed as failure:
        raise _failed(failure) from None


async def _given_up(services: CallServices, record: SessionRecord) -> SessionRecord:
    """The session of a call that was to be given up, once it is over or its stream came just then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + GIVEN_UP_S
    while _rings(record) and loop.time() < until:
        await asyncio.sleep(POLL_S)
        record = await services.store.session(record.session_id) or record
    return record


def _rings(record: SessionRecord) -> bool:
    """Whether it is a call out without a stream."""
    return record.active and record.transport == TELEPHONY_OPTIONS.transport and record.stream_id is None


async def _line(services: CallServices, record: SessionRecord, wanted: str) -> _Line:
    """The way to a call that runs. Raises CallNotActive, CallEnded(carrier_cannot), StoreFailed."""
    if record.transport != TELEPHONY_OPTIONS.transport:
        raise CallEnded(Reasons.carrier_cannot, "the session is no telephone call")
    if not record.active or record.call_id is None or record.stream_id is None:
        raise CallNotActive(f"the session is {record.state}, and its call does not run")
    state = await services.call_log.of(record.session_id)
    rest = services.clients.first(services.accounts.of(record.organization, record.carrier), state.account)
    if rest is None:
        detail = f"the organisation has no account with {record.carrier} that could"
        raise CallEnded(Reasons.carrier_cannot, detail)
    if wanted in rest.unsupported:
        raise CallEnded(Reasons.carrier_cannot, rest.unsupported[wanted])
    return _Line(record, rest, record.call_id)


async def _tell(services: CallServices, record: SessionRecord, wish: CallCommand) -> None:
    if not await services.commands.tell(record.session_id, wish):
        raise CallNotActive("nobody carries the session's call")


def _failed(failure: CarrierFailed) -> CallEnded | CallNotActive:
    if failure.gone:
        return CallNotActive("the call is over")
    return CallEnded(_FAILED[failure.kind], failure.detail)
