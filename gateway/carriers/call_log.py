# SPDX-License-Identifier: BSD-2-Clause
"""The carrier's side of a session's call: account, ids and status, stored for all workers beside the session.

Carriers report a call in callbacks that arrive late, twice, out of order, and at any worker. So nothing here
is read, changed and written back: each detail and each status is a stored value of its own, written once, and
the call has the highest status of all. A late callback finds a higher status and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gateway.store.interface import Store, StoredValue
from gateway.store.notifications import Topic

STORED_S: Final = 86_400.0
"""Seconds that a call is stored for: longer than any call, and than a carrier repeats a callback."""

BODY_STORED_S: Final = 3600.0
"""Seconds that a body is stored for: longer than an outbound call is queued and rings."""

_KIND: Final = "call"
_BY_CALL_ID: Final = "call_id"
_BODY: Final = "call_body"
_DOCUMENT: Final = "call_document"
# The stored keys are SESSION/fact/NAME and SESSION/step/RANK.
_DETAIL: Final = "fact"
_STATUS: Final = "step"


class CallStatus(StrEnum):
    """The status of a call, as all carriers have it (docs/reference/carriers.md §2.6, §4.4, §5.3)."""

    DIALING = "dialing"
    """The carrier was asked to dial and has not answered yet."""
    QUEUED = "queued"
    """The carrier has accepted the call."""
    RINGING = "ringing"
    ANSWERED = "answered"
    MACHINE = "machine"
    """Answered by a machine."""
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """Whether the call is over."""
        return _RANKS[self] == _FINAL_RANK

    @property
    def answered(self) -> bool:
        """Whether the call was answered."""
        return self in (CallStatus.ANSWERED, CallStatus.MACHINE, CallStatus.COMPLETED)


_FINAL_RANK: Final = 9
_RANKS: Final = {
    CallStatus.DIALING: 0,
    CallStatus.QUEUED: 1,
    CallStatus.RINGING: 2,
    CallStatus.ANSWERED: 3,
    CallStatus.MACHINE: 4,
    CallStatus.COMPLETED: _FINAL_RANK,
    CallStatus.BUSY: _FINAL_RANK,
    CallStatus.NO_ANSWER: _FINAL_RANK,
    CallStatus.FAILED: _FINAL_RANK,
    CallStatus.CANCELED: _FINAL_RANK,
}
"""A call's status only rises, may skip ranks, and becomes final once."""
_ANSWERED_RANKS: Final = (_RANKS[CallStatus.ANSWERED], _RANKS[CallStatus.MACHINE])


@dataclass(frozen=True, slots=True)
class CallState:
    """The stored state of a session's call. Times are Unix seconds; None means unknown, or not yet.

    `account`: the account as the carrier names it in `start`. `request_id`: the id of the dial request
    (Plivo). `status_at`: when the call got its status. `detail`: the carrier's explanation of how the call
    ended.
    """

    session_id: str
    carrier: str | None = None
    account: str | None = None
    call_id: str | None = None
    request_id: str | None = None
    status: CallStatus | None = None
    status_at: float | None = None
    answered_at: float | None = None
    detail: str | None = None


