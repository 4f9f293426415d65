# SPDX-License-Identifier: BSD-2-Clause
"""One consultation, from the request for a warm transfer until the caller is moved, or back with the agent.

    hold → ask the carrier for a call → it rings → it is answered, and hears the announcement
      → a key takes it: the caller is moved (joining.py), the session ends as `transferred`
      → anything else: the call is hung up, and the caller is back with the agent

`consultation_state.py` has the table of its states; every change of state is one step of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from gateway.calls.command_bus import CallCommand
from gateway.calls.consultation.consultation_log import ConsultationLog, ConsultationRecord, Decision, Step
from gateway.calls.consultation.consultation_state import TRANSITIONS, ConsultationEvent, ConsultationState
from gateway.calls.services import CallServices
from gateway.calls.session_events import session_events
from gateway.carriers.call_log import CallState, CallStatus
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import (
    CarrierFailed,
    CarrierRest,
    DialedCall,
    DialRequest,
    JoiningRest,
)
from gateway.model.futures import ignore_exception
from gateway.model.reasons import CallEnded, Reason, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Subscription, Topic

log = structlog.get_logger(__name__)

RING_SLACK_S: Final = 10.0
"""Seconds beyond the time that it may ring: carriers round it up and report late."""
ANNOUNCEMENT_S: Final = 90.0
"""Seconds from the answer until a key must have been pressed, the announcement included."""
JOIN_S: Final = 30.0
"""Seconds that the worker with the key's callback may take to move the caller."""
SEARCH_S: Final = 2.0
"""Seconds until a call is searched for that an uncertain request may have made."""
HANG_UP_TRIES: Final = 4
FIRST_PAUSE_S: Final = 1.0
STORE_PAUSE_S: Final = 1.0
"""Seconds until a store that does not answer is asked again."""
STORE_TRIES: Final = 120
"""How often the end is told to a store that does not answer."""

FAILURE_REASONS: Final[dict[str, Reason]] = {
    "refused": Reasons.carrier_refused,
    "rate_limited": Reasons.carrier_busy,
    "unreachable": Reasons.carrier_unreachable,
    "timeout": Reasons.carrier_timeout,
    "broken": Reasons.carrier_unreachable,
}

RESULTS: Final = {
    CallStatus.BUSY: "busy",
    CallStatus.NO_ANSWER: "no_answer",
    CallStatus.CANCELED: "no_answer",
    CallStatus.FAILED: "failed",
    CallStatus.COMPLETED: "not_taken",
}
"""The result of a consultation whose call is over, by the carrier's final status."""

_OPEN: Final = (ConsultationState.RINGING, ConsultationState.ANNOUNCING)
_OVER: Final = (ConsultationState.JOINED, ConsultationState.ENDED)


@dataclass(frozen=True, slots=True)
class ConsultationRequest:
    """The request for a consultation, which has an id of its own. `to`: a number or a `sip:` address.

    `from_numbers`: the caller ids to try, in order: a carrier may refuse a number that is not the account's.
    `announcement`: the text for the called person. `timeout_s`: seconds that it may ring. `time_limit_s`:
    seconds that its call may last.
    """

    consultation_id: str
    to: str
    from_numbers: tuple[str, ...]
    announcement: str
    timeout_s: int
    time_limit_s: int


def conference_name(consultation_id: str) -> str:
    """Return the name of the carrier's conference."""
    return f"patchbay-{consultation_id}"


def callbacks_url(services: CallServices, record: SessionRecord, consultation_id: str) -> str:
    """Return the URL under which the carrier calls back for a consultation."""
    path = f"/callbacks/{record.carrier}/{record.session_id}/consultation/{consultation_id}"
    return services.accounts.url(path, "https", record.region)


