# SPDX-License-Identifier: BSD-2-Clause
"""The calls out of this worker, from the wish until their streams have come or they are given up.

Whoever asks for one is answered once the carrier has the call; from then on it is its own (dialout.py).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.calls.active import ActiveCalls
from gateway.calls.command_bus import REASON_BY_COMMAND, CallCommand
from gateway.calls.outbound.dial_limits import CallRateLimiter, CpsLimiter, check_number
from gateway.calls.outbound.outbound_call import OutboundCall
from gateway.calls.outbound.outbound_request import OutboundRequest, OutboundServices, dial_request
from gateway.carriers.rest_interface import CredentialsMissing
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionOptions
from gateway.store.interface import StoreFailed

if TYPE_CHECKING:
    from gateway.calls.services import CallServices


POLL_S: Final = 0.2
"""How often a call that rings is looked at: what is told of it may have reached any worker."""
LOOKS_PER_SECOND: Final = 250
"""Of all that ring together; each reads the store."""


class OutboundCalls:
    """The calls out of this worker."""

    def __init__(self, services: CallServices, active: ActiveCalls) -> None:
        self._services = services
        self._active = active
        documents = services.store.documents
        self._minutes = CallRateLimiter(documents, services.now)
        self._means = OutboundServices(
            store=services.store,
            book=services.call_log,
            line=CpsLimiter(documents, services.now),
            commands=services.commands,
            request=partial(dial_request, services),
            pause_s=lambda: max(POLL_S, self.running / LOOKS_PER_SECOND),
            now=services.now,
        )
        self._calls: dict[str, OutboundCall] = {}
        self._closing: CallEnded | None = None

    @property
    def running(self) -> int:
        """How many there are that have no stream yet, or must still be hung up."""
        return len(self._calls)

    async def start(self, wish: OutboundRequest) -> OutboundCall:
        """Admits the session and begins to call; `OutboundCall.taken` says what comes of it.

        Raises CallEnded: bad_request, number_refused, rate_limited, at_capacity, carrier_cannot, draining,
        store_failed. Nothing is left then.
        """
        services = self._services
        if self._closing is not None or self._active.draining:
            raise CallEnded(Reasons.draining)
        check_number(wish.to, wish.organization)
        if services.settings.server.public_url is None:
            raise CallEnded(Reasons.bad_request, "calls out need [server] public_url, where carriers come to")
        try:
            rest = services.clients.of(wish.account)
        except CredentialsMissing as error:
            raise CallEnded(Reasons.carrier_cannot, str(error)) from None
        if wish.machine_detection is not None:
            for wanted in {"machine_detection", wish.machine_detection} & rest.unsupported.keys():
                raise CallEnded(Reasons.carrier_cannot, rest.unsupported[wanted])
        session_id = services.new_id()
        dial_request(services, wish, session_id)  # what its carrier could not carry is said before
        try:
            ticket = await self._minutes.take(wish.organization)
            try:
                await self._admit(wish, session_id)
            except BaseException:
                await self._minutes.give_back(ticket)
                raise
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
        call = OutboundCall(self._means, wish, rest, session_id)
        self._calls[session_id] = call
        call.task.add_done_callback(lambda _: self._calls.pop(session_id, None))
        if self._closing is not None:
            call.termination.set(self._closing)
        return call

    def stop(self, session_id: str, end: CallEnded) -> bool:
        """Gives a call up at once; False where this worker has none of it."""
        call = self._calls.get(session_id)
        if call is not None:
            call.termination.set(end)
        return call is not None

    def handle(self, session_id: str, wish: CallCommand) -> bool:
        """A wish (wishes.py) for a call that rings; False where this worker has none of it."""
        return wish is CallCommand.GIVE_UP and self.stop(session_id, CallEnded(REASON_BY_COMMAND[wish]))

    async def end_all(self, end: CallEnded) -> None:
        """Gives every call up, begins no more, and returns when all that rang is hung up."""
        self._closing = end
        while self._calls:
            for call in self._calls.values():
                call.termination.set(end)
            await asyncio.wait([call.task for call in self._calls.values()])
            await asyncio.sleep(0)  # the tasks' callbacks forget them

    async def _admit(self, wish: OutboundRequest, session_id: str) -> None:
        services, agent = self._services, wish.agent
        details = CallDetails(
            session_id=session_id,
            agent=agent.service_host,
            organization=agent.organization,
            region=agent.region,
            carrier=wish.account.carrier,
            call_id=None,
            stream_id=None,
            from_number=wish.from_number,
            to_number=wish.to,
        )
        options = SessionOptions(metadata=wish.metadata)
        await services.capacity.acquire(agent, details, options, is_outbound=True)
