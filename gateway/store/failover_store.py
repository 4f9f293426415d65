# SPDX-License-Identifier: BSD-2-Clause
"""The store of an operator who would rather have a call too many than none: `on_failure = "admit"`.

While the file does not answer, this worker counts its own sessions, and admits as if nobody else did. What
it has decided is owed to the file, in order, once; so are the tokens that were used meanwhile, which each
worker then knows only for itself. A call out is not begun so: its stream may come to another worker.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from gateway.auth.media_tokens import NONCES
from gateway.calls.stream_history import CALL_NONCES, CALL_SOCKETS
from gateway.model.session import (
    TELEPHONY_OPTIONS,
    CallDetails,
    SessionOptions,
    SessionRecord,
    SessionResult,
    SlotLimits,
)
from gateway.store.admission import AtCapacity, choose_instance
from gateway.store.interface import NotPromised, StoredValue, StoreFailed
from gateway.store.sqlite.key_values import SqliteKeyValueStore
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.sqlite.writer import Writer
from gateway.store.worker_id import WorkerId

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 0.5
"""How long a call waits for the file before it is admitted without."""

MOST_OWED: Final = 20_000
"""Writes that may wait for the file, about a kilobyte each; from there on calls are refused after all."""

T = TypeVar("T")

_ONCE: Final = frozenset({NONCES, CALL_NONCES, CALL_SOCKETS})
"""Kinds of documents without which a caller with a token is not let in."""


class FailoverStore(SqliteStore):
    """A `SqliteStore` that admits while it fails."""

    def __init__(self, path: Path, owner: WorkerId, **limits: Any) -> None:
        super().__init__(path, owner, **limits)
        self._documents = FailoverKeyValueStore(self._writer)
        self._mine: dict[str, tuple[str, str, str]] = {}  # agent, organization, instance
        self._loads: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by agent, of its instances
        self._organizations: Counter[str] = Counter()
        self._admitted_alone = 0

    async def admit(
        self,
        details: CallDetails,
        places: SlotLimits,
        now: float,
        options: SessionOptions = TELEPHONY_OPTIONS,
    ) -> str:
        admit = partial(super().admit, details, places, now, options)
        try:
            instance = await _in_time(self._writer, admit)
        except NotPromised:
            raise
        except StoreFailed:
            return self._admit_alone(details, places, now, options)
        self._say_how_many()
        self._hold(details, instance)
        return instance

    async def adopt(self, details: CallDetails, now: float) -> str:
        instance = await super().adopt(details, now)
        self._hold(details, instance)
        return instance

    async def move(self, session_id: str, places: SlotLimits) -> str:
        instance = await _in_time(self._writer, partial(super().move, session_id, places))
        held = self._mine.get(session_id)
        if held is not None:
            agent, organization, before = held
            self._loads[agent][instance] += 1
            self._loads[agent][before] -= 1
            if not self._loads[agent][before]:
                del self._loads[agent][before]
            self._mine[session_id] = agent, organization, instance
        return instance

    def abandon(self, session_id: str, result: SessionResult) -> asyncio.Future[bool]:
        abandoned = super().abandon(session_id, result)

        def done(future: asyncio.Future[bool]) -> None:
            if not future.cancelled() and future.exception() is None and future.result():
                self._free(session_id)

        abandoned.add_done_callback(done)
        return abandoned

    def ended(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        self._free(session_id)
        return super().ended(session_id, result)

    async def session(self, session_id: str) -> SessionRecord | None:
        """The record; bounded, since calls ask for it as they begin."""
        return await _in_time(self._writer, partial(super().session, session_id))

    def _admit_alone(
        self, details: CallDetails, places: SlotLimits, now: float, options: SessionOptions
    ) -> str:
        if options.transport == TELEPHONY_OPTIONS.transport and details.stream_id is None:
            raise StoreFailed("the session store does not answer, and a call out needs it")
        check_room(self._writer)
        most = self._calls_per_organization
        if most and self._organizations[details.organization] >= most:
            raise AtCapacity(self._organizations[details.organization], most)
        instance = choose_instance(places, self._loads.get(details.agent, {}))
        self._hold(details, instance)
        self.admitted(details, places, now, options, instance)
        if not self._admitted_alone:
            log.warning("calls are admitted without the session store")
        self._admitted_alone += 1
        return instance

    def _say_how_many(self) -> None:
        if self._admitted_alone:
            log.warning("calls were admitted without the session store", calls=self._admitted_alone)
            self._admitted_alone = 0

    def _hold(self, details: CallDetails, instance: str) -> None:
        self._free(details.session_id)
        self._mine[details.session_id] = details.agent, details.organization, instance
        self._loads[details.agent][instance] += 1
        self._organizations[details.organization] += 1

    def _free(self, session_id: str) -> None:
        held = self._mine.pop(session_id, None)
        if held is None:
            return
        agent, organization, instance = held
        loads = self._loads[agent]
        for counted, name in ((loads, instance), (self._organizations, organization)):
            counted[name] -= 1
            if not counted[name]:
                del counted[name]
        if not loads:
            del self._loads[agent]


class FailoverKeyValueStore(SqliteKeyValueStore):
    """Documents, of which those that let a caller in are kept here while the file fails."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer)
        self._kept: dict[tuple[str, str], StoredValue] = {}  # until they are written

    async def put_if_absent(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> bool:
        if kind not in _ONCE:
            return await super().put_if_absent(kind, key, value, now=now, expires_at=expires_at)
        if (kind, key) in self._kept:
            return False
        put = partial(super().put_if_absent, kind, key, value, now=now, expires_at=expires_at)
        try:
            return await _in_time(self._writer, put)
        except StoreFailed:
            pass
        check_room(self._writer)
        self._kept[kind, key] = StoredValue(kind, key, value, now, expires_at)
        owed = self.owe_if_absent(kind, key, value, now=now, expires_at=expires_at)
        owed.add_done_callback(partial(self._written, (kind, key)))
        return True

    async def get(self, kind: str, key: str, now: float) -> StoredValue | None:
        if kind not in _ONCE:
            return await super().get(kind, key, now)
        try:
            found = await _in_time(self._writer, partial(super().get, kind, key, now))
        except StoreFailed:
            found = None
        return found or self._kept.get((kind, key))

    async def list(self, kind: str, now: float, prefix: str = "") -> tuple[StoredValue, ...]:
        if kind not in _ONCE:
            return await super().list(kind, now, prefix)
        try:
            found = await _in_time(self._writer, partial(super().list, kind, now, prefix))
        except StoreFailed:
            found = ()
        by_key = {
            key: kept
            for (kept_kind, key), kept in self._kept.items()
            if kept_kind == kind and key.startswith(prefix)
        }
        by_key |= {each.key: each for each in found}
        return tuple(by_key[key] for key in sorted(by_key))

    def _written(self, which: tuple[str, str], _: asyncio.Future[bool]) -> None:
        self._kept.pop(which, None)


def check_room(writer: Writer) -> None:
    """Raises StoreFailed where so much is owed that no more may be."""
    if writer.owed >= MOST_OWED:
        if not writer.said_full:
            writer.said_full = True
            log.error("session_store_owes_too_much", owed=writer.owed)
        raise StoreFailed("the session store does not answer, and no more is kept for it")


async def _in_time(writer: Writer, asked: Callable[[], Awaitable[T]]) -> T:
    """What the file answers. Raises StoreFailed where it fails, or does not within PATIENCE_S."""
    if writer.failing:
        raise StoreFailed("the session store does not answer")
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await asked()
    except TimeoutError:
        raise StoreFailed("the session store does not answer in time") from None
