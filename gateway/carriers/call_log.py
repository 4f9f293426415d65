# SPDX-License-Identifier: BSD-2-Clause
"""What is known of a session's telephone call, kept for all workers beside the session.

Carriers tell of a call in callbacks that come late, twice, out of order, and to any worker. So nothing here
is read, changed and written back: each thing that is learned is a document of its own, written once, and the
call stands where the furthest of them says. What comes late finds a further one and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gateway.store.interface import KeyValueStore, StoredValue

KEPT_S: Final = 86_400.0
"""How long it is known: longer than any call, and than its carrier repeats a callback."""

BODY_KEPT_S: Final = 3600.0
"""Longer than a call out waits in line and rings."""

_KIND: Final = "call"
_BY_CALL_ID: Final = "call_id"
_BODY: Final = "call_body"
_DOCUMENT: Final = "call_document"
_FACT: Final = "fact"
_STEP: Final = "step"


class CallStatus(StrEnum):
    """Where a call stands, in the words that carriers share (docs/reference/carriers.md §2.6, §4.4, §5.3)."""

    DIALING = "dialing"
    """The carrier is being asked for it."""
    QUEUED = "queued"
    """The carrier has taken it."""
    RINGING = "ringing"
    ANSWERED = "answered"
    MACHINE = "machine"
    """Answered, and by a machine."""
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """Whether the call is over."""
        return _RANKS[self] == _OVER

    @property
    def answered(self) -> bool:
        """Whether somebody had taken the call."""
        return self in (CallStatus.ANSWERED, CallStatus.MACHINE, CallStatus.COMPLETED)


_OVER: Final = 9
_RANKS: Final = {
    CallStatus.DIALING: 0,
    CallStatus.QUEUED: 1,
    CallStatus.RINGING: 2,
    CallStatus.ANSWERED: 3,
    CallStatus.MACHINE: 4,
    CallStatus.COMPLETED: _OVER,
    CallStatus.BUSY: _OVER,
    CallStatus.NO_ANSWER: _OVER,
    CallStatus.FAILED: _OVER,
    CallStatus.CANCELED: _OVER,
}
"""A call goes from lower to higher, may leave steps out, and is over once."""
_ANSWERED: Final = (_RANKS[CallStatus.ANSWERED], _RANKS[CallStatus.MACHINE])


@dataclass(frozen=True, slots=True)
class CallState:
    """What is known of a session's call. Times are Unix seconds; None is "not known" or "not yet".

    `account`: the carrier's account, as the carrier names it in `start`. `request_id`: what the carrier
    called the call before it had an id (Plivo). `detail`: the carrier's own words for how it ended.
    """

    session_id: str
    carrier: str | None = None
    account: str | None = None
    call_id: str | None = None
    request_id: str | None = None
    status: CallStatus | None = None
    moved_at: float | None = None
    answered_at: float | None = None
    detail: str | None = None


class CallLog:
    """The calls of all sessions, of all workers. Every method may raise StoreFailed."""

    def __init__(self, documents: KeyValueStore, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._documents = documents
        self._now = now

    async def note(
        self,
        session_id: str,
        *,
        carrier: str | None = None,
        account: str | None = None,
        call_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Keeps what is not None, in place of what was known. With a `call_id` the carrier must be given."""
        details = {"carrier": carrier, "account": account, "call_id": call_id, "request_id": request_id}
        for name, value in details.items():
            if value is not None:
                await self._put(_KIND, f"{session_id}/{_FACT}/{name}", value)
        if call_id is not None:
            assert carrier is not None, "a call id is a carrier's"
            await self._put(_BY_CALL_ID, f"{carrier}:{call_id}", session_id)

    async def moved(
        self,
        session_id: str,
        status: CallStatus,
        sequence: int | None = None,
        at: float | None = None,
        *,
        detail: str | None = None,
    ) -> bool:
        """The carrier says where the call stands; False where that changes nothing, being old or repeated.

        Of all that say that the call is over the first is believed. `sequence`: the carrier's own number of
        the message, kept for who looks into it; the order is that of `CallStatus`, which needs none. `at`:
        when it was so, Unix seconds, by default now.
        """
        rank = _RANKS[status]
        said = {"status": status, "at": self._now() if at is None else at}
        more = {"sequence": sequence, "detail": detail}
        said |= {name: value for name, value in more.items() if value is not None}
        now = self._now()
        before = await self._documents.list(_KIND, now, f"{session_id}/{_STEP}/")
        is_new = await self._documents.put_if_absent(
            _KIND, f"{session_id}/{_STEP}/{rank}", json.dumps(said), now=now, expires_at=now + KEPT_S
        )
        return is_new and all(_rank_of(step) < rank for step in before)

    async def of(self, session_id: str) -> CallState:
        """What is known of the session's call; a state without anything where nothing is."""
        found = await self._documents.list(_KIND, self._now(), f"{session_id}/")
        details: dict[str, str] = {}
        steps: dict[int, dict[str, Any]] = {}
        for document in found:
            kind, _, name = document.key.removeprefix(f"{session_id}/").partition("/")
            if kind == _FACT:
                details[name] = json.loads(document.value)
            else:
                steps[int(name)] = json.loads(document.value)
        last = steps[max(steps)] if steps else {}
        answered = [steps[rank]["at"] for rank in _ANSWERED if rank in steps]
        return CallState(
            session_id,
            carrier=details.get("carrier"),
            account=details.get("account"),
            call_id=details.get("call_id"),
            request_id=details.get("request_id"),
            status=CallStatus(last["status"]) if last else None,
            moved_at=last.get("at"),
            answered_at=min(answered, default=None),
            detail=last.get("detail"),
        )

    async def session_of(self, carrier: str, call_id: str) -> str | None:
        """The session that the carrier's call was last noted for."""
        found = await self._documents.get(_BY_CALL_ID, f"{carrier}:{call_id}", self._now())
        return None if found is None else str(json.loads(found.value))

    async def call_ids(self, carrier: str, *, but: str) -> frozenset[str]:
        """All call ids of a carrier that are known, but those of one session."""
        found = await self._documents.list(_BY_CALL_ID, self._now(), f"{carrier}:")
        mine = json.dumps(but)
        return frozenset(each.key.partition(":")[2] for each in found if each.value != mine)

    async def keep_body(self, session_id: str, body: str) -> None:
        """Keeps what the session's agent is to be given, base64 of JSON, until its stream comes."""
        now = self._now()
        await self._documents.put(_BODY, session_id, json.dumps(body), now=now, expires_at=now + BODY_KEPT_S)

    async def body_of(self, session_id: str) -> str | None:
        """What was kept for the session's agent, base64 of JSON."""
        found = await self._documents.get(_BODY, session_id, self._now())
        return None if found is None else str(json.loads(found.value))

    async def keep_document(self, session_id: str, document: str) -> None:
        """Keeps where the session's call goes on, until its carrier asks for it."""
        await self._put(_DOCUMENT, session_id, document)

    async def document_of(self, session_id: str) -> str | None:
        """What was kept of where the session's call goes on."""
        found = await self._documents.get(_DOCUMENT, session_id, self._now())
        return None if found is None else str(json.loads(found.value))

    async def _put(self, kind: str, key: str, value: str) -> None:
        now = self._now()
        await self._documents.put(kind, key, json.dumps(value), now=now, expires_at=now + KEPT_S)


def _rank_of(step: StoredValue) -> int:
    return int(step.key.rpartition("/")[2])
