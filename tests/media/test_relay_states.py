# SPDX-License-Identifier: BSD-2-Clause
"""The teardown of a relay enters exactly the states that its table allows, for every state and event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.media.disconnect import CONNECTION_ENDED, CONNECTION_LOST, Disconnect
from gateway.media.hangup_after_playback import HangupAfterPlayback
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.media.relay_options import RelayLimits, RelayOptions
from gateway.media.relay_side import RelaySide
from gateway.media.relay_states import (
    CONDITIONS,
    INITIAL,
    OPEN,
    TERMINAL,
    TRANSITIONS,
    RelayEvent,
    RelayState,
)
from gateway.media.teardown import AgentHold
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from serializers.events import Start
from serializers.registry import DIALECTS
from tests.harness.frames import CLOSE, split
from tests.media.relays import ignore_disconnect

LIMITS = RelayLimits(max_duration_s=60, idle_s=60, stall_s=10, close_s=10, max_message_bytes=1 << 20)
AGENT_CLOSE = Disconnect(frames.NORMAL_CLOSURE)
END = CallEnded(Reasons.max_duration)


class FakeTransport(asyncio.Transport):
    """A transport over TLS without a socket: it records what is written, and is closed by the test alone."""

    def __init__(self) -> None:
        super().__init__({"sslcontext": object()})
        self.written = b""
        self.closing = False
        self.reading = True
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def close_codes(self) -> list[int]:
        """The codes of the close frames that were written."""
        written, rest = split(self.written)
        assert rest == b""
        return [one.close[0] for one in written if one.opcode == CLOSE]


class Call:
    """A relay over fake transports. `possible`: whether all conditions of the table hold."""

    def __init__(self, *, possible: bool = True) -> None:
        self.transports = [FakeTransport(), FakeTransport()]
        self.released: list[RelaySide] = []
        self.accepts_release = True
        legs = [
            Leg(
                transport,
                client=client,
                max_opening_bytes=1 << 16,
                max_buffered_bytes=1 << 16,
                on_disconnect=ignore_disconnect,
            )
            for client, transport in zip((False, True), self.transports, strict=True)
        ]
        self.answers = asyncio.get_running_loop().create_future()
        options = RelayOptions(
            limits=LIMITS,
            dialect=DIALECTS["twilio"],
            agent_answers=self._agent_answers,
            on_first_sound=lambda: None,
            ending=self,
            keeps_agent=True,
            on_agent_lost=self._take_carrier,
            on_carrier_lost=self._take_agent,
        )
        if not possible:
            options = RelayOptions(
                limits=LIMITS, dialect=None, on_first_sound=lambda: None, keeps_agent=False
            )
        self.relay = Relay(legs[0], legs[1], options)
        self.relay.start()
        self.teardown = self.relay.teardown

    @property
    def carrier(self) -> FakeTransport:
        return self.transports[0]

    @property
    def agent(self) -> FakeTransport:
        return self.transports[1]

    def hangup_after_playback(self) -> HangupAfterPlayback:
        start = Start("C1", "S1")
        return HangupAfterPlayback(DIALECTS["twilio"], start, self._hang_up, hangs_up=True, longest_s=60)

    async def _hang_up(self) -> None:
        await asyncio.Event().wait()

    async def _agent_answers(self) -> bool:
        return await self.answers

    def _take_carrier(self, carrier: RelaySide) -> None:
        self.released.append(carrier)

    def _take_agent(self, agent: RelaySide) -> bool:
        if self.accepts_release:
            self.released.append(agent)
        return self.accepts_release

    def close(self, side: RelaySide) -> None:
        """Have the far end of `side` send its close frame."""
        if side is self.relay.agent and self.teardown.state is RelayState.AGENT_HELD:
            self.teardown.held_agent_closed(frames.NORMAL_CLOSURE.to_bytes(2, "big"))
        else:
            self.teardown.close_received(side, AGENT_CLOSE)

    def lose(self, side: RelaySide, how: Disconnect = CONNECTION_LOST) -> None:
        """Close the socket of `side`."""
        side.lost = True
        self.transports[side is self.relay.agent].closing = True
        self.teardown.connection_lost(side, how)


EVENTS: dict[RelayEvent, Callable[[Call], object]] = {
    RelayEvent.END: lambda call: call.relay.end(END),
    RelayEvent.AGENT_CLOSED: lambda call: call.close(call.relay.agent),
    RelayEvent.AGENT_LOST: lambda call: call.lose(call.relay.agent),
    RelayEvent.AGENT_DISCONNECTED: lambda call: call.lose(call.relay.agent, CONNECTION_ENDED),
    RelayEvent.AGENT_ENDED: lambda call: call.teardown.agent_checked(True),
    RelayEvent.CARRIER_CLOSED: lambda call: call.close(call.relay.carrier),
    RelayEvent.CARRIER_LOST: lambda call: call.lose(call.relay.carrier),
    RelayEvent.CARRIER_REPLACED: lambda call: call.relay.release_agent(END),
    RelayEvent.STOP_EXPIRED: lambda call: call.teardown.stop_expired(),
    RelayEvent.TRANSFER_STARTED: lambda call: call.relay.set_transfer_pending(True),
    RelayEvent.TRANSFER_FAILED: lambda call: call.relay.set_transfer_pending(False),
    RelayEvent.TRANSFERRED: lambda call: call.relay.detach_carrier(END),
    RelayEvent.PLAYBACK_ENDED: lambda call: call.teardown.playback_ended(),
    RelayEvent.FINISHED: lambda call: call.teardown.finish(),
}
"""How each event reaches the teardown."""

WAYS: dict[RelayState, list[RelayEvent]] = {
    RelayState.RELAYING: [],
    RelayState.TRANSFER_PENDING: [RelayEvent.TRANSFER_STARTED],
    RelayState.CHECKING_AGENT: [RelayEvent.AGENT_DISCONNECTED],
    RelayState.DRAINING_PLAYBACK: [RelayEvent.AGENT_CLOSED],
    RelayState.AGENT_HELD: [RelayEvent.TRANSFERRED],
    RelayState.CLOSING: [RelayEvent.END],
    RelayState.RELEASED: [RelayEvent.CARRIER_REPLACED],
    RelayState.CLOSED: [RelayEvent.END, RelayEvent.FINISHED],
}
"""The events that lead a new relay into each state."""


@pytest.fixture
async def call_in() -> AsyncIterator[Callable[..., Call]]:
    """Make a call whose relay is in the given state."""
    made: list[Call] = []

    def make(state: RelayState = INITIAL, *, possible: bool = True) -> Call:
        call = Call(possible=possible)
        made.append(call)
        for event in WAYS[state]:
            EVENTS[event](call)
        assert call.teardown.state is state
        return call

    yield make
    for call in made:
        call.teardown.timers.stop()
        if call.teardown._task is not None:
            call.teardown._task.cancel()
    await asyncio.sleep(0)


def expected(state: RelayState, event: RelayEvent, *, possible: bool) -> RelayState:
    """The state that follows by the table, if all conditions hold or none does."""
    for candidate in TRANSITIONS[state].get(event, ()):
        if possible or candidate not in CONDITIONS:
            return candidate
    return state


@pytest.mark.parametrize("event", RelayEvent, ids=lambda event: event.name.lower())
@pytest.mark.parametrize("state", RelayState)
async def test_the_relay_follows_the_table(
    call_in: Callable[..., Call], state: RelayState, event: RelayEvent
) -> None:
    call = call_in(state)
    EVENTS[event](call)
    assert call.teardown.state is expected(state, event, possible=True)
    assert_consistent(call)


@pytest.mark.parametrize("event", RelayEvent, ids=lambda event: event.name.lower())
@pytest.mark.parametrize("state", [state for state in RelayState if state not in CONDITIONS])
async def test_where_no_condition_holds_the_relay_takes_the_other_way(
    call_in: Callable[..., Call], state: RelayState, event: RelayEvent
) -> None:
    call = call_in(state, possible=False)
    EVENTS[event](call)
    assert call.teardown.state is expected(state, event, possible=False)
    assert_consistent(call)


def assert_consistent(call: Call) -> None:
    """What each state promises, whichever event led into it."""
    state = call.teardown.state
    assert call.relay.ended.done() == (state not in OPEN)
    assert call.relay.closed.done() == (state in TERMINAL)
    if state is RelayState.CHECKING_AGENT:
        assert not call.carrier.reading
        assert not call.carrier.written
    elif state in (RelayState.RELAYING, RelayState.TRANSFER_PENDING):
        assert not call.carrier.written
        assert not call.agent.written
    elif state is RelayState.DRAINING_PLAYBACK:
        assert call.carrier.close_codes() == []
        assert call.agent.close_codes() == [1000] or call.relay.agent.lost
        assert call.agent.closing
    elif state is RelayState.AGENT_HELD:
        assert call.agent.close_codes() == []
        assert isinstance(call.agent.protocol, AgentHold)
        assert call.relay.carrier.close_sent or call.relay.carrier.lost
    elif state is RelayState.RELEASED:
        (side,) = call.released
        transport = call.transports[side is call.relay.agent]
        assert not transport.written
    elif state is RelayState.CLOSED:
        assert call.carrier.closing
        assert call.agent.closing


async def test_an_end_sends_each_far_end_its_close_code_and_waits_for_both(
    call_in: Callable[..., Call],
) -> None:
    call = call_in()
    call.relay.end(CallEnded(Reasons.internal_error))
    assert call.carrier.close_codes() == [Reasons.internal_error.close_code]
    assert call.agent.close_codes() == [frames.INTERNAL_ERROR]
    for transport, masked in ((call.carrier, True), (call.agent, False)):
        assert not call.relay.closed.done()
        transport.protocol.data_received(frames.build_close(1000, "", masked=masked))
        await asyncio.sleep(0)
    assert call.teardown.state is RelayState.CLOSED


async def test_the_close_of_one_far_end_is_passed_to_the_other_and_its_answer_back(
    call_in: Callable[..., Call],
) -> None:
    call = call_in(possible=False)
    farewell = frames.build_close(4001, "bye", masked=False)
    call.agent.protocol.data_received(farewell)
    assert call.carrier.written == farewell
    assert call.teardown.state is RelayState.CLOSING
    answer = frames.build_close(4001, "", masked=True)
    call.carrier.protocol.data_received(answer)
    assert call.agent.written == answer
    await asyncio.sleep(0)
    assert call.teardown.state is RelayState.CLOSED


async def test_an_unclean_close_is_not_followed_by_a_hang_up(call_in: Callable[..., Call]) -> None:
    call = call_in()
    call.agent.protocol.data_received(frames.build_close(1011, "", masked=False))
    assert call.teardown.state is RelayState.CLOSING


@pytest.mark.parametrize("why", ["it does not read", "it is closing", "the carrier has said stop"])
@pytest.mark.parametrize("lost", ["agent", "carrier"])
async def test_a_side_that_cannot_go_on_is_not_released(
    call_in: Callable[..., Call], lost: str, why: str
) -> None:
    call = call_in()
    lost_side, other = call.relay.agent, call.relay.carrier
    if lost == "carrier":
        lost_side, other = other, lost_side
    if why == "it does not read":
        other.pause_writing()
    elif why == "it is closing":
        call.transports[other is call.relay.agent].closing = True
    else:
        call.relay.timers.stop_received()
    call.lose(lost_side)
    assert call.teardown.state is RelayState.CLOSING
    assert call.released == []
    other.cancel_stall()


async def test_a_refused_release_ends_the_call(call_in: Callable[..., Call]) -> None:
    call = call_in()
    call.accepts_release = False
    assert not call.relay.release_agent(END)
    assert call.teardown.state is RelayState.RELAYING, "a stream that cannot be replaced goes on"
    call.lose(call.relay.carrier)
    assert call.teardown.state is RelayState.CLOSING
    assert call.relay.ended.result().reason is Reasons.carrier_lost


async def test_a_failed_transfer_ends_a_call_whose_carrier_has_gone_meanwhile(
    call_in: Callable[..., Call],
) -> None:
    call = call_in(RelayState.TRANSFER_PENDING)
    call.close(call.relay.carrier)
    assert call.teardown.state is RelayState.AGENT_HELD
    call.relay.set_transfer_pending(False)
    assert call.teardown.state is RelayState.CLOSING
    assert call.relay.ended.result().reason is Reasons.caller_hangup


async def test_the_first_end_counts(call_in: Callable[..., Call]) -> None:
    call = call_in()
    call.relay.end(END)
    call.teardown.stalled(call.relay.agent)
    call.relay.end(CallEnded(Reasons.stopped))
    assert call.relay.ended.result() is END


async def test_deadlines_close_the_sockets_in_the_states_that_wait(call_in: Callable[..., Call]) -> None:
    for state in (RelayState.CLOSING, RelayState.DRAINING_PLAYBACK):
        call = call_in(state)
        call.relay.timers.tick(call.relay.timers.close_by - 0.01)
        assert call.teardown.state is state
        call.relay.timers.tick(call.relay.timers.close_by)
        assert call.teardown.state is RelayState.CLOSED


def test_every_pair_of_the_table_has_its_state_and_event() -> None:
    assert set(TRANSITIONS) == set(RelayState)
    assert set(EVENTS) == set(RelayEvent) == {event for row in TRANSITIONS.values() for event in row}
    assert set(WAYS) == set(RelayState)


def test_every_state_is_reached_and_left_until_the_relay_is_over() -> None:
    def following(state: RelayState) -> set[RelayState]:
        return {candidate for row in TRANSITIONS[state].values() for candidate in row}

    reached = {INITIAL}
    for _ in RelayState:
        reached |= {after for state in reached for after in following(state)}
    assert reached == set(RelayState)
    assert {RelayState.RELEASED, RelayState.CLOSED} == TERMINAL
    for state in OPEN:
        assert TRANSITIONS[state][RelayEvent.END] == (RelayState.CLOSING,)
    for row in TRANSITIONS.values():
        for candidates in row.values():
            conditional = [candidate in CONDITIONS for candidate in candidates]
            assert conditional == sorted(conditional, reverse=True), "a sure way is the last candidate"


async def until_checked(call: Call) -> None:
    """Wait for the task that asks the agent's instance."""
    task = call.teardown._task
    assert task is not None
    await task


