# SPDX-License-Identifier: BSD-2-Clause
"""The store of an operator who prefers a call too many to no call: `[store] on_failure = "admit"`.

While the wrapped store does not answer, this worker counts its own sessions and admits as if it were the only
worker. Each such decision is handed to the wrapped store, which writes it later, once and in order. So are
the tokens that were used meanwhile; until then each worker knows only its own. An outbound call is not begun
meanwhile, because its stream may come to another worker, which could not find it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog

from gateway.model.session import (
    TELEPHONY_OPTIONS,
    CallDetails,
    LiveTraffic,
    PendingLimit,
    ReleasedBy,
    SessionOptions,
    SessionRecord,
    SessionResult,
    SlotLimits,
)
from gateway.store.admission import AtCapacity, choose_instance
from gateway.store.history import History
from gateway.store.interface import (
    ALL_SESSIONS,
    Counts,
    DurableStore,
    NotPending,
    SessionFilter,
    StoredValue,
    StoreFailed,
)
from gateway.store.notifications import Notifications

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 0.5
"""How long a call waits for the wrapped store before it is admitted without it."""

MAX_PENDING_WRITES: Final = 20_000
"""Writes that may wait for the wrapped store, about a kilobyte each; above it calls are refused after all."""

T = TypeVar("T")


class FailoverStore:
    """A `Store` (interface.py documents the methods) that admits calls while the store it wraps fails."""

    def __init__(
        self,
        store: DurableStore,
        *,
        single_use_kinds: frozenset[str] = frozenset(),
        calls_per_organization: int = 0,
    ) -> None:
        """`single_use_kinds`: kinds of values that are written once and without which no call is let in.

        `calls_per_organization`: active sessions of an organization on this worker while `store` fails; 0
        sets no limit. While `store` answers, its own limit counts.
        """
        self._store = store
        self._outage = _Outage(store)
        self._key_values = FailoverKeyValueStore(store, self._outage, single_use_kinds)
        self._calls_per_organization = calls_per_organization
        self._own_sessions: dict[str, tuple[str, str, str]] = {}  # agent, organization, instance
        self._without_stream: set[str] = set()  # of those, the ones that were admitted without one
        self._loads: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by agent, of its instances
        self._organizations: Counter[str] = Counter()
        self._admitted_alone = 0

    @property
    def key_values(self) -> FailoverKeyValueStore:
        return self._key_values

    @property
    def history(self) -> History:
        return self._store.history

    @property
    def notifications(self) -> Notifications:
        return self._store.notifications

    @property
    def admits(self) -> bool:
        return True

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def create_pending(
        self,
        details: CallDetails,
        options: SessionOptions,
        now: float,
        expires_at: float,
        limit: PendingLimit | None = None,
    ) -> None:
        await self._store.create_pending(details, options, now, expires_at, limit)

    async def admit(
        self,
        details: CallDetails,
        limits: SlotLimits,
        now: float,
        options: SessionOptions = TELEPHONY_OPTIONS,
    ) -> str:
        try:
            instance = await self._outage.call(partial(self._store.admit, details, limits, now, options))
        except NotPending:  # an answer, not an outage
            raise
        except StoreFailed:
            return self._admit_alone(details, limits, now, options)
        self._log_admitted_alone()
        self._outage.reported_full = False
        self._count(details, instance)
        return instance

    def leave_queue(self, session_id: str) -> asyncio.Future[None]:
        return self._store.leave_queue(session_id)

    def mark_running(self, session_id: str, at: float) -> asyncio.Future[None]:
        return self._store.mark_running(session_id, at)

    def end(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        self._discount(session_id)
        return self._store.end(session_id, result)

    def begin_end(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        return self._store.begin_end(session_id, result)  # its slot stays taken

    def release(self, session_id: str, at: float, by: ReleasedBy | None) -> asyncio.Future[None]:
        self._discount(session_id)
        return self._store.release(session_id, at, by)

    def correct_played(self, session_id: str, heard_ms: int) -> asyncio.Future[None]:
        return self._store.correct_played(session_id, heard_ms)

    async def ending(self) -> list[SessionRecord]:
        return await self._store.ending()

    async def attach_stream(self, details: CallDetails, now: float) -> str:
        instance = await self._store.attach_stream(details, now)
        self._count(details, instance)
        return instance

    def end_if_unattached(self, session_id: str, result: SessionResult) -> asyncio.Future[bool]:
        ended = self._store.end_if_unattached(session_id, result)

        def done(future: asyncio.Future[bool]) -> None:
            if not future.cancelled() and future.exception() is None and future.result():
                self._discount(session_id)

        ended.add_done_callback(done)
        return ended

    def forget_attached(self, session_id: str) -> None:
        self._store.forget_attached(session_id)
        if session_id in self._without_stream:
            self._discount(session_id)

    async def move(self, session_id: str, limits: SlotLimits) -> str:
        instance = await self._outage.call(partial(self._store.move, session_id, limits))
        counted = self._own_sessions.get(session_id)
        if counted is not None:
            agent, organization, before = counted
            self._loads[agent][instance] += 1
            self._loads[agent][before] -= 1
            if not self._loads[agent][before]:
                del self._loads[agent][before]
            self._own_sessions[session_id] = agent, organization, instance
        return instance

    def mark_resumed(self, session_id: str, times: int) -> asyncio.Future[None]:
        return self._store.mark_resumed(session_id, times)

    def correct_start_type(self, session_id: str, start_type: str) -> asyncio.Future[None]:
        return self._store.correct_start_type(session_id, start_type)

    async def request_stop(self, session_id: str, at: float) -> bool:
        return await self._store.request_stop(session_id, at)

    async def stop_requests(self) -> list[str]:
        return await self._store.stop_requests()

    async def complete(
        self,
        session_id: str,
        transcript: str | None,
        reported_seconds: float | None,
        results: str | None,
        at: float,
    ) -> bool:
        return await self._store.complete(session_id, transcript, reported_seconds, results, at)

    async def session(self, session_id: str) -> SessionRecord | None:
        # Bounded, because a call that begins waits for it.
        return await self._outage.call(partial(self._store.session, session_id))

    async def sessions(
        self,
        matching: SessionFilter = ALL_SESSIONS,
        *,
        limit: int = 100,
        offset: int = 0,
        with_reports: bool = False,
    ) -> tuple[list[SessionRecord], int]:
        return await self._store.sessions(matching, limit=limit, offset=offset, with_reports=with_reports)

    async def counts(self) -> Counts:
        return await self._store.counts()

    async def heartbeat(self, now: float, passed: Sequence[LiveTraffic] = ()) -> None:
        await self._store.heartbeat(now, passed)

    async def reap(self, now: float) -> list[SessionRecord]:
        return await self._store.reap(now)

    def _admit_alone(
        self, details: CallDetails, limits: SlotLimits, now: float, options: SessionOptions
    ) -> str:
        if options.transport == TELEPHONY_OPTIONS.transport and details.stream_id is None:
            raise StoreFailed("the session store does not answer, and a call out needs it")
        self._outage.check_pending_writes()
        max_calls, calls = self._calls_per_organization, self._organizations[details.organization]
        if max_calls and calls >= max_calls:
            raise AtCapacity(calls, max_calls)
        instance = choose_instance(limits, self._loads.get(details.agent, {}))
        self._count(details, instance)
        self._store.record_admission(details, limits, now, options, instance)
        if not self._admitted_alone:
            log.warning("calls are admitted without the session store")
        self._admitted_alone += 1
        return instance

    def _log_admitted_alone(self) -> None:
        if self._admitted_alone:
            log.warning("calls were admitted without the session store", calls=self._admitted_alone)
            self._admitted_alone = 0

    def _count(self, details: CallDetails, instance: str) -> None:
        self._discount(details.session_id)
        self._own_sessions[details.session_id] = details.agent, details.organization, instance
        if details.stream_id is None:
            self._without_stream.add(details.session_id)
        self._loads[details.agent][instance] += 1
        self._organizations[details.organization] += 1

    def _discount(self, session_id: str) -> None:
        counted = self._own_sessions.pop(session_id, None)
        self._without_stream.discard(session_id)
        if counted is None:
            return
        agent, organization, instance = counted
        loads = self._loads[agent]
        for counter, name in ((loads, instance), (self._organizations, organization)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        if not loads:
            del self._loads[agent]


class FailoverKeyValueStore:
    """A `KeyValueStore` that accepts values of the single-use kinds while the wrapped store fails."""

    def __init__(self, store: DurableStore, outage: _Outage, single_use_kinds: frozenset[str]) -> None:
        self._values = store.key_values
        self._outage = outage
        self._single_use_kinds = single_use_kinds
        self._unwritten: dict[tuple[str, str], StoredValue] = {}  # by kind and key

    async def put(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> None:
        await self._values.put(kind, key, value, now=now, expires_at=expires_at)

    async def put_if_absent(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> bool:
        put = partial(self._values.put_if_absent, kind, key, value, now=now, expires_at=expires_at)
        if kind not in self._single_use_kinds:
            return await put()
        if (kind, key) in self._unwritten:
            return False
        try:
            return await self._outage.call(put)
        except StoreFailed:
            pass
        self._outage.check_pending_writes()
        self._unwritten[kind, key] = StoredValue(kind, key, value, now, expires_at)
        written = self._values.put_if_absent_later(kind, key, value, now=now, expires_at=expires_at)
        written.add_done_callback(lambda _: self._unwritten.pop((kind, key), None))
        return True

    async def replace(
        self,
        kind: str,
        key: str,
        before: str,
        value: str,
        *,
        now: float,
        expires_at: float | None = None,
    ) -> bool:
        return await self._values.replace(kind, key, before, value, now=now, expires_at=expires_at)

    async def get(self, kind: str, key: str, now: float) -> StoredValue | None:
        get = partial(self._values.get, kind, key, now)
        if kind not in self._single_use_kinds:
            return await get()
        try:
            value = await self._outage.call(get)
        except StoreFailed:
            value = None
        return value or self._unwritten.get((kind, key))

    async def delete(self, kind: str, key: str) -> bool:
        return await self._values.delete(kind, key)

    async def list(self, kind: str, now: float, prefix: str = "") -> tuple[StoredValue, ...]:
        read = partial(self._values.list, kind, now, prefix)
        if kind not in self._single_use_kinds:
            return await read()
        try:
            written = await self._outage.call(read)
        except StoreFailed:
            written = ()
        by_key = {
            key: value
            for (unwritten_kind, key), value in self._unwritten.items()
            if unwritten_kind == kind and key.startswith(prefix)
        }
        by_key |= {value.key: value for value in written}
        return tuple(by_key[key] for key in sorted(by_key))


class _Outage:
    """Decides whether the wrapped store is out of order, and how much may be handed to it meanwhile."""

    def __init__(self, store: DurableStore) -> None:
        self._store = store
        self.reported_full = False  # log it once per outage

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return the result of an operation. Raises StoreFailed if it takes longer than PATIENCE_S."""
        if self._store.failing:
            raise StoreFailed("the session store does not answer")
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await operation()
        except TimeoutError:
            raise StoreFailed("the session store does not answer in time") from None

    def check_pending_writes(self) -> None:
        """Raise StoreFailed if so many writes wait for the wrapped store that it shall get no more."""
        pending = self._store.pending_writes
        if pending >= MAX_PENDING_WRITES:
            if not self.reported_full:
                self.reported_full = True
                log.error("session_store_owes_too_much", owed=pending)
            raise StoreFailed("the session store does not answer, and no more is kept for it")
