# SPDX-License-Identifier: BSD-2-Clause
"""The outbound calls of one worker, from the request until their streams are attached or they are given up.

A request is answered once the carrier has accepted the call; from then on the call runs in its own task
(outbound_call.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from gateway.calls.active import ActiveCalls
from gateway.calls.command_bus import REASON_BY_COMMAND, CallCommand
from gateway.calls.consultation.consultations import Consultations
from gateway.calls.outbound.dial_limits import CpsLimiter
from gateway.calls.outbound.outbound_call import OutboundCall, OutboundServices
from gateway.calls.outbound.outbound_request import OutboundRequest, make_dial_request
from gateway.calls.services import CallServices
from gateway.calls.session_end import SessionEnd, save
from gateway.calls.spending import CallRateLimiter, check_callee, is_sip_address
from gateway.carriers.rest_interface import CarrierRest, CredentialsMissing
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionOptions
from gateway.store.interface import StoreFailed

LOOK_S: Final = 0.2
"""The least seconds between two looks at a ringing call, which follow notifications."""
MAX_LOOKS_PER_SECOND: Final = 250
"""For all ringing calls together, because each look reads the store."""


class OutboundCalls:
    """The outbound calls of one worker that have no stream yet, or must still be hung up.

    `consultations`: the calls to people who may take a caller.
    """

    def __init__(self, services: CallServices, active: ActiveCalls) -> None:
        self._services = services
        self._active = active
        values = services.store.key_values
        self._rate = CallRateLimiter(values, services.now)
        self._outbound_services = OutboundServices(
            store=services.store,
            call_log=services.call_log,
            cps=CpsLimiter(values, services.now),
            commands=services.commands,
            dial_request=partial(make_dial_request, services),
            look_s=lambda: max(LOOK_S, self.running / MAX_LOOKS_PER_SECOND),
            now=services.now,
        )
        self.consultations = Consultations(services, active)
        self._calls: dict[str, OutboundCall] = {}
        self._closing: CallEnded | None = None

    @property
    def running(self) -> int:
        """The number of calls."""
        return len(self._calls)

    async def start(self, request: OutboundRequest) -> OutboundCall:
        """Admit one call's session and start to dial. Raises as `start_all`."""
        (call,) = await self.start_all([request])
        return call

    async def start_all(self, requests: Sequence[OutboundRequest]) -> list[OutboundCall]:
        """Admit the sessions of several calls of one agent, and start to dial: all of them or none.

        `OutboundCall.accepted` has the carrier's answer.

        Raises CallEnded: bad_request, number_refused, rate_limited, at_capacity, carrier_cannot, draining,
        store_failed. Nobody is dialled then.
        """
        services = self._services
        if self._closing is not None or self._active.draining:
            raise CallEnded(Reasons.draining)
        for request in requests:
            check_callee(request.to, request.organization)
        if services.settings.server.public_url is None:
            raise CallEnded(Reasons.bad_request, "calls out need server.public_url, where carriers come to")
        prepared = [(request, self._client(request), services.new_id()) for request in requests]
        for request, _, session_id in prepared:  # refuse a request that is too long before admission
            make_dial_request(services, request, session_id)
        organization = requests[0].organization
        try:
            if len(requests) > 1:
                await services.capacity.check(requests[0].agent, len(requests))
            tokens = await self._rate.acquire_all(organization, len(requests))
            try:
                await self._admit_all([(request, session_id) for request, _, session_id in prepared])
            except BaseException:
                await self._rate.release(*tokens)
                raise
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
        return [self._dial(request, client, session_id) for request, client, session_id in prepared]

    def _dial(self, request: OutboundRequest, client: CarrierRest, session_id: str) -> OutboundCall:
        call = OutboundCall(self._outbound_services, request, client, session_id)
        self._calls[session_id] = call
        call.task.add_done_callback(lambda _: self._calls.pop(session_id, None))
        if self._closing is not None:
            call.termination.set(self._closing)
        return call

    async def _admit_all(self, calls: Sequence[tuple[OutboundRequest, str]]) -> None:
        """Admit every session, or end those that were admitted before one was not. Raises as `start_all`."""
        admitted: list[str] = []
        try:
            for request, session_id in calls:
                await self._admit(request, session_id)
                admitted.append(session_id)
        except BaseException as failure:
            end = failure if isinstance(failure, CallEnded) else CallEnded(Reasons.stopped)
            for session_id in admitted:
                ended = SessionEnd(session_id, end, self._services.now(), ran=False)
                await save(self._services.store, ended)
            raise

    def stop(self, session_id: str, end: CallEnded) -> bool:
        """Give a call up at once. False if this worker does not run it."""
        call = self._calls.get(session_id)
        if call is not None:
            call.termination.set(end)
        return call is not None

    def handle(self, session_id: str, command: CallCommand) -> bool:
        """Follow CANCEL for a ringing call. False if this worker does not run it, or for another command."""
        return command is CallCommand.CANCEL and self.stop(session_id, CallEnded(REASON_BY_COMMAND[command]))

    async def end_all(self, end: CallEnded) -> None:
        """Give every call up, refuse new ones, and return when every ringing call has been hung up."""
        self._closing = end
        await self.consultations.end_all()
        while self._calls:
            for call in self._calls.values():
                call.termination.set(end)
            await asyncio.wait([call.task for call in self._calls.values()])
            await asyncio.sleep(0)  # the tasks' done callbacks remove them from `_calls`

    def _client(self, request: OutboundRequest) -> CarrierRest:
        """Return the account's client. Raises CallEnded(carrier_cannot) if it cannot make this call."""
        try:
            client = self._services.clients.of(request.account)
        except CredentialsMissing as error:
            raise CallEnded(Reasons.carrier_cannot, str(error)) from None
        if request.machine_detection is not None:
            for feature in {"machine_detection", request.machine_detection} & client.unsupported.keys():
                raise CallEnded(Reasons.carrier_cannot, client.unsupported[feature])
        if is_sip_address(request.to) and "sip" in client.unsupported:
            raise CallEnded(Reasons.carrier_cannot, client.unsupported["sip"])
        return client

    async def _admit(self, request: OutboundRequest, session_id: str) -> None:
        agent = request.agent
        details = CallDetails(
            session_id=session_id,
            agent=agent.service_host,
            organization=agent.organization,
            region=agent.region,
            carrier=request.account.carrier,
            call_id=None,
            stream_id=None,
            from_number=request.from_number,
            to_number=request.to,
        )
        options = SessionOptions(metadata=request.metadata)
        await self._services.capacity.acquire(agent, details, options, is_outbound=True)
