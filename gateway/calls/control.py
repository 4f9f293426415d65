# SPDX-License-Identifier: BSD-2-Clause
"""Control of a session's call through its carrier's REST, from any worker: hang up, transfer, send digits.

The worker that carries the session is told first (wishes.py), the carrier is asked second, and the sockets
close last: where they closed first, the document behind the stream would run, or the agent would hang up
what is to be transferred (carriers.md §4.5, §8.3).
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from gateway.calls.wishes import ENDS, Wish
from gateway.carriers.rest import CarrierFailed, CarrierRest
from gateway.config import AgentSettings
from gateway.dialing.dial_line import Minutes, check_number
from gateway.errors import CallEnd, Ending, Endings
from gateway.media.apart import Farewell
from gateway.sessions.lifecycle import State
from gateway.sessions.session import TELEPHONY, SessionRecord
from serializers.dialect import Dialect
from serializers.events import Start
from texml.errors import DocumentError
from texml.plan import Dial, OwnXml, read_tail
from texml.registry import WRITERS

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard

log = structlog.get_logger(__name__)

GIVEN_UP_S: Final = 3.0
POLL_S: Final = 0.05

_NOT_OURS: Final = frozenset(
    {
        Endings.caller_hangup,
        Endings.carrier_lost,
        Endings.agent_ended,
        Endings.agent_lost,
        Endings.agent_failed,
        Endings.stopped,
    }
)
"""What a wish that came to pass looks like on the sockets."""

_FAILED: Final[dict[str, Ending]] = {
    "refused": Endings.carrier_refused,
    "rate_limited": Endings.carrier_busy,
    "unreachable": Endings.carrier_unreachable,
    "timeout": Endings.carrier_timeout,
    "broken": Endings.carrier_unreachable,
}

_NUMBER: Final = re.compile(r"\+")


class NotCarried(Exception):  # noqa: N818 - an answer: there is no call to do it with
    """The session has no call that runs. `str()` says why."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A call that runs, and the way to its carrier."""

    record: SessionRecord
    rest: CarrierRest
    call_id: str


def told_end(wish: Wish | None, end: CallEnd) -> CallEnd:
    """The end of a call of which something was wished: what its sockets say is only how that looked."""
    if wish in ENDS and end.ending in _NOT_OURS:
        return CallEnd(ENDS[wish])
    return end


def farewell_of(board: Switchboard, agent: AgentSettings, dialect: Dialect, start: Start) -> Farewell | None:
    """What is done for the caller when the agent ends the session; None where it is only closed."""
    accounts = board.accounts.of(agent.organization, dialect.name)
    hangs_up = agent.hangup_on_agent_end
    if hangs_up is None:
        hangs_up = not isinstance(read_tail(agent.after), Dial | OwnXml)
    rest = board.rests.first(accounts, start.account_id) if hangs_up else None
    if rest is None:
        return None

    call_id = start.call_id  # nothing else of it is kept while they talk

    async def hang_up() -> None:
        if "hangup" in rest.cannot:  # its call ends with the stream
            return
        try:
            await rest.hang_up(call_id)
        except CarrierFailed as failure:
            log.warning("not hung up", carrier=dialect.name, kind=failure.kind, words=failure.words)

    return Farewell(dialect, start, hang_up)


async def hang_up(board: Switchboard, record: SessionRecord) -> None:
    """Hangs the session's call up, also one that rings still.

    Raises NotCarried, CallEnd (carrier_cannot, carrier_refused and the like), StoreFailed.
    """
    if _rings(record):
        await _tell(board, record, Wish.GIVE_UP)
        record = await _given_up(board, record)
        if not record.active:
            return
    line = await _line(board, record, "hangup")
    await _tell(board, record, Wish.HANG_UP)
    try:
        await line.rest.hang_up(line.call_id)
    except CarrierFailed as failure:
        await board.wishes.tell(record.session_id, Wish.NOTHING)
        raise _failed(failure) from None
    await board.store.request_stop(record.session_id, board.now())


