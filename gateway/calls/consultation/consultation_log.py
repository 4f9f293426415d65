# SPDX-License-Identifier: BSD-2-Clause
"""The stored steps of consultations, for all workers: each is written once, and never changed.

The call to the person who may take the caller is in the call log (gateway/carriers/call_log.py) under the
consultation's id, as if that were a session.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.carriers.call_log import STORED_S, CallLog, CallState
from gateway.store.interface import Store
from gateway.store.notifications import Topic

LONGEST_S: Final = 300.0
"""Seconds after which a consultation is over in any case, also one whose worker is lost: the longest time to
ring, and to take the call.
"""

_OF_SESSION: Final = "consultation"
_STEP: Final = "consultation_step"


class Step(StrEnum):
    """A step of a consultation that is stored; the values are stored and must not change."""

    DECIDED = "decided"
    """Whether it is taken or given up, whichever came first; see `Decision`."""
    MOVING = "moving"
    """A worker moves the caller."""
    MOVED = "moved"
    NOT_MOVED = "not_moved"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"
    """The result is stored with it."""


class Decision(StrEnum):
    """How a consultation was decided; the values are stored and must not change."""

    TAKEN = "taken"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class ConsultationRecord:
    """The stored state of one consultation. `steps`: each with its text, "" for most of them."""

    consultation_id: str
    call: CallState
    steps: dict[Step, str]

    @property
    def is_taken(self) -> bool:
        """Whether the called person has taken the call before it was given up."""
        return self.steps.get(Step.DECIDED) == Decision.TAKEN


class ConsultationLog:
    """The consultations of all sessions. Every method raises StoreFailed if the store fails."""

    def __init__(self, store: Store, call_log: CallLog, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._values = store.key_values
        self._notifications = store.notifications
        self._call_log = call_log
        self._now = now

    async def begin(self, session_id: str, consultation_id: str) -> bool:
        """Store that a session has a consultation. Return False if it has another one that is not over."""
        now = self._now()
        written = await self._values.put_if_absent(
            _OF_SESSION, session_id, json.dumps(consultation_id), now=now, expires_at=now + STORED_S
        )
        if written:
            return True
        stored = await self._values.get(_OF_SESSION, session_id, now)
        earlier = await self.of_session(session_id)
        is_young = stored is not None and now - stored.created_at < LONGEST_S
        if is_young and earlier is not None and Step.ENDED not in earlier.steps:
            return False
        await self._values.put(
            _OF_SESSION, session_id, json.dumps(consultation_id), now=now, expires_at=now + STORED_S
        )
        return True

    async def of_session(self, session_id: str) -> ConsultationRecord | None:
        """Return the session's latest consultation, None if it has had none."""
        stored = await self._values.get(_OF_SESSION, session_id, self._now())
        return None if stored is None else await self.get(json.loads(stored.value))

    async def get(self, consultation_id: str) -> ConsultationRecord:
        """Return what is stored of a consultation, nothing if it is not known."""
        prefix = f"{consultation_id}/"
        values = await self._values.list(_STEP, self._now(), prefix)
        steps = {Step(value.key.removeprefix(prefix)): str(json.loads(value.value)) for value in values}
        return ConsultationRecord(consultation_id, await self._call_log.of(consultation_id), steps)

    async def note(self, consultation_id: str, step: Step, text: str = "") -> bool:
        """Store a step. Return False if it is stored already."""
        now = self._now()
        is_new = await self._values.put_if_absent(
            _STEP, f"{consultation_id}/{step}", json.dumps(text), now=now, expires_at=now + STORED_S
        )
        self._notifications.publish(Topic.SESSION_CHANGED, consultation_id)
        return is_new

    async def decide(self, consultation_id: str, decision: Decision) -> Decision:
        """Store how a consultation is decided, unless it is already. Return how it is."""
        if await self.note(consultation_id, Step.DECIDED, decision):
            return decision
        record = await self.get(consultation_id)
        return Decision(record.steps.get(Step.DECIDED, decision))
