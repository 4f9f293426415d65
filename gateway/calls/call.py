# SPDX-License-Identifier: BSD-2-Clause
"""The story of a call.

    prove the caller → read the opening → route to an agent → admit the session →
    connect an instance → relay → end, with one reason

From the opening to the agent's first sound the caller hears a holding sound (hold.py).

`Call.tell` is that story, top to bottom. Everything that can happen to a call is a step or a branch of
it; what runs per frame is in gateway/media/. A step that refuses raises the entry of the table of
endings (gateway/errors.py); what interrupts a step from outside goes through the call's `Fate`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from gateway.calls.agent_leg import connect_agent
from gateway.calls.body import from_parameters
from gateway.calls.claim import Claim, claim, truth
from gateway.calls.control import farewell_of, told_end
from gateway.calls.ends import end_watch
from gateway.calls.fate import Fate
from gateway.calls.hold import Hold
from gateway.calls.opening import hide_call_id
from gateway.calls.overflow import find_place
from gateway.calls.proof import NOTHING, prove_start, prove_upgrade
from gateway.calls.resume import Resumption, may_resume
from gateway.calls.target import Target, read_target
from gateway.calls.wishes import Wish
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.media import frames
from gateway.media.ends import Gone, end_of_agent, end_of_carrier
from gateway.media.leg import Leg
from gateway.media.relay import Relay, RelayLimits
from gateway.media.side import Side
from gateway.media.upgrade import Upgrade
from gateway.sessions.lifecycle import State
from gateway.sessions.session import Outcome, Traffic
from gateway.sessions.store import StoreFailed
from serializers.dialect import Dialect, DialectError
from serializers.events import Start
from serializers.filters import filters_of
from serializers.opening import SERVICE_HOST_PARAMETERS, Opening
from serializers.registry import DIALECTS

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard

log = structlog.get_logger(__name__)

END_WRITE_TIMEOUT_S = 1.0
"""How long an ended call waits for its end to be written; the store goes on trying without it."""


class Call:
    """One call: what is known of it so far."""

    __slots__ = (
        "_admitted",
        "_agent_leg",
        "_began_at",
        "_board",
        "_claim",
        "_first_sound_at",
        "_goodbye",
        "_hold",
        "_leg",
        "_limits",
        "_log",
        "_relay",
        "_resumption",
        "_shown",
        "_upgrade",
        "_wanted_limits",
        "_wish",
        "fate",
        "session_id",
    )

    def __init__(self, board: Switchboard, upgrade: Upgrade) -> None:
        self._board = board
        self._limits = board.settings.limits
        self._upgrade = upgrade
        self.fate = Fate()
        self.session_id = board.new_id()
        self._log = log.bind(session=self.session_id)
        self._leg: Leg | None = None
        self._agent_leg: Leg | None = None
        self._hold: Hold | None = None
        self._relay: Relay | None = None
        self._resumption: Resumption | None = None
        self._admitted = False
        self._shown = NOTHING
        self._claim: Claim | None = None
        self._wanted_limits: tuple[float | None, float | None] = (None, None)
        """Longest duration and silence, in seconds, that whoever promised the session asked for."""
        self._wish: Wish | None = None  # what is about to be done with the carrier's call
        self._goodbye: tuple[int, str] | None = None  # what who left first said; the other is told the same
        self._began_at = board.now()
        self._first_sound_at: float | None = None
        upgrade.on_gone = self._carrier_gone
        upgrade.on_shutdown = lambda: self.fate.decide(CallEnd(Endings.draining, "the time to drain is over"))

    async def run(self) -> None:
        """Tells the story and sees to its end. Raises nothing."""
        self._board.calls.add(self)
        try:
            await self.tell()
            end = await self._talk()
        except CallEnd as refusal:
            end = refusal
        except Exception:  # noqa: BLE001 - the edge of the call's task: it ends this call and no other
            self._log.exception("internal error")
            end = CallEnd(Endings.internal_error)
        try:
            await self._finish(end)
        finally:
            self._board.calls.discard(self)

    async def tell(self) -> None:
        """The story, up to where the relay runs. Raises CallEnd where it ends before."""
        target = self._read_target()
        dialect = DIALECTS.get(target.carrier)
        start = None
        agent = self._route(target, start) if dialect is None or target.named else None
        await self._prove_caller(target, agent)  # what can be refused before the upgrade is
        async with self.fate.interrupting():
            if dialect is not None:  # a client without a dialect is answered once its agent is there
                self._accept()
                start = await self._read_opening(dialect)
                agent = self._route(target, start)
                await self._prove_call(agent, target.carrier, start)
            assert agent is not None
            body = self._body(target, start)
            self._play(agent, dialect, start)
            async with self._admitted_to(agent, target, start) as (agent, instance):
                await self._note_call(agent, target.carrier, start)
                await self._connect(instance, body)
            if dialect is not None and start is not None and may_resume(agent):
                self._resumption = Resumption(agent, dialect, start, instance=instance, body=body)
            if self._leg is None:
                self._accept()
                await asyncio.sleep(0)  # its 101 is on its way before anything else is
        self._couple(agent, dialect, start)

    async def _talk(self) -> CallEnd:
        """Waits until they have talked, and finds another agent for one that is lost (docs/resume.md)."""
        assert self._relay is not None
        end = await self._relay.ended  # nothing is left to do while they talk, and little is kept
        while self._leg is not None:  # the carrier's side was given back
            assert self._resumption is not None
            try:
                await self._resume(self._resumption, end)
            except CallEnd as failed:
                if failed is self.fate.end or self._hold is None:
                    raise
                fallen = await self._resumption.fall_back(
                    self._board, self.session_id, failed, hold=self._hold, fate=self.fate
                )
                self._wish = None  # which was its own
                raise fallen from None
            end = await self._relay.ended
        return end

    def hear(self, wish: Wish) -> None:
        """What is about to be done with the carrier's call, or after all is not (wishes.py)."""
        self._wish = None if wish is Wish.NOTHING else wish
        if self._relay is None:
            return
        if wish is Wish.TRANSFERRED:
            self._relay.part(CallEnd(Endings.transferred))
        elif wish in (Wish.TRANSFER, Wish.NOTHING):
            self._relay.transfer(wish is Wish.TRANSFER)

    # The steps, in their order

    def _read_target(self) -> Target:
        """For whom the call is, as far as the URL says it."""
        upgrade = self._upgrade
        if upgrade.fault:
            raise CallEnd(Endings.bad_request, upgrade.fault)
        if self._board.draining:
            raise CallEnd(Endings.draining)
        target = read_target(
            upgrade.url,
            upgrade.header("Host"),
            carriers=DIALECTS.keys(),
            regions=self._board.region_codes,
            region=self._board.settings.server.region,
            max_body_bytes=self._limits.max_body_bytes,
        )
        self._log = self._log.bind(carrier=target.carrier, region=target.region)
        return target

    def _accept(self) -> Leg:
        self._leg = self._upgrade.accept(
            opening_bytes=self._limits.max_opening_bytes,
            early_bytes=self._limits.max_early_bytes,
            on_gone=self._carrier_gone,
        )
        return self._leg

    async def _read_opening(self, dialect: Dialect) -> Start:
        """The carrier's own account of the call (carriers.md §8.1)."""
        assert self._leg is not None
        opening = Opening(dialect)
        start = None
        try:
            async with asyncio.timeout(self._limits.start_timeout):
                while start is None:
                    start = opening.feed(await self._leg.receive())
        except TimeoutError:
            words = f"no start message within {self._limits.start_timeout:g} s"
            raise CallEnd(Endings.bad_opening, words) from None
        except DialectError as error:
            raise CallEnd(Endings.bad_opening, str(error)) from None
        self._leg.hold(self._limits.max_message_bytes)
        self._log = self._log.bind(call_id=start.call_id, stream_id=start.stream_id)
        return start

    def _route(self, target: Target, start: Start | None) -> AgentSettings:
        """The agent: named by path, query, parameter or token (public-api.md), else the called number's."""
        token = self._shown.token
        names = [*target.named, token.service_host] if token else list(target.named)
        if start is not None:
            names += [start.parameters[key] for key in SERVICE_HOST_PARAMETERS if start.parameters.get(key)]
        directory = self._board.directory
        agent = directory.named(names, target.region)
        if agent is None:
            agent = directory.called(start.to_number if start else None, target.region)
        self._log = self._log.bind(agent=agent.service_host, organization=agent.organization)
        return agent

    async def _prove_caller(self, target: Target, agent: AgentSettings | None) -> None:
        """Who calls, as far as the upgrade shows it: a signature, a call's token, or a session's."""
        self._shown = await prove_upgrade(self._board, self._upgrade, target, agent)
        if self._shown.token is not None:
            await self._be_session(self._shown.token.session_id)

    async def _prove_call(self, agent: AgentSettings, carrier: str, start: Start) -> None:
        """That the call is one that may be here, and has no other socket."""
        prove_start(self._board, carrier, start, agent, self._shown)
        if self._shown.claims is not None:
            self._claim = await claim(self._board, carrier, start.call_id, agent, self._shown.claims)
            await self._be_session(self._claim.socket.session_id, known=self._claim.held)

    async def _be_session(self, session_id: str, *, known: bool = True) -> None:
        """The session that this call becomes, and what was asked for where it is `known` to the store."""
        self.session_id = session_id
        self._log = self._log.bind(session=session_id)
        try:
            promised = await self._board.store.session(session_id) if known else None
        except StoreFailed:
            promised = None  # whether a call may be without the store is said when it is admitted
        if promised is not None:
            self._wanted_limits = promised.max_duration, promised.idle_timeout

    def _body(self, target: Target, start: Start | None) -> str | None:
        """What the agent is to be told: from the query, where a carrier has none from parameters, or kept."""
        if target.body is not None or start is None:
            return target.body
        if self._claim is not None and self._claim.body is not None:
            return self._claim.body
        return from_parameters(start.parameters, self._limits.max_body_bytes)

    def _play(self, agent: AgentSettings, dialect: Dialect | None, start: Start | None) -> None:
        """Has the caller hear something until its agent does."""
        if self._leg is not None and dialect is not None and start is not None:
            self._hold = Hold(self._board.holds, self._leg, dialect, start)
            self._hold.begin(agent, answered=self._claim is not None and self._claim.held)

    @asynccontextmanager
    async def _admitted_to(
        self, agent: AgentSettings, target: Target, start: Start | None
    ) -> AsyncIterator[tuple[AgentSettings, str]]:
        """Takes a place, here or where calls flow over to, and gives its agent and instance.

        What goes wrong inside counts against that instance.
        """
        agent, instance = await find_place(
            self._board,
            agent,
            target,
            start,
            self.session_id,
            held=self._claim is not None and self._claim.held,
            stays=self._shown.token is not None,
            hold=self._hold,
        )
        self._admitted = True
        self._log = self._log.bind(agent=agent.service_host, instance=instance)
        self._board.probes.taken(instance)
        try:
            yield agent, instance
        except CallEnd as end:
            if end.ending is Endings.agent_unreachable:
                self._board.probes.unreachable(instance)
            elif end.ending is Endings.agent_start_timeout:
                self._board.probes.lost(instance)
            raise

    async def _note_call(self, agent: AgentSettings, carrier: str, start: Start | None) -> None:
        """What its record does not say and somebody will want to know."""
        if start is None:
            return
        accounts = self._board.accounts.of(agent.organization, carrier)
        if len(accounts) > 1 or (self._claim is not None and self._claim.held):
            try:
                await self._board.call_book.note(
                    self.session_id, carrier=carrier, account=start.account_id, call_id=start.call_id
                )
            except StoreFailed as error:
                raise CallEnd(Endings.store_failed, str(error)) from None

    async def _connect(self, instance: str, body: str | None) -> None:
        """The agent's /ws (agent-container.md), once the instance is ready."""
        timeout_s = self._limits.agent_connect_timeout
        try:
            async with asyncio.timeout(timeout_s):
                self._agent_leg = await connect_agent(
                    self._board, instance, self.session_id, body, on_gone=self._agent_gone
                )
        except TimeoutError:
            raise CallEnd(Endings.agent_start_timeout, f"no answer within {timeout_s:g} s") from None

    def _couple(self, agent: AgentSettings, dialect: Dialect | None, start: Start | None) -> None:
        """Lets the two legs talk."""
        assert self._leg is not None
        assert self._agent_leg is not None
        first = self._relay is None
        farewell = None
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
            filters=filters_of(dialect.name) if dialect and agent.media == "messages" else None,
            farewell=farewell,
            keeps_agent=not agent.hide_call_id,
            on_agent_lost=self._take_back if self._resumption is not None else None,
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
        self._couple(agent, resumption.dialect, resumption.start)
        self._board.store.resumed(self.session_id, resumption.times)
        seconds = round(self._board.now() - since, 3)
        self._log.warning("call resumed", times=resumption.times, words=lost.words, seconds=seconds)

    # The end

    async def _finish(self, end: CallEnd) -> None:
        """Writes the one end down, frees the place, tells whoever is still there, says it in one line."""
        if self._hold is not None:
            self._hold.stop()
        end = told_end(self._wish, await truth(self._board, self._claim, end))
        await self._record(end)
        if self._relay is not None:
            await self._relay.closed
        if self._agent_leg is not None:
            code = frames.INTERNAL_ERROR if end.ending.failed else frames.NORMAL_CLOSURE
            self._agent_leg.close(*self._goodbye or (code, end.words))
        if self._leg is None and self._agent_leg is not None and self._upgrade.waits:
            self._accept()  # as its agent has: the end is told by a close on both
        if self._leg is not None:
            self._leg.close(*self._goodbye or (end.ending.close_code, end.words))
        elif self._relay is None and end.ending.status is not None:
            self._upgrade.refuse(end)
        self._say(end)

    async def _record(self, end: CallEnd) -> None:
        if not self._admitted:
            return
        ending = end.ending
        well = State.ENDED if self._relay is not None else State.CANCELED
        outcome = Outcome(
            state=State.FAILED if ending.failed else well,
            ended_at=self._board.now(),
            reason=ending.code,
            side=ending.side,
            detail=end.words,
            close_code=ending.close_code,
            traffic=self._traffic(),
            first_agent_sound_at=self._first_sound_at,
            completion_status="WS_CONNECTION_CLOSED",
        )
        written = self._board.store.ended(self.session_id, outcome)
        end_watch(self._board.store).ended(self.session_id)
        await asyncio.wait([written], timeout=END_WRITE_TIMEOUT_S)

    def _traffic(self) -> Traffic:
        if self._relay is not None:
            return Traffic(*self._relay.traffic)
        heard = self._leg.walker if self._leg else None
        return Traffic(frames_in=heard.frames, bytes_in=heard.bytes) if heard else Traffic()

    def _say(self, end: CallEnd) -> None:
        """The one line from which an operator knows what happened and whose fault it was."""
        traffic = self._traffic()
        say = self._log.error if end.ending is Endings.internal_error else self._log.info
        say(
            "call ended"
            if self._relay is not None
            else "call refused"
            if not self._admitted
            else "call not begun",
            reason=end.ending.code,
            side=str(end.ending.side),
            words=end.words,
            seconds=round(self._board.now() - self._began_at, 3),
            frames_in=traffic.frames_in,
            frames_out=traffic.frames_out,
        )

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
