# SPDX-License-Identifier: BSD-2-Clause
"""The calls out of this worker, from the wish until their streams have come or they are given up.

Whoever asks for one is answered once the carrier has the call; from then on it is its own (dialout.py).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.agents.readiness import Readiness
from gateway.calls.wishes import ENDS, Wish, Wishes
from gateway.carriers.rest import CredentialsMissing
from gateway.dialing.dial_line import Line, Minutes, check_number
from gateway.dialing.dial_request import dial_request
from gateway.dialing.dial_wish import DialMeans, DialWish
from gateway.dialing.dialout import Dialout
from gateway.errors import CallEnd, Endings
from gateway.sessions.session import CallFacts, Places, SessionExtras
from gateway.sessions.store import AtCapacity, StoreFailed

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard


POLL_S: Final = 0.2
"""How often a call that rings is looked at: what is told of it may have reached any worker."""
LOOKS_PER_SECOND: Final = 250
"""Of all that ring together; each reads the store."""


class Dialouts:
    """The calls out of this worker."""

    def __init__(self, board: Switchboard, wishes: Wishes) -> None:
        self._board = board
        documents = board.store.documents
        self._minutes = Minutes(documents, board.now)
        self._means = DialMeans(
            store=board.store,
            book=board.call_book,
            line=Line(documents, board.now),
            wishes=wishes,
            request=partial(dial_request, board),
            pause_s=lambda: max(POLL_S, self.running / LOOKS_PER_SECOND),
            now=board.now,
        )
        self._calls: dict[str, Dialout] = {}
        self._closing: CallEnd | None = None

    @property
    def running(self) -> int:
        """How many there are that have no stream yet, or must still be hung up."""
        return len(self._calls)

    async def start(self, wish: DialWish) -> Dialout:
        """Admits the session and begins to call; `Dialout.taken` says what comes of it.

        Raises CallEnd: bad_request, number_refused, rate_limited, at_capacity, carrier_cannot, draining,
        store_failed. Nothing is left then.
        """
        board = self._board
        if self._closing is not None or board.draining:
            raise CallEnd(Endings.draining)
        check_number(wish.to, wish.organization)
        if board.settings.server.public_url is None:
            raise CallEnd(Endings.bad_request, "calls out need [server] public_url, where carriers come to")
        try:
            rest = board.rests.of(wish.account)
        except CredentialsMissing as error:
            raise CallEnd(Endings.carrier_cannot, str(error)) from None
        if wish.machine_detection is not None:
            for wanted in {"machine_detection", wish.machine_detection} & rest.cannot.keys():
                raise CallEnd(Endings.carrier_cannot, rest.cannot[wanted])
        session_id = board.new_id()
        dial_request(board, wish, session_id)  # what its carrier could not carry is said before
        try:
            ticket = await self._minutes.take(wish.organization)
            try:
                await self._admit(wish, session_id)
            except BaseException:
                await self._minutes.give_back(ticket)
                raise
        except StoreFailed as error:
            raise CallEnd(Endings.store_failed, str(error)) from None
        call = Dialout(self._means, wish, rest, session_id)
        self._calls[session_id] = call
        call.task.add_done_callback(lambda _: self._calls.pop(session_id, None))
        if self._closing is not None:
            call.fate.decide(self._closing)
        return call

    def stop(self, session_id: str, end: CallEnd) -> bool:
        """Gives a call up at once; False where this worker has none of it."""
        call = self._calls.get(session_id)
        if call is not None:
            call.fate.decide(end)
        return call is not None

    def hear(self, session_id: str, wish: Wish) -> bool:
        """A wish (wishes.py) for a call that rings; False where this worker has none of it."""
        return wish is Wish.GIVE_UP and self.stop(session_id, CallEnd(ENDS[wish]))

    async def end_all(self, end: CallEnd) -> None:
        """Gives every call up, begins no more, and returns when all that rang is hung up."""
        self._closing = end
        while self._calls:
            for call in self._calls.values():
                call.fate.decide(end)
            await asyncio.wait([call.task for call in self._calls.values()])
            await asyncio.sleep(0)  # the tasks' callbacks forget them

    async def _admit(self, wish: DialWish, session_id: str) -> None:
        board, agent = self._board, wish.agent
        ranks = board.probes.ranks(agent.instances)
        facts = CallFacts(
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
        warm = any(rank is Readiness.READY for _, rank in ranks)
        extras = SessionExtras(start_type="warm" if warm else "cold", metadata=wish.metadata)
        places = Places(ranks, agent.sessions_per_instance, agent.max_agents, reserved=agent.reserve_inbound)
        try:
            await board.store.admit(facts, places, board.now(), extras)
        except AtCapacity as full:
            words = f"{full.taken} of {full.limit} places are taken"
            raise CallEnd(Endings.at_capacity, words) from None