class CallLog:
    """The calls of all sessions on all workers. Every method raises StoreFailed if the store fails."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        """`now`: Unix seconds. Changes are published as Topic.SESSION_CHANGED."""
        self._documents = store.key_values
        self._notifications = store.notifications
        self._now = now

    async def record_details(
        self,
        session_id: str,
        *,
        carrier: str | None = None,
        account: str | None = None,
        call_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Store each detail that is not None, replacing an earlier one. A `call_id` requires `carrier`."""
        details = {"carrier": carrier, "account": account, "call_id": call_id, "request_id": request_id}
        for name, value in details.items():
            if value is not None:
                await self._put(_KIND, f"{session_id}/{_DETAIL}/{name}", value)
        if call_id is not None:
            assert carrier is not None, "a call id is a carrier's"
            await self._put(_BY_CALL_ID, f"{carrier}:{call_id}", session_id)
        self._notifications.publish(Topic.SESSION_CHANGED, session_id)

    async def record_status(
        self,
        session_id: str,
        status: CallStatus,
        sequence: int | None = None,
        at: float | None = None,
        *,
        detail: str | None = None,
    ) -> bool:
        """Store a status that the carrier reported.

        Return False if it is old or repeated and changes nothing.

        The first final status counts. `sequence`: the carrier's number of the message; it is stored for
        debugging only, since the order of `CallStatus` decides. `at`: the time of the event in Unix seconds,
        by default now.
        """
        rank = _RANKS[status]
        step = {"status": status, "at": self._now() if at is None else at}
        optional = {"sequence": sequence, "detail": detail}
        step |= {name: value for name, value in optional.items() if value is not None}
        now = self._now()
        earlier = await self._documents.list(_KIND, now, f"{session_id}/{_STATUS}/")
        is_new = await self._documents.put_if_absent(
            _KIND, f"{session_id}/{_STATUS}/{rank}", json.dumps(step), now=now, expires_at=now + STORED_S
        )
        self._notifications.publish(Topic.SESSION_CHANGED, session_id)
        return is_new and all(_rank_of(value) < rank for value in earlier)

    async def of(self, session_id: str) -> CallState:
        """Return the state of the session's call, all None if nothing is stored."""
        values = await self._documents.list(_KIND, self._now(), f"{session_id}/")
        details: dict[str, str] = {}
        steps: dict[int, dict[str, Any]] = {}
        for value in values:
            kind, _, name = value.key.removeprefix(f"{session_id}/").partition("/")
            if kind == _DETAIL:
                details[name] = json.loads(value.value)
            else:
                steps[int(name)] = json.loads(value.value)
        latest = steps[max(steps)] if steps else {}
        answered = [steps[rank]["at"] for rank in _ANSWERED_RANKS if rank in steps]
        return CallState(
            session_id,
            carrier=details.get("carrier"),
            account=details.get("account"),
            call_id=details.get("call_id"),
            request_id=details.get("request_id"),
            status=CallStatus(latest["status"]) if latest else None,
            status_at=latest.get("at"),
            answered_at=min(answered, default=None),
            detail=latest.get("detail"),
        )

    async def session_of(self, carrier: str, call_id: str) -> str | None:
        """Return the session that the carrier's call id was last stored for."""
        return await self._get(_BY_CALL_ID, f"{carrier}:{call_id}")

    async def call_ids(self, carrier: str, *, except_session: str) -> frozenset[str]:
        """Return all stored call ids of a carrier except those of one session."""
        values = await self._documents.list(_BY_CALL_ID, self._now(), f"{carrier}:")
        excluded = json.dumps(except_session)
        return frozenset(value.key.partition(":")[2] for value in values if value.value != excluded)

    async def save_body(self, session_id: str, body: str) -> None:
        """Store the body for the session's agent, base64 of JSON, until the call's stream arrives."""
        now = self._now()
        await self._documents.put(
            _BODY, session_id, json.dumps(body), now=now, expires_at=now + BODY_STORED_S
        )

    async def body_of(self, session_id: str) -> str | None:
        """Return the body stored for the session's agent, base64 of JSON."""
        return await self._get(_BODY, session_id)

    async def save_document(self, session_id: str, document: str) -> None:
        """Store the document that transfers the session's call, until the carrier fetches it."""
        await self._put(_DOCUMENT, session_id, document)

    async def document_of(self, session_id: str) -> str | None:
        """Return the document that transfers the session's call."""
        return await self._get(_DOCUMENT, session_id)

    async def _get(self, kind: str, key: str) -> str | None:
        stored = await self._documents.get(kind, key, self._now())
        return None if stored is None else str(json.loads(stored.value))

    async def _put(self, kind: str, key: str, value: str) -> None:
        now = self._now()
        await self._documents.put(kind, key, json.dumps(value), now=now, expires_at=now + STORED_S)


def _rank_of(step: StoredValue) -> int:
    return int(step.key.rpartition("/")[2])