async def transfer(
    board: Switchboard, record: SessionRecord, to: str, *, caller_id: str | None, timeout_s: int | None
) -> None:
    """Transfers the session's call to a number or a `sip:` address; its session ends with that.

    Raises as `hang_up`, and CallEnd(bad_request, number_refused, rate_limited).
    """
    organization = next(
        (one for one in board.settings.organizations if one.name == record.organization), None
    )
    if _NUMBER.match(to):
        check_number(to, organization)  # it is called at the organisation's cost
    line = await _line(board, record, "transfer")
    if record.state is not State.RUNNING:
        raise NotCarried("the session's agent is being started")
    carrier, session_id = record.carrier, record.session_id
    callbacks = board.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", record.region)
    try:
        document = WRITERS[carrier].transfer(
            to, caller_id=caller_id, action=f"{callbacks}/transferred", timeout_s=timeout_s
        )
        inline = WRITERS[carrier].inline(document) if WRITERS[carrier].inline_limit else None
    except DocumentError as error:
        raise CallEnd(Endings.bad_request, str(error)) from None
    if organization is not None and _NUMBER.match(to):
        await Minutes(board.store.documents, board.now).take(organization)
    await board.call_book.keep_document(session_id, document)
    await _tell(board, record, Wish.TRANSFER)
    try:
        await line.rest.transfer(
            line.call_id, to, document=inline, document_url=f"{callbacks}/transfer", caller_id=caller_id
        )
    except CarrierFailed as failure:
        await board.wishes.tell(session_id, Wish.NOTHING)
        raise _failed(failure) from None
    await board.wishes.tell(session_id, Wish.TRANSFERRED)


async def send_dtmf(board: Switchboard, record: SessionRecord, digits: str) -> None:
    """Plays digits to the far end. Raises as `hang_up`."""
    line = await _line(board, record, "dtmf")
    try:
        await line.rest.send_dtmf(line.call_id, digits)
    except CarrierFailed as failure:
        raise _failed(failure) from None


async def _given_up(board: Switchboard, record: SessionRecord) -> SessionRecord:
    """The session of a call that was to be given up, once it is over or its stream came just then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + GIVEN_UP_S
    while _rings(record) and loop.time() < until:
        await asyncio.sleep(POLL_S)
        record = await board.store.session(record.session_id) or record
    return record


def _rings(record: SessionRecord) -> bool:
    """Whether it is a call out without a stream."""
    return record.active and record.transport == TELEPHONY.transport and record.stream_id is None


async def _line(board: Switchboard, record: SessionRecord, wanted: str) -> _Line:
    """The way to a call that runs. Raises NotCarried, CallEnd(carrier_cannot), StoreFailed."""
    if record.transport != TELEPHONY.transport:
        raise CallEnd(Endings.carrier_cannot, "the session is no telephone call")
    if not record.active or record.call_id is None or record.stream_id is None:
        raise NotCarried(f"the session is {record.state}, and its call does not run")
    state = await board.call_book.of(record.session_id)
    rest = board.rests.first(board.accounts.of(record.organization, record.carrier), state.account)
    if rest is None:
        words = f"the organisation has no account with {record.carrier} that could"
        raise CallEnd(Endings.carrier_cannot, words)
    if wanted in rest.cannot:
        raise CallEnd(Endings.carrier_cannot, rest.cannot[wanted])
    return _Line(record, rest, record.call_id)


async def _tell(board: Switchboard, record: SessionRecord, wish: Wish) -> None:
    if not await board.wishes.tell(record.session_id, wish):
        raise NotCarried("nobody carries the session's call")


def _failed(failure: CarrierFailed) -> CallEnd | NotCarried:
    if failure.gone:
        return NotCarried("the call is over")
    return CallEnd(_FAILED[failure.kind], failure.words)
