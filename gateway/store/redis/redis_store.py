# SPDX-License-Identifier: BSD-2-Clause
"""The store on a Redis server, shared by the workers of many machines.

Redis 7.0 and Valkey have all that it needs. It counts slots by sessions and not by calls of its own, so it
heals: a session belongs to a worker, and ends when the worker is silent. If the server loses what was written
(a failover, a restart without its file), each worker writes its own sessions again with its next heartbeat.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import Reasons
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
from gateway.store.admission import AtCapacity, Queued
from gateway.store.interface import (
    ALL_SESSIONS,
    Counts,
    NotPending,
    SessionFilter,
    StoreFailed,
)
from gateway.store.notifications import Notifications, Topic
from gateway.store.redis import redis_end_scripts as end_scripts
from gateway.store.redis import redis_keys as keys
from gateway.store.redis import redis_lists
from gateway.store.redis import redis_scripts as scripts
from gateway.store.redis.redis_address import RedisAddress
from gateway.store.redis.redis_admission import Admission
from gateway.store.redis.redis_client import Arguments, RedisClient, budget_end, within_budget
from gateway.store.redis.redis_heartbeat import Heartbeat
from gateway.store.redis.redis_history import RedisHistory
from gateway.store.redis.redis_own_sessions import OwnSession, OwnSessions, worker_arguments
from gateway.store.redis.redis_pubsub import RedisPubSub
from gateway.store.redis.redis_reaper import RedisReaper
from gateway.store.redis.redis_records import (
    details_pairs,
    end_arguments,
    option_pairs,
    pairs,
    reason_pairs,
    result_pairs,
    rule_of,
    terminal_states,
)
from gateway.store.redis.redis_scopes import SessionScopes
from gateway.store.redis.redis_session_writes import SessionWrites, log_unchanged
from gateway.store.redis.redis_values import RedisKeyValueStore, clean, script
from gateway.store.worker_id import WorkerId

log = structlog.get_logger(__name__)

CLOSE_S: Final = 5.0
"""How long a close tries to write what is owed."""

_CREATE_PENDING: Final = script(scripts.CREATE_PENDING)
_ADMIT_NEW: Final = script(scripts.ADMIT_NEW)
_ADMIT: Final = script(scripts.ADMIT)
_WITHDRAW: Final = script(scripts.WITHDRAW)
_LEAVE_QUEUE: Final = script(scripts.LEAVE_QUEUE)
_ATTACH: Final = script(scripts.ATTACH)
_DETACH: Final = script(scripts.DETACH)
_MOVE: Final = script(scripts.MOVE)
_MARK_RUNNING: Final = script(end_scripts.MARK_RUNNING)
_MARK_RESUMED: Final = script(end_scripts.MARK_RESUMED)
_CORRECT_START_TYPE: Final = script(end_scripts.CORRECT_START_TYPE)
_END: Final = script(end_scripts.END)
_BEGIN_END: Final = script(end_scripts.BEGIN_END)
_CORRECT_PLAYED: Final = script(end_scripts.CORRECT_PLAYED)
_RELEASE: Final = script(end_scripts.RELEASE)
_COMPLETE: Final = script(end_scripts.COMPLETE)
_REQUEST_STOP: Final = script(end_scripts.REQUEST_STOP)

_END_TOPICS: Final = (Topic.SESSION_ENDED, Topic.SESSION_CHANGED, Topic.SLOT_FREED)


class RedisStore:
    """A `DurableStore` (gateway/store/interface.py documents the methods) on Redis, as one worker has it."""

    def __init__(
        self,
        address: RedisAddress,
        worker: WorkerId,
        *,
        calls_per_organization: int = 0,
        max_history: int = 0,
        close_s: float = CLOSE_S,
        server_clock: bool = True,
    ) -> None:
        """`calls_per_organization`: active sessions of an organization; 0 sets no limit.

        `max_history`: sessions that are over, and management calls of an organization, of which no more are
        kept; 0 keeps all.

        `server_clock`: whether silence is judged by the server's clock, which all machines share, and not by
        the times that `heartbeat` and `reap` are given.
        """
        self._calls_per_organization = calls_per_organization
        self._worker = worker
        self._client = RedisClient(address, close_s)
        self._key_values = RedisKeyValueStore(self._client)
        self._history = RedisHistory(self._client, max_history)
        self._pubsub = RedisPubSub(self._client, worker.id)
        self._scopes = SessionScopes(self._client, worker.id)
        self._writes = SessionWrites(self._client, self._scopes, self.notifications)
        self._own = OwnSessions(self._client, worker, self._scopes)
        self._heartbeat = Heartbeat(self._client, worker, self._own, server_clock=server_clock)
        self._reaper = RedisReaper(self._client, worker, self._scopes, server_clock=server_clock)

    @property
    def key_values(self) -> RedisKeyValueStore:
        return self._key_values

    @property
    def history(self) -> RedisHistory:
        return self._history

    @property
    def notifications(self) -> Notifications:
        return self._pubsub.notifications

    @property
    def admits(self) -> bool:
        return self._heartbeat.admits

    @property
    def failing(self) -> bool:
        return self._client.failing

    @property
    def pending_writes(self) -> int:
        return self._client.pending_writes

    async def open(self) -> None:
        await self._client.open()

    async def close(self) -> None:
        self._pubsub.pause()
        self._client.write_later(self._reaper.leave, is_durable=False)
        await self._client.close()

    async def create_pending(
        self,
        details: CallDetails,
        options: SessionOptions,
        now: float,
        expires_at: float,
        limit: PendingLimit | None = None,
    ) -> None:
        columns = [*details_pairs(details), *option_pairs(options)]
        key_id = limit.key_id if limit is not None else ""
        if limit is not None:
            columns += pairs({"key_id": key_id})
        answer = await self._client.script(
            _CREATE_PENDING,
            self._scopes.keys(details.session_id, (details.agent, details.organization, key_id)),
            (
                _id(details),
                repr(float(now)),
                repr(float(expires_at)),
                uuid.uuid4().hex,
                limit.max_sessions if limit is not None else 0,
                *columns,
            ),
            settle=True,
        )
        if answer[0] == "full":
            raise AtCapacity(answer[1], answer[2])
        if answer[0] == "exists":
            raise StoreFailed("there is a session of this id")

    async def admit(
        self,
        details: CallDetails,
        limits: SlotLimits,
        now: float,
        options: SessionOptions = TELEPHONY_OPTIONS,
    ) -> str:
        attempt = uuid.uuid4().hex
        most = self._calls_per_organization
        admission = Admission(details, limits, options, now, attempt, self._worker, most)
        is_new = not self._scopes.is_known(details.session_id)
        names = self._scopes.keys(details.session_id, (details.agent, details.organization, ""))
        until = budget_end()
        try:
            answer: Any = ("other",)
            if is_new:
                of_new = keys.admission_keys(names)
                answer = await self._client.script(
                    _ADMIT_NEW, of_new, admission.of_new_call(), settle=True, until=until
                )
            if answer[0] == "other":
                of_any = admission.of_any_call()
                answer = await self._client.script(_ADMIT, names, of_any, settle=True, until=until)
            if answer[0] == "of key":  # a pending session, made by a worker that had an API key for it
                scope = details.agent, details.organization, answer[1]
                names = self._scopes.keys(details.session_id, scope)
                answer = await self._client.script(_ADMIT, names, of_any, until=until)
        except (StoreFailed, asyncio.CancelledError):
            # It may have been admitted; then nothing else would free its slot.
            self._own.end(details.session_id, _WITHDRAW, attempt)
            withdrawal = self._writes.script_later(_WITHDRAW, names, (_id(details), attempt))
            self._writes.notify_after(withdrawal, details.session_id, Topic.SLOT_FREED)
            raise
        match answer[0]:
            case "full":
                raise AtCapacity(answer[1], answer[2])
            case "queued":
                raise Queued(answer[1], answer[2], answer[3])
            case "not pending":
                raise NotPending("there is a session of this id, and it is not pending for this agent")
        instance = str(answer[1])
        self._own.add(OwnSession(details, options, instance, now, attempt))
        self.notifications.publish(Topic.SESSION_CHANGED, details.session_id)
        return instance

    def record_admission(
        self, details: CallDetails, limits: SlotLimits, now: float, options: SessionOptions, instance: str
    ) -> asyncio.Future[None]:
        own = OwnSession(details, options, instance, now, uuid.uuid4().hex)
        self._own.add(own)

        async def write() -> None:
            answer = await self._own.write(own)
            if answer[0] != "ok":
                log_unchanged("session_late_ignored", details.session_id, answer[1])

        return self._writes.notify_after(
            self._client.write_later(write), details.session_id, Topic.SESSION_CHANGED
        )

    def leave_queue(self, session_id: str) -> asyncio.Future[None]:
        left = self._writes.session_later(_LEAVE_QUEUE, session_id)
        return self._writes.notify_after(left, session_id, Topic.SLOT_FREED)

    async def attach_stream(self, details: CallDetails, now: float) -> str:
        attempt = uuid.uuid4().hex
        names = self._scopes.keys(details.session_id, (details.agent, details.organization, ""))
        arguments: Arguments = (
            _id(details),
            attempt,
            *details_pairs(details)[1:4:2],
            clean(details.carrier) or "",
            *worker_arguments(self._worker),
            repr(float(now)),
            *(
                clean(each) or ""
                for each in (
                    details.region,
                    details.stream_id,
                    details.call_id,
                    details.from_number,
                    details.to_number,
                )
            ),
        )
        try:
            answer = await self._client.script(_ATTACH, names, arguments, settle=True)
        except (StoreFailed, asyncio.CancelledError):
            self._writes.script_later(_DETACH, names, (_id(details), attempt))  # as in `admit`
            raise
        if answer[0] != "ok":
            raise NotPending("no session of this id waits for a stream")
        instance = str(answer[1])
        self._own.add(OwnSession(details, TELEPHONY_OPTIONS, instance, now, attempt))
        self.notifications.publish(Topic.SESSION_CHANGED, details.session_id)
        return instance

    def forget_attached(self, session_id: str) -> None:
        own = self._own.get(session_id)
        if own is not None and own.details.stream_id is None:
            self._own.remove(session_id)

    @within_budget
    async def move(self, session_id: str, limits: SlotLimits) -> str:
        await self._client.settled()
        names = await self._scopes.keys_of(session_id)
        arguments = (clean(session_id) or "", uuid.uuid4().hex, self._worker.id, *rule_of(limits))
        answer = await self._client.script(_MOVE, names, arguments)
        if answer[0] == "full":
            raise AtCapacity(answer[1], answer[2])
        if answer[0] != "ok":
            raise NotPending("the session is over, is to stop, or is another worker's")
        if own := self._own.get(session_id):
            own.instance = answer[1]
        self.notifications.publish(Topic.SLOT_FREED, session_id)
        return str(answer[1])

    def mark_resumed(self, session_id: str, times: int) -> asyncio.Future[None]:
        if own := self._own.get(session_id):
            own.resumed = times
        return self._writes.session_later(_MARK_RESUMED, session_id, times)

    def correct_start_type(self, session_id: str, start_type: str) -> asyncio.Future[None]:
        if own := self._own.get(session_id):
            own.options = replace(own.options, start_type=start_type)
        return self._writes.session_later(_CORRECT_START_TYPE, session_id, start_type)

    def mark_running(self, session_id: str, at: float) -> asyncio.Future[None]:
        if own := self._own.get(session_id):
            own.started_at = at
        marked = self._writes.session_later(
            _MARK_RUNNING,
            session_id,
            repr(float(at)),
            ignored=lambda state: log_unchanged("session_start_ignored", session_id, state),
        )
        return self._writes.notify_after(marked, session_id, Topic.SESSION_CHANGED)

    def end(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        arguments = end_arguments(result, "")
        self._own.end(session_id, _END, *arguments)
        ended = self._writes.session_later(
            _END,
            session_id,
            *arguments,
            ignored=lambda state: log_unchanged("session_end_ignored", session_id, state),
        )
        return self._writes.notify_after(ended, session_id, *_END_TOPICS)

    def begin_end(self, session_id: str, result: SessionResult) -> asyncio.Future[None]:
        arguments = (
            uuid.uuid4().hex,
            *terminal_states(result),
            repr(float(result.ended_at)),
            *result_pairs(result),
        )
        self._own.end(session_id, _BEGIN_END, *arguments)
        written = self._writes.session_later(
            _BEGIN_END,
            session_id,
            *arguments,
            ignored=lambda state: log_unchanged("session_end_ignored", session_id, state),
        )
        return self._writes.notify_after(written, session_id, Topic.SESSION_ENDED, Topic.SESSION_CHANGED)

    def release(self, session_id: str, at: float, by: ReleasedBy | None) -> asyncio.Future[None]:
        arguments = repr(float(at)), by.value if by is not None else ""
        self._own.end(session_id, _RELEASE, *arguments)
        released = self._writes.session_later(_RELEASE, session_id, *arguments)
        return self._writes.notify_after(released, session_id, *_END_TOPICS)

    def correct_played(self, session_id: str, heard_ms: int) -> asyncio.Future[None]:
        return self._writes.session_later(_CORRECT_PLAYED, session_id, heard_ms)

    @within_budget
    async def ending(self) -> list[SessionRecord]:
        await self._client.settled()
        owned = await self._client.run("smembers", keys.owned(self._worker.id))
        return [
            each
            for each in await redis_lists.read_all(self._client, owned)
            if each.state is SessionState.ENDING and each.owner == self._worker.id
        ]

    def end_if_unattached(self, session_id: str, result: SessionResult) -> asyncio.Future[bool]:
        arguments = end_arguments(result, "unattached")

        async def write() -> bool:
            names = await self._scopes.keys_of(session_id, is_late=True)
            answer = await self._client.script_late(_END, names, (clean(session_id) or "", *arguments))
            own = self._own.get(session_id)
            if answer[0] == "ok":
                self._own.end(session_id, _END, *arguments)
            elif own is not None and own.details.stream_id is None:
                self._own.remove(session_id)  # its stream came to another worker, or it is over
            return bool(answer[0] == "ok")

        return self._writes.notify_after(self._client.write_later(write), session_id, *_END_TOPICS)

    @within_budget
    async def request_stop(self, session_id: str, at: float) -> bool:
        await self._client.settled()
        names = await self._scopes.keys_of(session_id)
        arguments = (clean(session_id) or "", repr(float(at)), *reason_pairs(Reasons.stopped, ""))
        answer = await self._client.script(_REQUEST_STOP, names, arguments)
        if answer[0] != "ok":
            return False
        # A pending session has ended with that.
        self._writes.notify(session_id, Topic.STOP_REQUESTED, Topic.SESSION_CHANGED, Topic.SESSION_ENDED)
        return True

    @within_budget
    async def stop_requests(self) -> list[str]:
        await self._client.settled()
        requested = await self._client.run("zrange", keys.STOPS, 0, -1)
        owners = await self._client.run_all([("HGET", keys.session(each), "owner") for each in requested])
        return [each for each, owner in zip(requested, owners, strict=True) if owner == self._worker.id]

    @within_budget
    async def complete(
        self,
        session_id: str,
        transcript: str | None,
        reported_seconds: float | None,
        results: str | None,
        at: float,
    ) -> bool:
        await self._client.settled()
        report = pairs(
            {
                "transcript": transcript,
                "reported_seconds": reported_seconds,
                "results": results,
                "completed_at": float(at),
            }
        )
        names = await self._scopes.keys_of(session_id)
        answer = await self._client.script(
            _COMPLETE, names, (clean(session_id) or "", uuid.uuid4().hex, *report)
        )
        return bool(answer[0] == "ok")

    @within_budget
    async def session(self, session_id: str) -> SessionRecord | None:
        await self._client.settled()
        record = await redis_lists.read(self._client, session_id)
        if record is not None and record.state in TERMINAL and record.reason != Reasons.gateway_lost.code:
            self._own.remove(session_id)  # whoever ended it: it is not to be written again
        return record

    async def sessions(
        self,
        matching: SessionFilter = ALL_SESSIONS,
        *,
        limit: int = 100,
        offset: int = 0,
        with_reports: bool = False,
    ) -> tuple[list[SessionRecord], int]:
        if limit < 0 or offset < 0:
            raise ValueError("limit and offset must not be negative")
        await self._client.settled()
        return await redis_lists.sessions(self._client, matching, limit, offset, with_reports)

    @within_budget
    async def counts(self) -> Counts:
        await self._client.settled()
        return await redis_lists.counts(self._client)

    async def heartbeat(self, now: float, passed: Sequence[LiveTraffic] = ()) -> None:
        await self._heartbeat.beat(now)
        await self._client.settled()
        await self._heartbeat.write_passed(passed)

    async def reap(self, now: float) -> list[SessionRecord]:
        await self._client.settled()
        await self._reaper.remove_expired(now)
        await self._key_values.purge(now)
        lost = await redis_lists.read_all(self._client, await self._reaper.bury_dead(now))
        for each in lost:
            log.warning("session_lost", session=each.session_id, worker=each.owner, detail=each.detail)
            self._writes.notify(each.session_id, *_END_TOPICS)
        return lost


def _id(details: CallDetails) -> str:
    return clean(details.session_id) or ""
