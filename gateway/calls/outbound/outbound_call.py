# SPDX-License-Identifier: BSD-2-Clause
"""The story of a call out.

    wait in line → ask the carrier → wait for the call's stream → hand over, or give up, with one reason

The session was admitted before this begins (dialouts.py) and holds its place while it rings. When the stream
comes, to whichever worker, that worker adopts the session, and the story of a call (call.py) goes on with it.
What else can happen ends the session here: a final callback, the time, somebody who stops it. Then the place
is free first, and the carrier's call is hung up after.

A carrier is asked once. Where nobody knows whether it heard, the call is looked for and never asked again.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gateway.calls.command_bus import CallCommand
from gateway.calls.outbound.outbound_request import OutboundRequest, OutboundServices
from gateway.calls.session_end import SessionEnd, log_end, save_if_unattached
from gateway.calls.termination import Termination
from gateway.carriers.call_log import CallState, CallStatus
from gateway.carriers.rest_interface import CarrierFailed, CarrierRest, DialedCall
from gateway.model.futures import ignore_exception
from gateway.model.reasons import CallEnded, Reason, Reasons
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

FIRST_FIND_S: Final = 1.0
LONGEST_FIND_S: Final = 8.0
"""Between two looks for a call of which nobody knows whether it was made; each is twice the one before."""
RING_SLACK_S: Final = 10.0
"""Longer than asked for: the carrier's own time is rounded up, and its word is late
(docs/reference/carriers.md §2.6).
"""
STREAM_S: Final = 15.0
"""From the answer to the stream."""
MACHINE_S: Final = 40.0
"""How long a carrier may take to find out whether a machine answered."""
RATE_PAUSE_S: Final = 1.0
"""Before the line is joined again, where the carrier took no more calls and did not say for how long."""
REPEATS: Final = 2
"""How often an uncertain request is repeated, where the carrier makes one call of them
(docs/reference/carriers.md §3.5).
"""
HANG_UP_TRIES: Final = 4

_REFUSED: Final = {
    "refused": Reasons.carrier_refused,
    "rate_limited": Reasons.carrier_busy,
    "unreachable": Reasons.carrier_unreachable,
    "timeout": Reasons.carrier_timeout,
    "broken": Reasons.carrier_unreachable,
}
_UNTAKEN: Final[dict[CallStatus, Reason]] = {
    CallStatus.BUSY: Reasons.busy,
    CallStatus.NO_ANSWER: Reasons.no_answer,
    CallStatus.CANCELED: Reasons.call_canceled,
    CallStatus.FAILED: Reasons.call_failed,
    CallStatus.COMPLETED: Reasons.no_stream,
}


class OutboundCall:
    """One call out, and the task that sees to it."""

    def __init__(
        self, means: OutboundServices, wish: OutboundRequest, rest: CarrierRest, session_id: str
    ) -> None:
        self._means = means
        self._wish = wish
        self._rest = rest
        self.session_id = session_id
        self._log = log.bind(
            session=session_id,
            agent=wish.agent.service_host,
            organization=wish.agent.organization,
            carrier=wish.account.carrier,
        )
        self._loop = asyncio.get_running_loop()
        self._began_at = means.now()
        self._asked_at = 0.0
        self._asking: asyncio.Task[DialedCall] | None = None
        self._doubt: CarrierFailed | None = None  # why nobody knows whether there is a call
        self.termination = Termination()
        self.taken: asyncio.Future[str | None] = self._loop.create_future()
        """The call's id, or None where it has none yet, once the carrier has the call; or the end before."""
        self.taken.add_done_callback(ignore_exception)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Tells the story and sees to its end. Raises nothing."""
        try:
            async with self.termination.cancel_scope():
                await self._tell()
        except CallEnded as end:
            await self._give_up(end)
        except StoreFailed as error:
            await self._give_up(CallEnded(Reasons.store_failed, str(error)))
        except Exception:  # noqa: BLE001 - the edge of the call's task: it ends this call and no other
            self._log.exception("internal error")
            await self._give_up(CallEnded(Reasons.internal_error))
        else:
            self._note_taken(None)
            self._say_connected()
            await self._watch_for_machine()

    async def _tell(self) -> None:
        """The story, up to where the stream has come. Raises CallEnded where it does not."""
        wish, book = self._wish, self._means.book
        await book.record_details(self.session_id, carrier=wish.account.carrier, account=wish.account.account)
        if wish.body is not None:
            await book.save_body(self.session_id, wish.body)
        dialled = await self._dial()
        if dialled is not None:
            await self._note_dialled(dialled)
        await self._until_streaming()

    # Asking the carrier

    async def _dial(self) -> DialedCall | None:
        """Asks until the carrier has the call; None where nobody knows whether it has."""
        wish = self._wish
        request = self._means.request(wish, self.session_id)
        until = self._loop.time() + wish.timeout_s
        repeats = 0
        while True:
            await self._means.line.turn(wish.account, until - self._loop.time())
            await self._means.book.record_status(self.session_id, CallStatus.DIALING)
            self._asked_at = self._asked_at or self._means.now()
            # A task of its own: who interrupts this must still learn whether there is a call to hang up.
            self._asking = asyncio.create_task(self._rest.dial(request))
            try:
                return await asyncio.shield(self._asking)
            except CarrierFailed as failure:
                self._asking = None
                self._log.info("carrier failed", kind=failure.kind, words=failure.detail)
                if failure.uncertain and not self._rest.repeats_safely:
                    self._doubt = failure
                    return None
                if failure.uncertain and repeats < REPEATS:
                    self._doubt = failure
                    repeats += 1
                    continue
                if failure.kind != "rate_limited":
                    raise CallEnded(_REFUSED[failure.kind], failure.detail) from None
                pause_s = failure.retry_after_s or RATE_PAUSE_S
                if self._loop.time() + pause_s >= until:
                    raise CallEnded(Reasons.carrier_busy, failure.detail) from None
                await asyncio.sleep(pause_s)

    async def _note_dialled(self, dialled: DialedCall) -> None:
        await self._means.book.record_details(
            self.session_id,
            carrier=self._wish.account.carrier,
            call_id=dialled.call_id,
            request_id=dialled.request_id,
        )
        await self._means.book.record_status(self.session_id, CallStatus.QUEUED)
        self._doubt = None
        self._note_taken(dialled.call_id)

    def _note_taken(self, call_id: str | None) -> None:
        if not self.taken.done():
            self.taken.set_result(call_id)

    # Waiting for the stream

    async def _until_streaming(self) -> None:
        """Returns once a worker has adopted the session. Raises CallEnded where that will not be."""
        slack_s = RING_SLACK_S + (MACHINE_S if self._wish.machine_detection else 0)
        ring_until = self._loop.time() + self._wish.timeout_s + slack_s
        stream_until: float | None = None
        find_at, pause_s = self._loop.time() + FIRST_FIND_S, FIRST_FIND_S
        while True:
            state = CallState(self.session_id)
            try:
                # What is told of the call is read first: by then its stream may have come and gone.
                state = await self._means.book.of(self.session_id)
                if await self._is_streaming():
                    return
                self._judge(state)
                if self._doubt is not None and self._loop.time() >= find_at:
                    await self._find(state)
                    pause_s = min(pause_s * 2, LONGEST_FIND_S)
                    find_at = self._loop.time() + pause_s
            except StoreFailed as error:  # the call rings on; the next look may tell
                self._log.warning("store", error=str(error))
            now = self._loop.time()
            if stream_until is None and state.status is not None and state.status.answered:
                stream_until = now + STREAM_S + (MACHINE_S if self._wish.machine_detection else 0)
            if now >= (stream_until or ring_until):
                raise self._late(answered=stream_until is not None)
            await asyncio.sleep(self._means.pause_s())

    async def _is_streaming(self) -> bool:
        record = await self._means.store.session(self.session_id)
        if record is not None and record.stream_id is not None:
            return True
        if record is None or record.ended_at is not None:
            raise CallEnded(Reasons.stopped, "the session was ended elsewhere")
        return False

    def _judge(self, state: CallState) -> None:
        """Raises CallEnded where the carrier's word is the end."""
        if state.status in _UNTAKEN:
            raise CallEnded(_UNTAKEN[state.status], state.detail or "")
        if state.status is CallStatus.MACHINE and self._wish.machine_detection == "detect":
            raise CallEnded(Reasons.machine_answered)

    async def _find(self, state: CallState) -> None:
        """Looks for the call that a request may have made, which got no answer that could be read."""
        if state.call_id is not None or state.status not in (None, CallStatus.DIALING):
            self._doubt = None  # the carrier speaks of it
            self._note_taken(state.call_id)
            return
        try:
            found = await self._look_up()
        except CarrierFailed as failure:
            self._log.info("carrier failed", kind=failure.kind, words=failure.detail)
            return
        if found is not None:
            self._log.info("the call was made after all")
            await self._note_dialled(found)

    async def _look_up(self) -> DialedCall | None:
        request = self._means.request(self._wish, self.session_id)
        known = await self._means.book.call_ids(self._wish.account.carrier, except_session=self.session_id)
        return await self._rest.find(request, since=self._asked_at, known=known)

    def _late(self, *, answered: bool) -> CallEnded:
        if answered:
            return CallEnded(Reasons.no_stream)
        if self._doubt is not None:
            detail = f"{self._doubt.detail}; whether it called is not known"
            return CallEnded(_REFUSED[self._doubt.kind], detail)
        return CallEnded(Reasons.no_answer, f"nobody answered within {self._wish.timeout_s:g} s")

    async def _watch_for_machine(self) -> None:
        """A carrier may find out that a machine answered when the agent talks to it already."""
        if self._wish.machine_detection != "detect":
            return
        until = self._loop.time() + MACHINE_S
        try:
            while self._loop.time() < until:
                state = await self._means.book.of(self.session_id)
                record = await self._means.store.session(self.session_id)
                if record is None or not record.active:
                    return
                if state.status is CallStatus.MACHINE:
                    await self._means.commands.tell(self.session_id, CallCommand.MACHINE)
                    await self._hang_up()
                    await self._means.store.request_stop(self.session_id, self._means.now())
                if state.status in (CallStatus.MACHINE, *_UNTAKEN):
                    return
                async with self.termination.cancel_scope():
                    await asyncio.sleep(self._means.pause_s())
        except (CallEnded, StoreFailed) as end:
            self._log.info("no longer looked for a machine", words=str(end))

    # The end

    async def _give_up(self, end: CallEnded) -> None:
        """Ends the session and frees its place, unless its stream has come; then hangs up."""
        ended = SessionEnd(self.session_id, end, self._means.now(), ran=False)
        if not await save_if_unattached(self._means.store, ended):
            self._note_taken(None)
            self._say_connected()
            return
        log_end(self._log, "call out ended", end, seconds=self._means.now() - self._began_at)
        if not self.taken.done():
            self.taken.set_exception(end)
        await self._hang_up()

    async def _hang_up(self) -> None:
        """Sees to it that nothing rings on. Raises nothing."""
        pause_s = RATE_PAUSE_S
        for attempt in range(HANG_UP_TRIES):
            if attempt:
                await asyncio.sleep(pause_s)
                pause_s *= 2
            try:
                if await self._hung_up():
                    return
            except CarrierFailed as failure:
                self._log.warning("not hung up", kind=failure.kind, words=failure.detail)
                if failure.kind == "refused":
                    return
            except StoreFailed as error:
                self._log.warning("store", error=str(error))
        self._log.warning("a call may go on that nobody carries")

    async def _hung_up(self) -> bool:
        """Whether there is nothing left to hang up. Raises CarrierFailed, StoreFailed."""
        dialled = await self._answer_to_asking()
        state = await self._means.book.of(self.session_id)
        if not self._asked_at or (state.status is not None and state.status.final):
            return True
        call_id = state.call_id or (dialled and dialled.call_id)
        request_id = state.request_id or (dialled and dialled.request_id)
        if call_id is None and request_id is None:
            if self._doubt is None:
                return True  # the carrier said no
            found = await self._look_up()
            call_id = found and found.call_id
            if call_id is None:
                return False
        if "hangup" in self._rest.unsupported:
            self._log.info("not hung up", words=self._rest.unsupported["hangup"])
            return True
        answered = state.status is not None and state.status.answered
        await self._rest.hang_up(call_id or request_id or "", answered=answered and call_id is not None)
        return True

    async def _answer_to_asking(self) -> DialedCall | None:
        """What the carrier said to a request that nobody waited for any more."""
        if self._asking is None:
            return None
        try:
            return await self._asking
        except CarrierFailed as failure:
            self._asking = None
            self._doubt = failure if failure.uncertain else None
            return None

    def _say_connected(self) -> None:
        self._log.info("call out connected", seconds=round(self._means.now() - self._began_at, 3))
