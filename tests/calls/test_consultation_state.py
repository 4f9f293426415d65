# SPDX-License-Identifier: BSD-2-Clause
"""The table of a consultation: what is stored of it amounts to one event in each state."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.calls.consultation.consultation import Consultation
from gateway.calls.consultation.consultation_log import ConsultationRecord, Decision, Step
from gateway.calls.consultation.consultation_state import (
    TRANSITIONS,
    ConsultationEvent,
    ConsultationState,
    mermaid,
)
from gateway.carriers.call_log import CallState, CallStatus

DIALING, RINGING, ANNOUNCING, JOINING, JOINED, HANGING_UP, ENDED = ConsultationState
Event = ConsultationEvent

EXPECTED = {
    (DIALING, Event.ACCEPTED): RINGING,
    (DIALING, Event.REFUSED): ENDED,
    (RINGING, Event.ANSWERED): ANNOUNCING,
    (RINGING, Event.TAKEN): JOINING,
    (RINGING, Event.NOT_REACHED): ENDED,
    (RINGING, Event.LEFT): ENDED,
    (RINGING, Event.WITHDRAWN): HANGING_UP,
    (RINGING, Event.EXPIRED): HANGING_UP,
    (ANNOUNCING, Event.TAKEN): JOINING,
    (ANNOUNCING, Event.NOT_REACHED): ENDED,
    (ANNOUNCING, Event.LEFT): ENDED,
    (ANNOUNCING, Event.WITHDRAWN): HANGING_UP,
    (ANNOUNCING, Event.EXPIRED): HANGING_UP,
    (JOINING, Event.MOVED): JOINED,
    (JOINING, Event.NOT_MOVED): HANGING_UP,
    (JOINING, Event.EXPIRED): HANGING_UP,
    (HANGING_UP, Event.NO_CALL_LEFT): ENDED,
}
"""The next state, written down once more."""

WAITING = (RINGING, ANNOUNCING, JOINING)
DECISIONS: tuple[Decision | None, ...] = (None, *Decision)
STATUSES: tuple[CallStatus | None, ...] = (None, *CallStatus)


@pytest.mark.parametrize(("state", "event"), list(product(ConsultationState, ConsultationEvent)))
def test_the_table(state: ConsultationState, event: ConsultationEvent) -> None:
    assert TRANSITIONS[state].get(event) == EXPECTED.get((state, event))


def event_of(
    state: ConsultationState,
    *,
    decision: Decision | None = None,
    steps: tuple[Step, ...] = (),
    status: CallStatus | None = None,
    caller_left: bool = False,
    is_late: bool = False,
) -> tuple[ConsultationEvent | None, str]:
    stored = {Step.DECIDED: str(decision)} if decision is not None else {}
    record = ConsultationRecord("c", CallState("c", status=status), stored | dict.fromkeys(steps, ""))
    consultation = cast(Any, SimpleNamespace(state=state, _is_withdrawn=False))
    return Consultation._event_of(consultation, record, caller_left=caller_left, is_late=is_late)


@pytest.mark.parametrize("state", WAITING)
def test_everything_that_can_be_stored_leads_on_by_the_table_or_changes_nothing(
    state: ConsultationState,
) -> None:
    steps = (Step.MOVING, Step.MOVED, Step.NOT_MOVED, Step.WITHDRAWN)
    for decision, step, status, caller_left, is_late in product(
        DECISIONS, ((), *((one,) for one in steps)), STATUSES, (False, True), (False, True)
    ):
        event, _ = event_of(
            state, decision=decision, steps=step, status=status, caller_left=caller_left, is_late=is_late
        )
        assert event is None or event in TRANSITIONS[state], (decision, step, status, caller_left, is_late)


def test_a_call_that_is_taken_is_taken_whatever_came_after_it() -> None:
    for status, caller_left in product(STATUSES, (False, True)):
        event, _ = event_of(RINGING, decision=Decision.TAKEN, status=status, caller_left=caller_left)
        assert event is Event.TAKEN


@pytest.mark.parametrize("state", [RINGING, ANNOUNCING])
def test_every_wait_ends(state: ConsultationState) -> None:
    event, _ = event_of(state, is_late=True)
    assert event is Event.EXPIRED
    assert event_of(JOINING, is_late=True)[0] is Event.EXPIRED


def test_the_diagram_has_every_step() -> None:
    assert len(mermaid().splitlines()) == 1 + 1 + len(EXPECTED) + 2
