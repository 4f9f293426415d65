# SPDX-License-Identifier: BSD-2-Clause
"""One outbound call, from its admission until its media stream is attached, or it is given up.

    wait for a turn → ask the carrier → wait for the stream → leave it to the worker that has the stream

`outbound_state.py` has the table of its states; every change of state is one step of it. The session was
admitted before this begins (outbound_calls.py) and holds its slot while the telephone rings. When the stream
arrives, at whichever worker, that worker attaches it to the session and ends it (inbound.py). Whatever else
happens first ends the session here: a final callback, a deadline, a stop, a fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.calls.command_bus import CallCommand, CommandBus
from gateway.calls.outbound.dial_limits import CpsLimiter
from gateway.calls.outbound.outbound_request import OutboundRequest
from gateway.calls.outbound.outbound_state import TRANSITIONS, OutboundEvent, OutboundState
from gateway.calls.session_end import SessionEnd, log_end, save_if_unattached
from gateway.calls.termination import Termination
from gateway.carriers.call_log import CallLog, CallState, CallStatus
from gateway.carriers.rest_interface import CarrierFailed, CarrierRest, DialedCall, DialRequest
from gateway.model.futures import ignore_exception
from gateway.model.reasons import CallEnded, Reason, Reasons
from gateway.store.interface import Store, StoreFailed
from gateway.store.notifications import Subscription, Topic

log = structlog.get_logger(__name__)

FIRST_SEARCH_S: Final = 1.0
MAX_SEARCH_S: Final = 8.0
"""Seconds between two searches for a call that may have been made; each is twice the one before."""
RING_SLACK_S: Final = 10.0
"""Seconds beyond the request's `timeout_s`: carriers round it up and report late (docs/reference/carriers.md
§2.6).
"""
STREAM_S: Final = 15.0
"""Seconds from the answer until the stream must have arrived."""
MACHINE_S: Final = 40.0
"""Seconds that a carrier may take to detect an answering machine."""
RATE_LIMIT_PAUSE_S: Final = 1.0
"""Seconds until the next turn after a 429 without `Retry-After`, and between the first two hang-ups."""
MAX_REPEATS: Final = 2
"""How often a request whose answer was lost is sent again, if the carrier makes one call of them
(docs/reference/carriers.md §3.5).
"""
HANG_UP_TRIES: Final = 4

_FAILURE_REASONS: Final = {
    "refused": Reasons.carrier_refused,
    "rate_limited": Reasons.carrier_busy,
    "unreachable": Reasons.carrier_unreachable,
    "timeout": Reasons.carrier_timeout,
    "broken": Reasons.carrier_unreachable,
}
_FINAL_REASONS: Final[dict[CallStatus, Reason]] = {
    CallStatus.BUSY: Reasons.busy,
    CallStatus.NO_ANSWER: Reasons.no_answer,
    CallStatus.CANCELED: Reasons.call_canceled,
    CallStatus.FAILED: Reasons.call_failed,
    CallStatus.COMPLETED: Reasons.no_stream,
}
"""The reason of a call that is over and had no stream, by the carrier's final status."""


@dataclass(frozen=True, slots=True)
class OutboundServices:
    """The services that every outbound call of a worker uses.

    `dial_request`: makes the carrier's request from ours and the session's id. `look_s`: returns the least
    seconds between two looks at a ringing call. `now`: Unix seconds.
    """

    store: Store
    call_log: CallLog
    cps: CpsLimiter
    commands: CommandBus
    dial_request: Callable[[OutboundRequest, str], DialRequest]
    look_s: Callable[[], float]
    now: Callable[[], float]