class Consultation:
    """One consultation, and the task that runs it.

    `accepted`: done when the carrier has accepted the call, or with the CallEnded that says why not.
    """

    def __init__(
        self,
        services: CallServices,
        consultations: ConsultationLog,
        record: SessionRecord,
        request: ConsultationRequest,
        client: CarrierRest,
    ) -> None:
        """Start the consultation, which must have been stored. Must be called inside the event loop."""
        consultation_id = request.consultation_id
        self._services = services
        self._log = consultations
        self._record = record
        self._request = request
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._line = log.bind(
            session=record.session_id,
            consultation=consultation_id,
            agent=record.agent,
            organization=record.organization,
            carrier=record.carrier,
        )
        self._began_at = services.now()
        self._dialed: DialedCall | None = None
        self._is_withdrawn = False
        self._store_fails = False
        """Whether the store did not answer when it was asked last; one line says so."""
        self.consultation_id = consultation_id
        self.state = ConsultationState.DIALING
        self.accepted: asyncio.Future[None] = self._loop.create_future()
        self.accepted.add_done_callback(ignore_exception)
        self.task = asyncio.create_task(self._run())

    def withdraw(self) -> None:
        """Give the consultation up, unless it is taken already."""
        self._is_withdrawn = True
        self._services.store.notifications.publish(Topic.SESSION_CHANGED, self.consultation_id)

    def _step(self, event: ConsultationEvent) -> None:
        self.state = TRANSITIONS[self.state][event]

    async def _run(self) -> None:
        """Run the consultation to its end. Raises nothing."""
        result = "failed"
        try:
            await self._services.commands.send(self._record.session_id, CallCommand.HOLD)
            result = await self._until_over()
        except StoreFailed as error:  # before the carrier has accepted the call
            self._store_failed(error)
            if not self.accepted.done():
                self.accepted.set_exception(error)
            await self._hang_up()
        except Exception:  # noqa: BLE001 - the edge of the task: it ends this consultation and no call
            self._line.exception("internal error")
            await self._hang_up()
        if not self.accepted.done():
            self.accepted.set_exception(CallEnded(Reasons.internal_error))
        self._line.info("consultation over", result=result, seconds=round(self._seconds(), 3))
        await self._report_end(result)

    async def _report_end(self, result: str) -> None:
        """Store the end, and give the caller back to the agent; each again until the store answers."""
        to_do: list[Callable[[], Awaitable[object]]] = [
            lambda: self._log.note(self.consultation_id, Step.ENDED, result),
            lambda: self._services.commands.send(self._record.session_id, CallCommand.RESUME),
        ]
        for _ in range(STORE_TRIES):
            for each in list(to_do):
                try:
                    await each()
                    to_do.remove(each)
                except StoreFailed as error:
                    self._store_failed(error)
            if not to_do or self._is_withdrawn:
                return
            await asyncio.sleep(STORE_PAUSE_S)

    def _store_failed(self, error: StoreFailed) -> None:
        if not self._store_fails:
            self._line.warning("store", error=str(error))
        self._store_fails = True

    async def _until_over(self) -> str:
        """Return the result, as `consultation_view` shows it.

        Raises StoreFailed until the carrier has accepted the call. From then on the call goes on whether the
        store answers or not, and so does this.
        """
        try:
            await self._dial()
        except CallEnded as refused:
            await self._log.decide(self.consultation_id, Decision.GIVEN_UP)
            self._step(ConsultationEvent.REFUSED)
            self.accepted.set_exception(refused)
            return "failed"
        self._step(ConsultationEvent.ACCEPTED)
        self.accepted.set_result(None)
        result = "failed"
        deadline = self._loop.time() + self._request.timeout_s + RING_SLACK_S
        store, session_id = self._services.store, self._record.session_id
        with (
            session_events(store).waiting(session_id) as over,
            store.notifications.subscribe(
                Topic.SESSION_CHANGED, key=self.consultation_id, urgent=True
            ) as changes,
        ):
            while self.state not in _OVER:
                is_late = self._loop.time() >= deadline
                try:
                    event, result = await self._next_event(caller_left=over.done(), is_late=is_late)
                    self._store_fails = False
                except StoreFailed as error:
                    self._store_failed(error)
                    event, result = self._event_without_store(caller_left=over.done(), is_late=is_late)
                    if event is None:
                        await asyncio.sleep(STORE_PAUSE_S)
                        continue
                if event is None:
                    await self._wait(changes, over, deadline)
                    continue
                self._step(event)
                if event is ConsultationEvent.ANSWERED:
                    deadline = self._loop.time() + ANNOUNCEMENT_S
                elif event is ConsultationEvent.TAKEN:
                    deadline = self._loop.time() + JOIN_S
                elif self.state is ConsultationState.HANGING_UP:
                    await self._hang_up()
                    self._step(ConsultationEvent.NO_CALL_LEFT)
        return result

    async def _next_event(self, *, caller_left: bool, is_late: bool) -> tuple[ConsultationEvent | None, str]:
        """Return what `_event_of` does, with the decision stored that it needs. Raises StoreFailed."""
        record = await self._log.get(self.consultation_id)
        event, result = self._event_of(record, caller_left=caller_left, is_late=is_late)
        if event is ConsultationEvent.EXPIRED and self.state is ConsultationState.JOINING:
            # Whoever moved the caller may have found no store to tell.
            session = await self._services.store.session(self._record.session_id)
            if session is not None and session.reason == Reasons.transferred.code:
                return ConsultationEvent.MOVED, "joined"
        if (
            event is not None
            and self.state in _OPEN
            and TRANSITIONS[self.state][event]
            not in (
                ConsultationState.ANNOUNCING,
                ConsultationState.JOINING,
            )
        ):
            decision = await self._log.decide(self.consultation_id, Decision.GIVEN_UP)
            if decision is Decision.TAKEN:
                event = ConsultationEvent.TAKEN
        return event, result

    def _event_without_store(
        self, *, caller_left: bool, is_late: bool
    ) -> tuple[ConsultationEvent | None, str]:
        """Return the event while the store does not answer, so that nobody can take the call either.

        A call that is being joined is left alone: the caller may have been moved.
        """
        if self.state not in _OPEN:
            return None, ""
        if caller_left:
            return ConsultationEvent.WITHDRAWN, "caller_left"
        if self._is_withdrawn:
            return ConsultationEvent.WITHDRAWN, "withdrawn"
        if is_late:
            is_ringing = self.state is ConsultationState.RINGING
            return ConsultationEvent.EXPIRED, "no_answer" if is_ringing else "not_taken"
        return None, ""

    def _event_of(  # noqa: PLR0911 - one for each event
        self, record: ConsultationRecord, *, caller_left: bool, is_late: bool
    ) -> tuple[ConsultationEvent | None, str]:
        """Return the event that what is stored amounts to, None for nothing new, and the result with it."""
        status = record.call.status
        if self.state is ConsultationState.JOINING:
            if Step.MOVED in record.steps:
                return ConsultationEvent.MOVED, "joined"
            if Step.NOT_MOVED in record.steps:
                return ConsultationEvent.NOT_MOVED, "failed"
            return (ConsultationEvent.EXPIRED if is_late else None), "failed"
        if record.is_taken:
            return ConsultationEvent.TAKEN, ""
        if caller_left:
            return ConsultationEvent.WITHDRAWN, "caller_left"
        if self._is_withdrawn or Step.WITHDRAWN in record.steps:
            return ConsultationEvent.WITHDRAWN, "withdrawn"
        if status is not None and status.final:
            was_answered = self.state is ConsultationState.ANNOUNCING or status is CallStatus.COMPLETED
            event = ConsultationEvent.LEFT if was_answered else ConsultationEvent.NOT_REACHED
            return event, RESULTS[status]
        if status is not None and status.answered and self.state is ConsultationState.RINGING:
            return ConsultationEvent.ANSWERED, ""
        if is_late:
            is_ringing = self.state is ConsultationState.RINGING
            return ConsultationEvent.EXPIRED, "no_answer" if is_ringing else "not_taken"
        return None, ""

    async def _wait(self, changes: Subscription, over: asyncio.Future[None], deadline: float) -> None:
        left_s = max(0.0, deadline - self._loop.time())
        changed = asyncio.ensure_future(changes.wait(left_s))
        waiting: list[asyncio.Future[Any]] = [changed, over]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    async def _dial(self) -> None:
        """Ask the carrier, with the first caller id that it takes. Raises CallEnded, StoreFailed."""
        failure = None
        if isinstance(self._client, JoiningRest):  # it is asked to speak it once the call is answered
            text = self._request.announcement
            await self._services.call_log.save_document(self.consultation_id, text)
        elif not CARRIERS[self._record.carrier].documents.inline_limit:  # the carrier fetches it
            await self._services.call_log.save_document(self.consultation_id, self._announcement())
        for attempt, from_number in enumerate(self._request.from_numbers):
            try:
                self._dialed = await self._client.dial(self._dial_request(from_number, attempt))
                break
            except CarrierFailed as failed:
                failure = failed
                self._line.info("carrier failed", kind=failed.kind, words=failed.detail)
                if failed.uncertain:
                    self._dialed = await self._find(from_number)
                    break
                if failed.kind != "refused":
                    break
        if self._dialed is None:
            assert failure is not None
            raise CallEnded(FAILURE_REASONS[failure.kind], failure.detail)
        call_log = self._services.call_log
        await call_log.record_details(
            self.consultation_id,
            carrier=self._record.carrier,
            call_id=self._dialed.call_id,
            request_id=self._dialed.request_id,
        )
        await call_log.record_status(self.consultation_id, CallStatus.QUEUED)

    def _dial_request(self, from_number: str, attempt: int = 0) -> DialRequest:
        request, writer = self._request, CARRIERS[self._record.carrier].documents
        base = callbacks_url(self._services, self._record, self.consultation_id)
        return DialRequest(
            to=request.to,
            from_number=from_number,
            answer_url=f"{base}/announcement",
            stream_url="",
            document=self._announcement() if writer.inline_limit else None,
            status_callback=base,
            ring_timeout_s=request.timeout_s,
            time_limit_s=request.time_limit_s,
            # Telnyx makes one call of all requests with the same id.
            session_id=f"{self.consultation_id}-{attempt}" if attempt else self.consultation_id,
        )

    def _announcement(self) -> str:
        """Return the document for the called person."""
        writer = CARRIERS[self._record.carrier].documents
        base = callbacks_url(self._services, self._record, self.consultation_id)
        return writer.announcement(self._request.announcement, taken_url=f"{base}/taken")

    async def _find(self, from_number: str) -> DialedCall | None:
        """Look for the call that an uncertain request may have made."""
        await asyncio.sleep(SEARCH_S)
        call_log = self._services.call_log
        known = await call_log.call_ids(self._record.carrier, except_session=self.consultation_id)
        try:
            return await self._client.find(self._dial_request(from_number), since=self._began_at, known=known)
        except CarrierFailed as failed:
            self._line.warning("a call may go on that nobody carries", words=failed.detail)
            return None

    async def _hang_up(self) -> None:
        """Hang up whatever call there may be. Raises nothing."""
        pause_s = FIRST_PAUSE_S
        for attempt in range(HANG_UP_TRIES):
            if attempt:
                await asyncio.sleep(pause_s)
                pause_s *= 2
            try:
                call = await self._call()
                call_id = call.call_id or call.request_id
                if call_id is not None and not (call.status is not None and call.status.final):
                    is_answered = call.status is not None and call.status.answered
                    await self._client.hang_up(call_id, answered=is_answered)
                return
            except CarrierFailed as failure:
                self._line.warning("not hung up", kind=failure.kind, words=failure.detail)
                if failure.kind == "refused":
                    return

    async def _call(self) -> CallState:
        """Return what is known of the call, with the ids of its acceptance if the store has lost them."""
        try:
            call = await self._services.call_log.of(self.consultation_id)
        except StoreFailed as error:
            self._store_failed(error)
            call = CallState(self.consultation_id)
        if self._dialed is None or call.call_id or call.request_id:
            return call
        return replace(call, call_id=self._dialed.call_id, request_id=self._dialed.request_id)

    def _seconds(self) -> float:
        return self._services.now() - self._began_at
