# SPDX-License-Identifier: BSD-2-Clause
"""The table of an outbound call: every event in every state, against a call with a fake carrier client."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest

from gateway.calls.outbound import outbound_call, outbound_state
from gateway.calls.outbound.outbound_state import TRANSITIONS, OutboundEvent, OutboundState, mermaid
from gateway.carriers.call_log import CallStatus
from gateway.carriers.rest_interface import CarrierFailed, DialedCall
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import NotPending
from gateway.store.sqlite.sqlite_store import SqliteStore
from tests.harness.dialing import Dialing, FakeCarrier, Turns

PENDING, DIALING, UNCERTAIN, RINGING, ATTACHED, HANGING_UP, ENDED = OutboundState
Event = OutboundEvent

EXPECTED = {
    (PENDING, Event.TURN): DIALING,
    (PENDING, Event.STREAM_ATTACHED): ATTACHED,
    (PENDING, Event.GIVEN_UP): ENDED,
    (DIALING, Event.ACCEPTED): RINGING,
    (DIALING, Event.RATE_LIMITED): PENDING,
    (DIALING, Event.ANSWER_LOST): UNCERTAIN,
    (DIALING, Event.STREAM_ATTACHED): ATTACHED,
    (DIALING, Event.GIVEN_UP): HANGING_UP,
    (UNCERTAIN, Event.TURN): DIALING,
    (UNCERTAIN, Event.CALL_FOUND): RINGING,
    (UNCERTAIN, Event.STREAM_ATTACHED): ATTACHED,
    (UNCERTAIN, Event.GIVEN_UP): HANGING_UP,
    (RINGING, Event.STREAM_ATTACHED): ATTACHED,
    (RINGING, Event.GIVEN_UP): HANGING_UP,
    (ATTACHED, Event.MACHINE_DETECTED): HANGING_UP,
    (ATTACHED, Event.RELEASED): ENDED,
    (ATTACHED, Event.GIVEN_UP): ENDED,
    (HANGING_UP, Event.NO_CALL_LEFT): ENDED,
}
"""The next state, written down once more. Every other pair changes nothing."""

CANNOT_OCCUR = {
    *((state, Event.RELEASED) for state in (PENDING, DIALING, UNCERTAIN, RINGING)),
    (UNCERTAIN, Event.MACHINE_DETECTED),
}
"""Before the stream is attached no other worker ends the session. While it is uncertain whether there is a
call, a callback about a machine shows that there is one: that is CALL_FOUND.
"""

LOST = CarrierFailed("timeout", "no answer within 10 s", uncertain=True)
STOPPED = CallEnded(Reasons.stopped)


@pytest.fixture(autouse=True)
def deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """No deadline passes by itself, and no pause is made."""
    for name in ("RING_SLACK_S", "STREAM_S", "MACHINE_S"):
        monkeypatch.setattr(outbound_call, name, 3600.0)
    for name in ("FIRST_SEARCH_S", "MAX_SEARCH_S", "RATE_LIMIT_PAUSE_S"):
        monkeypatch.setattr(outbound_call, name, 0.0)


def release(dialing: Dialing) -> None:
    assert dialing.turns is not None
    dialing.turns.release()


async def enter(dialing: Dialing, state: OutboundState) -> None:
    """Bring the call into `state`."""
    await dialing.reaches(PENDING)
    if state is PENDING:
        return
    release(dialing)
    await dialing.reaches(DIALING)
    if state is DIALING:
        return
    if state is UNCERTAIN:
        dialing.carrier.answers.put_nowait(LOST)
        await dialing.reaches(UNCERTAIN)
        return
    dialing.carrier.answers.put_nowait(DialedCall("CA1"))
    await dialing.reaches(RINGING)
    if state is ATTACHED:
        await dialing.attach_stream()
        await dialing.reaches(ATTACHED)
    elif state in (HANGING_UP, ENDED):
        dialing.call.termination.set(STOPPED)
        await dialing.reaches(HANGING_UP)
    if state is ENDED:
        dialing.carrier.may_hang_up.set()
        await dialing.call.task
        assert dialing.call.state is ENDED


async def cause(dialing: Dialing, state: OutboundState, event: OutboundEvent) -> None:
    """Do outside the call what is the event for it."""
    carrier, call = dialing.carrier, dialing.call
    match event:
        case Event.TURN:
            release(dialing)
        case Event.ACCEPTED:
            carrier.answers.put_nowait(DialedCall("CA2"))
        case Event.RATE_LIMITED:
            carrier.answers.put_nowait(CarrierFailed("rate_limited", "too many calls"))
        case Event.ANSWER_LOST:
            carrier.answers.put_nowait(LOST)
        case Event.CALL_FOUND:
            carrier.found = DialedCall("CA9")
        case Event.STREAM_ATTACHED:
            if state in (ATTACHED, HANGING_UP, ENDED):
                with pytest.raises(NotPending):
                    await dialing.attach_stream()
                return
            await dialing.attach_stream()
            if state in (PENDING, DIALING):
                call.termination.set(STOPPED)  # a call that does not look for its stream finds it at its end
        case Event.GIVEN_UP:
            call.termination.set(STOPPED)
        case Event.MACHINE_DETECTED:
            await dialing.call_log.record_status(call.session_id, CallStatus.MACHINE)
        case Event.RELEASED:
            await dialing.end_session()
        case Event.NO_CALL_LEFT:
            carrier.may_hang_up.set()


@pytest.mark.parametrize(("state", "event"), sorted(product(OutboundState, OutboundEvent)))
async def test_every_event_in_every_state(
    store: SqliteStore, state: OutboundState, event: OutboundEvent
) -> None:
    expected = EXPECTED.get((state, event))
    assert TRANSITIONS[state].get(event) is expected
    if (state, event) in CANNOT_OCCUR:
        assert expected is None
        return
    # Only a carrier that may be asked again leads from UNCERTAIN to another turn; all others are searched.
    repeats_safely = (state, event) == (UNCERTAIN, Event.TURN)
    carrier = FakeCarrier(repeats_safely=repeats_safely, holds_hang_up=True)
    dialing = Dialing(store, carrier, Turns())
    await dialing.start(machine_detection="detect" if state is ATTACHED else None)
    await enter(dialing, state)
    before = len(dialing.call.steps)
    await cause(dialing, state, event)
    if expected is None:
        await dialing.settle()
        assert dialing.call.steps[before:] == []
        assert dialing.call.state is state
    else:
        await dialing.makes_step(before)
        assert dialing.call.steps[before] == (state, event, expected)
    await dialing.cancel()


def test_every_state_is_reached_and_one_is_terminal() -> None:
    assert set(TRANSITIONS) == set(OutboundState)
    reached = {following for steps in TRANSITIONS.values() for following in steps.values()}
    assert reached == set(OutboundState)
    assert [state for state, steps in TRANSITIONS.items() if not steps] == [ENDED]


def test_the_diagram_is_drawn_from_the_table() -> None:
    module = subprocess.run(
        [sys.executable, "-m", outbound_state.__name__], capture_output=True, text=True, check=True
    )
    assert module.stdout.rstrip("\n") == mermaid()
    steps = [line for line in mermaid().splitlines() if "[*]" not in line and "-->" in line]
    assert len(steps) == len(EXPECTED)
    assert "    dialing --> uncertain: answer lost" in steps