async def test_an_agent_that_left_a_call_is_followed_by_the_hang_up(call_in: Callable[..., Call]) -> None:
    call = call_in(RelayState.CHECKING_AGENT)
    call.answers.set_result(True)
    await until_checked(call)
    assert call.teardown.state is RelayState.DRAINING_PLAYBACK
    end = call.relay.ended.result()
    assert (end.reason, end.detail) == (
        Reasons.agent_ended,
        "it ended its connection without a close frame",
    )
    assert call.carrier.reading


async def test_an_agent_that_died_leaves_its_caller_to_the_next(call_in: Callable[..., Call]) -> None:
    call = call_in(RelayState.CHECKING_AGENT)
    call.answers.set_result(False)
    await until_checked(call)
    assert call.teardown.state is RelayState.RELEASED
    assert call.relay.ended.result().reason is Reasons.agent_lost
    assert call.released == [call.relay.carrier]
    assert call.carrier.reading


async def test_an_end_from_here_does_not_wait_for_the_agents_answer(call_in: Callable[..., Call]) -> None:
    call = call_in(RelayState.CHECKING_AGENT)
    call.relay.end(END)
    assert call.relay.ended.result() is END
    call.answers.set_result(True)
    await until_checked(call)
    assert call.teardown.state is RelayState.CLOSING
    assert call.relay.ended.result() is END


async def test_an_agent_that_breaks_off_inside_a_message_is_lost(call_in: Callable[..., Call]) -> None:
    call = call_in()
    half = frames.build(frames.TEXT, b"x" * 1000, masked=False)[:500]
    call.agent.protocol.data_received(half)
    call.lose(call.relay.agent, CONNECTION_ENDED)
    assert call.teardown.state is RelayState.RELEASED
    assert call.relay.ended.result().reason is Reasons.agent_lost