class OutboundCall:
    """One outbound call, and the task that runs it."""

    def __init__(
        self, services: OutboundServices, request: OutboundRequest, client: CarrierRest, session_id: str
    ) -> None:
        """Start the call. Its session must have been admitted. Must be called inside the event loop."""
        self._services = services
        self._request = request
        self._client = client
        self.session_id = session_id
        self.state = OutboundState.PENDING
        self._log = log.bind(
            session=session_id,
            agent=request.agent.service_host,
            organization=request.agent.organization,
            carrier=request.account.carrier,
        )
        self._loop = asyncio.get_running_loop()
        self._began_at = services.now()
        self._dialed_at = 0.0  # Unix seconds of the first request: a search looks no further back
        self._dialing: asyncio.Task[DialedCall] | None = None  # the request in flight, or the accepted one
        self._lost_answer: CarrierFailed | None = None  # why it is not known whether there is a call
        self.termination = Termination()
        self.accepted: asyncio.Future[str | None] = self._loop.create_future()
        """Done when the carrier has accepted the call. The result is the call's id, None if the carrier has
        given none yet. If the call ends before, the CallEnded is set as its exception.
        """
        self.accepted.add_done_callback(ignore_exception)
        self.task = asyncio.create_task(self._run())

    def _step(self, event: OutboundEvent) -> None:
        self.state = TRANSITIONS[self.state][event]

    async def _run(self) -> None:
        """Run the call to its end. Raises nothing."""
        try:
            async with self.termination.cancel_scope():
                await self._until_attached()
        except CallEnded as end:
            await self._give_up(end)
        except StoreFailed as error:
            await self._give_up(CallEnded(Reasons.store_failed, str(error)))
        except Exception:  # noqa: BLE001 - the edge of the call's task: it ends this call and no other
            self._log.exception("internal error")
            await self._give_up(CallEnded(Reasons.internal_error))
        else:
            self._attached()
            await self._watch_for_machine()

    async def _until_attached(self) -> None:
        """Dial, and return once a worker has attached the stream. Raises CallEnded if none will arrive."""
        request, call_log = self._request, self._services.call_log
        await call_log.record_details(
            self.session_id, carrier=request.account.carrier, account=request.account.account
        )
        if request.body is not None:
            await call_log.save_body(self.session_id, request.body)
        await self._dial()
        await self._wait_for_stream()

    # PENDING, DIALING, UNCERTAIN: asking the carrier

    async def _dial(self) -> None:
        """Ask until the carrier accepts the call, or until it is uncertain whether it did."""
        request = self._request
        dial_request = self._services.dial_request(request, self.session_id)
        deadline = self._loop.time() + request.timeout_s
        repeats = 0
        while True:
            await self._services.cps.wait_for_turn(request.account, deadline - self._loop.time())
            await self._services.call_log.record_status(self.session_id, CallStatus.DIALING)
            self._dialed_at = self._dialed_at or self._services.now()
            # A task of its own: if this is interrupted, the answer still tells whether there is a call to
            # hang up.
            self._dialing = asyncio.create_task(self._client.dial(dial_request))
            self._step(OutboundEvent.TURN)
            try:
                dialed = await asyncio.shield(self._dialing)
            except CarrierFailed as failure:
                self._dialing = None
                self._log.info("carrier failed", kind=failure.kind, words=failure.detail)
                if failure.uncertain:
                    self._lost_answer = failure
                    if not self._client.repeats_safely:
                        self._step(OutboundEvent.ANSWER_LOST)
                        return
                    if repeats < MAX_REPEATS:
                        self._step(OutboundEvent.ANSWER_LOST)
                        repeats += 1
                        continue
                if failure.kind != "rate_limited":
                    raise CallEnded(_FAILURE_REASONS[failure.kind], failure.detail) from None
                pause_s = failure.retry_after_s or RATE_LIMIT_PAUSE_S
                if self._loop.time() + pause_s >= deadline:
                    raise CallEnded(Reasons.carrier_busy, failure.detail) from None
                # An earlier request of this call may have made one all the same.
                lost = self._lost_answer is not None
                self._step(OutboundEvent.ANSWER_LOST if lost else OutboundEvent.RATE_LIMITED)
                await asyncio.sleep(pause_s)
            else:
                self._step(OutboundEvent.ACCEPTED)
                await self._note_dialed(dialed)
                return

    async def _note_dialed(self, dialed: DialedCall) -> None:
        await self._services.call_log.record_details(
            self.session_id,
            carrier=self._request.account.carrier,
            call_id=dialed.call_id,
            request_id=dialed.request_id,
        )
        await self._services.call_log.record_status(self.session_id, CallStatus.QUEUED)
        self._lost_answer = None
        self._accept(dialed.call_id)

    def _accept(self, call_id: str | None) -> None:
        if not self.accepted.done():
            self.accepted.set_result(call_id)

    # UNCERTAIN, RINGING: waiting for the stream

    async def _wait_for_stream(self) -> None:
        """Return once a worker has attached the call's stream. Raises CallEnded if none will arrive."""
        detection_s = MACHINE_S if self._request.machine_detection else 0.0
        answer_deadline = self._loop.time() + self._request.timeout_s + RING_SLACK_S + detection_s
        stream_deadline: float | None = None  # from the answer on
        search_at, pause_s = self._loop.time() + FIRST_SEARCH_S, FIRST_SEARCH_S
        with self._subscribe() as changes:
            store_fails = False
            while True:
                call = CallState(self.session_id)
                try:
                    # In this order: when a final status was read, a stream that it followed is in the store.
                    call = await self._services.call_log.of(self.session_id)
                    if await self._has_stream():
                        return
                    self._check_status(call)
                    if self.state is OutboundState.UNCERTAIN and self._loop.time() >= search_at:
                        await self._search(call)
                        pause_s = min(pause_s * 2, MAX_SEARCH_S)
                        search_at = self._loop.time() + pause_s
                    store_fails = False
                except StoreFailed as error:  # the telephone rings on; the next look may succeed
                    if not store_fails:  # one line, and not one of each look
                        self._log.warning("store", error=str(error))
                    store_fails = True
                    changes.retry()
                now = self._loop.time()
                if stream_deadline is None and call.status is not None and call.status.answered:
                    stream_deadline = now + STREAM_S + detection_s
                deadline = stream_deadline or answer_deadline
                if now >= deadline:
                    raise self._timed_out(is_answered=stream_deadline is not None)
                if self.state is OutboundState.UNCERTAIN:
                    deadline = min(deadline, search_at)
                await self._wait(changes, deadline)

    def _subscribe(self) -> Subscription:
        return self._services.store.notifications.subscribe(Topic.SESSION_CHANGED, key=self.session_id)

    async def _wait(self, changes: Subscription, deadline: float) -> None:
        """Wait until the call or its session may have changed, or until `deadline` (loop time)."""
        interval_s = self._services.look_s()
        await changes.wait(max(deadline - self._loop.time(), interval_s), min_interval_s=interval_s)

    async def _has_stream(self) -> bool:
        """Return True if the session has its stream. Raises CallEnded if it is over without; StoreFailed."""
        record = await self._services.store.session(self.session_id)
        if record is not None and record.stream_id is not None:
            return True
        if record is None or record.ended_at is not None:
            raise CallEnded(Reasons.stopped, "the session was ended elsewhere")
        return False

    def _check_status(self, call: CallState) -> None:
        """Raise CallEnded if the carrier reports that the call is over, or a machine that is not wanted."""
        if call.status in _FINAL_REASONS:
            raise CallEnded(_FINAL_REASONS[call.status], call.detail or "")
        if call.status is CallStatus.MACHINE and self._request.machine_detection == "detect":
            raise CallEnded(Reasons.machine_answered)

    async def _search(self, call: CallState) -> None:
        """Search for the call that a request with a lost answer may have made. Raises StoreFailed."""
        if call.call_id is not None or call.status not in (None, CallStatus.DIALING):
            self._lost_answer = None  # its callbacks show that there is one
            self._step(OutboundEvent.CALL_FOUND)
            self._accept(call.call_id)
            return
        try:
            dialed = await self._find()
        except CarrierFailed as failure:
            self._log.info("carrier failed", kind=failure.kind, words=failure.detail)
            return
        if dialed is not None:
            self._log.info("the call was made after all")
            await self._note_dialed(dialed)
            self._step(OutboundEvent.CALL_FOUND)

    async def _find(self) -> DialedCall | None:
        """Search the carrier's list of calls. Raises CarrierFailed, StoreFailed."""
        dial_request = self._services.dial_request(self._request, self.session_id)
        carrier = self._request.account.carrier
        known = await self._services.call_log.call_ids(carrier, except_session=self.session_id)
        return await self._client.find(dial_request, since=self._dialed_at, known=known)

    def _timed_out(self, *, is_answered: bool) -> CallEnded:
        if is_answered:
            return CallEnded(Reasons.no_stream)
        if self._lost_answer is not None:
            detail = f"{self._lost_answer.detail}; whether it called is not known"
            return CallEnded(_FAILURE_REASONS[self._lost_answer.kind], detail)
        return CallEnded(Reasons.no_answer, f"nobody answered within {self._request.timeout_s:g} s")

    # ATTACHED

    def _attached(self) -> None:
        self._services.store.forget_attached(self.session_id)
        self._step(OutboundEvent.STREAM_ATTACHED)
        self._accept(None)
        self._log.info("call out connected", seconds=round(self._services.now() - self._began_at, 3))

    async def _watch_for_machine(self) -> None:
        """Hang up if the carrier detects a machine although the agent talks already. Raises nothing."""
        deadline = self._loop.time() + MACHINE_S
        try:
            with self._subscribe() as changes:
                while self._request.machine_detection == "detect" and self._loop.time() < deadline:
                    call = await self._services.call_log.of(self.session_id)
                    record = await self._services.store.session(self.session_id)
                    if record is None or not record.active:
                        break
                    if call.status is CallStatus.MACHINE:
                        await self._services.commands.send(self.session_id, CallCommand.MACHINE)
                        self._step(OutboundEvent.MACHINE_DETECTED)
                        await self._hang_up()
                        await self._services.commands.stop(self.session_id)
                        return
                    if call.status in _FINAL_REASONS:
                        break
                    async with self.termination.cancel_scope():
                        await self._wait(changes, deadline)
        except (CallEnded, StoreFailed) as end:
            self._log.info("no longer looked for a machine", words=str(end))
            if self.state is OutboundState.ATTACHED:  # not ENDED already: the call was hung up
                self._step(OutboundEvent.GIVEN_UP)
        else:
            self._step(OutboundEvent.RELEASED)

    # The end

    async def _give_up(self, end: CallEnded) -> None:
        """End the session, which frees its slot, and then hang up; unless the stream has been attached."""
        ended = SessionEnd(self.session_id, end, self._services.now(), ran=False)
        if not await save_if_unattached(self._services.store, ended):
            self._attached()
            self._step(OutboundEvent.GIVEN_UP)
            return
        log_end(self._log, "call out ended", end, seconds=self._services.now() - self._began_at, ran=False)
        if not self.accepted.done():
            self.accepted.set_exception(end)
        self._step(OutboundEvent.GIVEN_UP)
        if self.state is OutboundState.HANGING_UP:
            await self._hang_up()

    async def _hang_up(self) -> None:
        """Hang up whatever call there may be. Raises nothing."""
        pause_s = RATE_LIMIT_PAUSE_S
        for attempt in range(HANG_UP_TRIES):
            if attempt:
                await asyncio.sleep(pause_s)
                pause_s *= 2
            try:
                if await self._try_hang_up():
                    break
            except CarrierFailed as failure:
                self._log.warning("not hung up", kind=failure.kind, words=failure.detail)
                if failure.kind == "refused":
                    break
            except StoreFailed as error:
                self._log.warning("store", error=str(error))
        else:
            self._log.warning("a call may go on that nobody carries")
        self._step(OutboundEvent.NO_CALL_LEFT)

    async def _try_hang_up(self) -> bool:
        """Return True if no call is left, False to try again. Raises CarrierFailed, StoreFailed."""
        dialed = await self._late_answer()
        call = await self._services.call_log.of(self.session_id)
        if call.status is not None and call.status.final:
            return True
        call_id = call.call_id or (dialed and dialed.call_id)
        request_id = call.request_id or (dialed and dialed.request_id)
        if call_id is None and request_id is None:
            if self._lost_answer is None:
                return True  # the carrier refused
            dialed = await self._find()
            call_id = dialed and dialed.call_id
            if call_id is None:
                return False
        if "hangup" in self._client.unsupported:
            self._log.info("not hung up", words=self._client.unsupported["hangup"])
            return True
        is_answered = call_id is not None and call.status is not None and call.status.answered
        await self._client.hang_up(call_id or request_id or "", answered=is_answered)
        return True

    async def _late_answer(self) -> DialedCall | None:
        """Return the answer to a request that was in flight when the call was given up, once it is there."""
        if self._dialing is None:
            return None
        try:
            return await self._dialing
        except CarrierFailed as failure:
            self._dialing = None
            if failure.uncertain:
                self._lost_answer = failure
            return None
