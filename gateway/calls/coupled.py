# SPDX-License-Identifier: BSD-2-Clause
"""The sides of a call while they talk: coupled, and coupled again where one of them was lost.

A lost agent is replaced (resume.py); a lost carrier may open another socket (reconnect.py). Meanwhile the
other side waits on a leg of its own. How the sides came to be there is the story of the call (call.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.calls.claim import Claim
from gateway.calls.control import farewell_of
from gateway.calls.fate import Fate
from gateway.calls.hold import Hold
from gateway.calls.opening import hide_call_id
from gateway.calls.reconnect import Reconnection
from gateway.calls.resume import Resumption
from gateway.calls.wishes import Wish
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.media import frames
from gateway.media.ends import Gone, end_of_agent, end_of_carrier
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.media.side import Side
from gateway.media.watch import RelayLimits
from serializers.dialect import Dialect
from serializers.events import Start
from serializers.filters import filters_of

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard

log = structlog.get_logger(__name__)


class Coupled:
    """Both sides of one call, and what is known of it."""

    __slots__ = (
        "_agent_leg",
        "_board",
        "_claim",
        "_first_sound_at",
        "_goodbye",
        "_hold",
        "_leg",
        "_limits",
        "_log",
        "_reconnection",
        "_relay",
        "_resumption",
        "_wanted_limits",
        "_wish",
        "fate",
        "session_id",
    )

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._limits = board.settings.limits
        self.fate = Fate()
        self.session_id = board.new_id()
        self._log = log.bind(session=self.session_id)
        self._leg: Leg | None = None
        self._agent_leg: Leg | None = None
        self._hold: Hold | None = None
        self._relay: Relay | None = None
        self._resumption: Resumption | None = None
        self._reconnection: Reconnection | None = None
        self._claim: Claim | None = None
        self._wanted_limits: tuple[float | None, float | None] = (None, None)
        """Longest duration and silence, in seconds, that whoever promised the session asked for."""
        self._wish: Wish | None = None  # what is about to be done with the carrier's call
        self._goodbye: tuple[int, str] | None = None  # what who left first said; the other is told the same
        self._first_sound_at: float | None = None

    def _play(self, agent: AgentSettings, dialect: Dialect | None, start: Start | None) -> None:
        """Has the caller hear something until its agent does."""
        if self._leg is not None and dialect is not None and start is not None:
            self._hold = Hold(self._board.holds, self._leg, dialect, start)
            self._hold.begin(agent, answered=self._claim is not None and self._claim.held)

    def _couple(self, agent: AgentSettings, dialect: Dialect | None, start: Start | None) -> None:
        """Lets the two legs talk."""
        assert self._leg is not None
        assert self._agent_leg is not None
        first = self._relay is None
        farewell = None
        filters = filters_of(dialect.name) if dialect and agent.media == "messages" else None
        if self._reconnection is not None:
            filters = self._reconnection.filters()
        if dialect is not None and start is not None:
            farewell = farewell_of(self._board, agent, dialect, start)
            if agent.hide_call_id and first:
                hide_call_id(self._leg, dialect, start.call_id, self.session_id)
        max_duration_s, idle_s = self._wanted_limits
        self._relay = Relay(
            self._leg,
            self._agent_leg,
            dialect=dialect,
            limits=RelayLimits(
                max_duration_s=min(max_duration_s or agent.max_session_duration, agent.max_session_duration),
                idle_s=idle_s or agent.idle_timeout,
                stall_s=self._limits.stall_timeout,
                close_s=self._limits.close_timeout,
                max_message_bytes=self._limits.max_message_bytes,
                ping_s=self._limits.ping_interval,
                agent_silence_s=self._limits.agent_silence,
            ),
            on_first_sound=self._note_first_sound,
            filters=filters,
            farewell=farewell,
            keeps_agent=not agent.hide_call_id,
            on_agent_lost=self._take_back if self._resumption is not None else None,
            on_carrier_lost=self._keep_agent if self._reconnection is not None else None,
            after=self._relay,
        )
        if first:
            if self._resumption is not None:
                self._resumption.opening = self._leg.opening()
            self._board.store.started(self.session_id, self._board.now())
        if self._wish is Wish.TRANSFER:
            self._relay.transfer(True)
        self._leg = self._agent_leg = None  # their sockets are the relay's now
        if self._hold is not None:
            self._hold.couple(self._relay)
        self._relay.start()
        self.fate.hand_over(self._relay.end)

    async def talk(self) -> CallEnd:
        """Waits until they have talked. Where one side was lost, the other was given back: it waits here."""
        while True:
            assert self._relay is not None
            end = await self._relay.ended  # nothing is left to do while they talk, and little is kept
            if self._agent_leg is not None:
                await self._reconnect(end)
            elif self._leg is not None:
                await self._resume_or_fall_back(end)
            else:
                return end

    def hear(self, wish: Wish) -> bool:
        """What is about to be done with the carrier's call, or after all is not (wishes.py).

        False where it cannot be done now: while the carrier has no socket there is nothing to transfer.
        """
        if wish is Wish.OVER:
            if self._reconnection is not None:
                self._reconnection.over = True
            if self._relay is not None and self._agent_leg is not None:
                self.fate.decide(CallEnd(Endings.caller_hangup, "the carrier says that the call is over"))
            return True
        if wish is Wish.TRANSFER and self._relay is not None and self._agent_leg is not None:
            return False
        self._wish = None if wish is Wish.NOTHING else wish
        if self._relay is None:
            return True
        if wish is Wish.TRANSFERRED:
            self._relay.part(CallEnd(Endings.transferred))
        elif wish in (Wish.TRANSFER, Wish.NOTHING):
            self._relay.transfer(wish is Wish.TRANSFER)
        return True

    # Another agent, where one is lost

    def _take_back(self, carrier: Side) -> None:
        """The agent is lost: what the caller says is kept behind the opening, for another one."""
        assert self._resumption is not None
        self._leg = Leg(
            carrier.transport,
            client=False,
            opening_bytes=self._limits.max_opening_bytes,
            early_bytes=self._limits.max_early_bytes,
            on_gone=self._carrier_gone,
            again=(carrier.walker, self._resumption.opening),
        )

    async def _resume_or_fall_back(self, lost: CallEnd) -> None:
        """Has another agent take over (docs/resume.md). Raises CallEnd where none does."""
        assert self._resumption is not None
        try:
            await self._resume(self._resumption, lost)
        except CallEnd as failed:
            if failed is self.fate.end or self._hold is None:
                raise
            fallen = await self._resumption.fall_back(
                self._board, self.session_id, failed, hold=self._hold, fate=self.fate
            )
            self._wish = None  # which was its own
            raise fallen from None

    async def _resume(self, resumption: Resumption, lost: CallEnd) -> None:
        """Has another agent take over. Raises CallEnd where none does."""
        assert self._leg is not None
        since, agent = self._board.now(), resumption.agent(self._board)
        if self._hold is not None:
            self._hold.stop()
        self._play(agent, resumption.dialect, resumption.start)
        async with self.fate.interrupting():
            self._agent_leg, instance = await resumption.another(
                self._board, self.session_id, self._leg, self._agent_gone
            )
        self._log = self._log.bind(instance=instance)
        if self._reconnection is not None:
            self._reconnection.agent = agent
            self._reconnection.told = resumption.start.stream_id
        self._couple(agent, resumption.dialect, resumption.start)
        self._board.store.resumed(self.session_id, resumption.times)
        seconds = round(self._board.now() - since, 3)
        self._log.warning("call resumed", times=resumption.times, words=lost.words, seconds=seconds)

    # Another socket of the carrier's

    def may_go_on(self, agent: str, start: Start) -> bool:
        """Whether a second socket, for `agent` (AGENT.ORG) and opened so, would go on with the call."""
        reconnection = self._reconnection
        return (
            reconnection is not None
            and reconnection.fits(agent, start)
            and self.fate.end is None
            and self._wish is None
            and self._leg is None
        )

    def go_on(self, leg: Leg, start: Start) -> bool:
        """Takes another socket's leg, whose opening was read, in place of the one there was.

        False where the call has ended meanwhile, or cannot do without its first one just now.
        """
        reconnection, relay = self._reconnection, self._relay
        if reconnection is None or relay is None or self._leg is not None or self.fate.end is not None:
            return False
        there = not leg.transport.is_closing()
        if self._agent_leg is None and not (there and relay.let_carrier_go(CallEnd(Endings.taken_over))):
            return False
        if not leg.hand_over(self._carrier_gone):
            return False
        self._leg = leg
        reconnection.came(start)
        return True

    def _keep_agent(self, agent: Side) -> bool:
        """The carrier is lost, or let go: what the agent says is kept for its next socket."""
        assert self._reconnection is not None
        if self._reconnection.over or self._wish is not None or self._board.draining:
            return False
        self._agent_leg = Leg(
            agent.transport,
            client=True,
            opening_bytes=self._limits.max_opening_bytes,
            early_bytes=self._limits.max_early_bytes,
            on_gone=self._agent_gone,
            again=(agent.walker, b""),
        )
        return True

    async def _reconnect(self, lost: CallEnd) -> None:
        """Has another socket of the carrier's go on with the agent. Raises CallEnd where none comes."""
        reconnection, relay = self._reconnection, self._relay
        assert reconnection is not None
        assert relay is not None
        assert self._agent_leg is not None
        since, heard = self._board.now(), self._hold is not None and self._hold.heard
        if self._hold is not None:
            self._hold.stop()
        try:
            async with self.fate.interrupting():
                await reconnection.second(self._board, self.session_id, relay, lost)
                await reconnection.whole(self._agent_leg, self._limits.stall_timeout)
        except CallEnd as end:
            if end.ending is Endings.agent_ended:
                self._agent_leg.close(frames.NORMAL_CLOSURE, "")
                await reconnection.hang_up(self._board)
            raise
        assert self._leg is not None
        start, agent = reconnection.start, reconnection.agent
        opening = reconnection.opening(self._leg, self.session_id)
        if self._resumption is not None:
            self._resumption.start, self._resumption.opening = start, opening
        self._hold = Hold(self._board.holds, self._leg, reconnection.dialect, start)
        self._hold.go_on(agent, again=heard, answered=self._claim is not None and self._claim.held)
        self._log = self._log.bind(stream_id=start.stream_id)
        self._couple(agent, reconnection.dialect, start)
        seconds = round(self._board.now() - since, 3)
        self._log.warning("call continued", times=reconnection.times, words=lost.words, seconds=seconds)

    # What the legs report before they are coupled

    def _carrier_gone(self, gone: Gone) -> None:
        self._gone(gone, end_of_carrier(gone))

    def _agent_gone(self, gone: Gone) -> None:
        self._gone(gone, end_of_agent(gone))

    def _gone(self, gone: Gone, end: CallEnd) -> None:
        if self.fate.end is None and gone.said:
            self._goodbye = gone.code, gone.reason
        self.fate.decide(end)

    def _note_first_sound(self) -> None:
        if self._hold is not None:
            self._hold.stop(before_message=True)
            self._hold = None
        self._first_sound_at = self._first_sound_at or self._board.now()
