# SPDX-License-Identifier: BSD-2-Clause
"""The consultations of one worker, from the request until the caller is moved or back with the agent."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.calls.active import ActiveCalls
from gateway.calls.consultation.consultation import Consultation, ConsultationRequest
from gateway.calls.consultation.consultation_log import ConsultationLog, Step
from gateway.calls.control import CallNotActive, RunningCall, TransferRequest, running_call
from gateway.calls.outbound.dial_limits import CpsLimiter
from gateway.calls.services import CallServices
from gateway.calls.spending import CallRateLimiter, check_destination
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import JoiningRest
from gateway.model.addresses import is_phone_number
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from texml.document import DocumentError

RING_S: Final = 30
"""Seconds that a call rings if the request does not say how long."""

MAX_TURN_WAIT_S: Final = 10.0
"""Seconds that a consultation waits for its turn in the account's rate of calls."""

DEFAULT_ANNOUNCEMENT: Final = "A caller is waiting for you. Press 1 to take the call."


class Consultations:
    """The consultations that this worker was asked for and that are not over."""

    def __init__(self, services: CallServices, active: ActiveCalls) -> None:
        self._services = services
        self._active = active
        self._log = ConsultationLog(services.store, services.call_log, services.now)
        self._running: dict[str, Consultation] = {}

    async def start(self, record: SessionRecord, request: TransferRequest, announcement: str | None) -> str:
        """Call somebody for the session's caller. Return the consultation's id once the carrier has the call.

        Raises CallNotActive, StoreFailed, and CallEnded: bad_request, number_refused, rate_limited,
        carrier_cannot, draining, or one of the carrier's failures.
        """
        services = self._services
        if self._active.draining:
            raise CallEnded(Reasons.draining)
        organization = services.settings.find_organization(record.organization)
        check_destination(request.to, organization)  # the organisation pays for the call
        call = await running_call(services, record, "transfer")
        joins_calls = CARRIERS[record.carrier].profile.joins_calls or isinstance(call.client, JoiningRest)
        if not joins_calls:
            raise CallEnded(Reasons.carrier_cannot, f"warm transfers through {record.carrier} are not made")
        agent = services.agents.find(record.agent)
        if record.state is not SessionState.RUNNING or organization is None or agent is None:
            raise CallNotActive("the session's agent is being started")
        consultation_id = services.new_id()
        consulted = ConsultationRequest(
            consultation_id=consultation_id,
            to=request.to,
            from_numbers=await self._from_numbers(record, request),
            announcement=announcement or DEFAULT_ANNOUNCEMENT,
            timeout_s=request.timeout_s or RING_S,
            time_limit_s=agent.max_session_duration,
        )
        try:  # before anything is spent
            CARRIERS[record.carrier].documents.announcement(consulted.announcement, taken_url="https://taken")
        except DocumentError as error:
            raise CallEnded(Reasons.bad_request, str(error)) from None
        if not await self._log.begin(record.session_id, consultation_id):
            raise CallNotActive("somebody is being called for this caller already")
        try:
            await CallRateLimiter(services.store.key_values, services.now).acquire(organization)
            await self._wait_for_turn(record, call)
        except CallEnded:
            await self._log.note(consultation_id, Step.ENDED, "failed")
            raise
        consultation = Consultation(services, self._log, record, consulted, call.client)
        self._running[record.session_id] = consultation
        consultation.task.add_done_callback(lambda _: self._remove(record.session_id, consultation))
        await asyncio.shield(consultation.accepted)
        return consultation_id

    async def withdraw(self, session_id: str) -> bool:
        """Give a session's consultation up, whichever worker runs it. Return False if it has none."""
        found = await self._log.of_session(session_id)
        if found is None or Step.ENDED in found.steps:
            return False
        await self._log.note(found.consultation_id, Step.WITHDRAWN)
        return True

    async def end_all(self) -> None:
        """Give every consultation up, and return when each call has been hung up."""
        while self._running:
            for consultation in self._running.values():
                consultation.withdraw()
            await asyncio.wait([consultation.task for consultation in self._running.values()])
            await asyncio.sleep(0)  # the tasks' done callbacks remove them

    def _remove(self, session_id: str, consultation: Consultation) -> None:
        if self._running.get(session_id) is consultation:
            del self._running[session_id]

    async def _from_numbers(self, record: SessionRecord, request: TransferRequest) -> tuple[str, ...]:
        """Return the caller ids to try: the requested one, or the caller's number and then our own."""
        if request.caller_id is not None:
            return (request.caller_id,)
        is_outbound = (await self._services.call_log.of(record.session_id)).status is not None
        numbers = [record.from_number, record.to_number]
        if is_outbound:
            numbers.reverse()
        written = [f"+{number.removeprefix('+')}" for number in numbers if number]
        known = tuple(number for number in written if is_phone_number(number))
        if not known:
            raise CallEnded(Reasons.bad_request, "the session has no number of its own: give caller_id")
        return known

    async def _wait_for_turn(self, record: SessionRecord, call: RunningCall) -> None:
        services = self._services
        for account in services.accounts.of(record.organization, record.carrier):
            if services.clients.first([account], None) is call.client:
                limiter = CpsLimiter(services.store.key_values, services.now)
                await limiter.wait_for_turn(account, MAX_TURN_WAIT_S)
                return
