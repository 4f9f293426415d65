# SPDX-License-Identifier: BSD-2-Clause
"""A session that runs as one open `POST /bot` request (docs/reference/agent-container.md).

    take a slot → wait for a cold instance → send the request → hold it open → end, with one reason

The request is the session: the session ends when its response ends. A task of the session's own holds it, so
that the client that started the session may disconnect.

To stop the session is to end the request's sending direction: to the agent that is a client that has left,
which its server tells the handler. What the handler does then is its own affair (docs/api.md, "A session that
is stopped"), so the session is `ending` until the request is answered, or the instance is seen to be free in
another way (slot_release.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import aiohttp
import structlog

from gateway.agents.instance_health import STARTING_PROBE_INTERVAL_S, Health, InstanceHealth
from gateway.calls.bot_client import opened_sockets
from gateway.calls.capacity import Capacity
from gateway.calls.session_end import HTTP_COMPLETED, HTTP_ERROR, SessionEnd, log_end, save
from gateway.calls.slot_release import HeldSlot
from gateway.calls.termination import Termination
from gateway.config import AgentSettings
from gateway.model.connection_errors import cause_without_address
from gateway.model.futures import ignore_exception
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, ReleasedBy, SessionOptions
from gateway.store.interface import Store

log = structlog.get_logger(__name__)

REJECT_S: Final = 0.05
"""Seconds that an instance has to refuse a request that it was sent completely, as one without `/bot` does at
once: then the start fails, instead of a session that ends as soon as it was reported as started.
"""

START_WRITE_S: Final = 1.0
"""Seconds that a start waits until its session is stored as running. After that the store keeps trying."""


@dataclass(frozen=True, slots=True)
class BotServices:
    """The services that every bot session of a worker uses.

    `http`: of `bot_http_client`. `now`: Unix seconds. `connect_timeout_s`: seconds from admission until the
    instance must have accepted the request.
    """

    store: Store
    health: InstanceHealth
    capacity: Capacity
    http: aiohttp.ClientSession
    now: Callable[[], float]
    connect_timeout_s: float


@dataclass(frozen=True, slots=True)
class BotRequest:
    """One `POST /bot`.

    `headers`: the `x-daily-…` ones; the session's id and the HTTP headers are added. `body`: JSON.
    `max_duration_s`: seconds that the session may last once the agent has accepted the request.
    `stop_timeout_s`: seconds after its end from which the instance counts as free, whatever it does.
    """

    headers: Mapping[str, str]
    body: bytes
    max_duration_s: float
    stop_timeout_s: float


@dataclass(frozen=True, slots=True)
class OtherInstances:
    """The way to another instance, for a session whose agent's instances the gateway starts; any other waits.

    `move`: moves the session off an instance that it did not reach, and returns another that is ready; raises
    CallEnded. `has_ended`: returns True if the instance has ended, so that nothing runs there.
    """

    move: Callable[[str], Awaitable[str]]
    has_ended: Callable[[str], Awaitable[bool]]


class NotReady(CallEnded):
    """The agent has free slots, but its instances report that they are not ready for a session."""

    def __init__(self) -> None:
        super().__init__(Reasons.agent_start_timeout, "none of the agent's instances is ready")


@dataclass(frozen=True, slots=True)
class StartedBot:
    """A session whose request the agent has accepted. `instance`: the URL of the instance that runs it."""

    session_id: str
    instance: str


class BotSession:
    """One session: its request, and the task that holds it open."""

    def __init__(
        self,
        services: BotServices,
        details: CallDetails,
        instance: str,
        request: BotRequest,
        others: OtherInstances | None = None,
    ) -> None:
        """Start the session, whose slot on `instance` was taken. Must be called inside the event loop."""
        self._services = services
        self._session_id = details.session_id
        self.instance = instance
        """The URL of the instance that runs it."""
        self._others = others
        self._refused: CallEnded | None = None  # the last time that the instance was not reached
        self._request = request
        self._log = log.bind(
            session=details.session_id,
            agent=details.agent,
            organization=details.organization,
            instance=instance,
        )
        self._limit: asyncio.Timeout
        self._duration: asyncio.TimerHandle | None = None  # of the longest duration, once it runs
        self._sockets: list[socket.socket] = []  # of the request
        self._requested_at: float | None = None  # Unix seconds at which the request was begun to be sent
        self._ending_at: float | None = None  # Unix seconds at which the session was asked to end
        self._is_leaving = False  # the worker stops, and waits for no agent
        self._is_over = False
        self._began_at = services.now()
        self.termination = Termination()
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the instance has accepted the request. If the session ends before, the CallEnded is set
        as its exception.
        """
        self.accepted.add_done_callback(ignore_exception)
        self.running_saved: asyncio.Future[None] | None = None
        """Done when the store has recorded that the session runs; None until it does run."""
        self.task = asyncio.create_task(self._run())

    def leave(self, end: CallEnded) -> None:
        """End the session as `termination` does, and do not wait for the agent: this worker stops."""
        self._is_leaving = True
        if self._ending_at is None:
            self.termination.set(end)
        elif not self._is_over:
            self._wait_until(asyncio.get_running_loop().time())

    async def _run(self) -> None:
        """Run the session and record its end. Raises nothing."""
        try:
            await self._hold_request()
            end = CallEnded(Reasons.agent_ended, "/bot answered 200")
        except CallEnded as reason:
            end = reason
        except Exception:  # noqa: BLE001 - the edge of the session's task: it ends this session and no other
            self._log.exception("internal error")
            end = CallEnded(Reasons.internal_error)
        await self._finish(end)

    async def _hold_request(self) -> None:
        """Send the request and wait until its response has ended. Raises CallEnded unless that is a 200."""
        try:
            # It changes with the phase: until the agent has accepted, none, from a stop until the answer.
            async with asyncio.timeout(self._services.connect_timeout_s) as self._limit:
                self.termination.hand_over(self._stop)
                await self._services.health.wait_until_started(self.instance)
                await self._post_until_taken()
        except TimeoutError:
            if not self._limit.expired():  # the socket's own
                raise CallEnded(Reasons.agent_lost, _broken_off("the connection timed out")) from None
            raise self._timed_out() from None
        except aiohttp.ClientResponseError as error:
            raise AnsweredBadly(Reasons.agent_lost, _broken_off(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise CallEnded(Reasons.agent_lost, _broken_off(error)) from None
        finally:
            self.termination.release()
            if self._duration is not None:
                self._duration.cancel()

    async def _post_until_taken(self) -> None:
        """Send the request, again where it reached nobody, until its response has ended."""
        while True:
            try:
                await self._post()
            except aiohttp.ClientConnectorError as error:
                if self._others is None:
                    self._refused = self._unreachable(error)
            except (aiohttp.ClientError, OSError):
                if not await self._was_in_vain():
                    raise
            else:
                return
            if self._others is None:
                await self._services.health.wait_until_answering(self.instance)
            else:  # it was started by the gateway, and has ended by itself a moment ago
                await self._go_to_another(self._others)

    async def _was_in_vain(self) -> bool:
        """Return True if a request that broke off came to an instance that ended then, by itself."""
        if self._others is None or self.accepted.done():
            return False
        return await self._others.has_ended(self.instance)

    async def _go_to_another(self, others: OtherInstances) -> None:
        """Move to another instance, which may have to be started: that wait has a limit of its own."""
        self._limit.reschedule(None)
        self._requested_at = None
        self.instance = await others.move(self.instance)
        self._log = self._log.bind(instance=self.instance)
        self._limit.reschedule(asyncio.get_running_loop().time() + self._services.connect_timeout_s)

    def _unreachable(self, error: aiohttp.ClientConnectorError) -> CallEnded:
        """Note that the instance was not reached; a cold one may be soon. Raises CallEnded if it cannot."""
        detail = f"connecting to the agent failed: {_cause(error)}"
        if is_out_of_resources(error.os_error):
            raise CallEnded(Reasons.overloaded, detail) from None
        self._services.health.mark_unreachable(self.instance)
        end = CallEnded(Reasons.agent_unreachable, detail)
        # An instance that is not the agent's any more is not probed, so nothing tells when it answers.
        if isinstance(error, aiohttp.ClientSSLError) or not self._services.health.is_watched(self.instance):
            raise end from None
        return end

    def _timed_out(self) -> CallEnded:
        """Return the end of the session whose time is over, in whichever phase it is."""
        if self.termination.end is not None:
            return self.termination.end
        services = self._services
        if self._requested_at is None:
            if services.health.of(self.instance) is Health.STARTING:
                return NotReady()
            if self._refused is not None:
                return self._refused
        detail = f"it did not take the request within {services.connect_timeout_s:g} s"
        return CallEnded(Reasons.agent_start_timeout, detail)

    async def _post(self) -> None:
        opened_sockets.set(self._sockets)
        headers = {
            **self._request.headers,
            "x-daily-session-id": self._session_id,
            "Content-Type": "application/json",
            "Content-Length": str(len(self._request.body)),
            "Accept-Encoding": "identity",
        }
        async with self._services.http.post(
            f"{self.instance}/bot", data=self._body_once(), headers=headers, allow_redirects=False
        ) as answer:
            if answer.status != 200:
                raise AnsweredBadly(Reasons.agent_failed, f"/bot answered {answer.status}")
            self._accept()  # also if it has not read the whole body: an agent need not
            async for _ in answer.content.iter_any():
                pass

    async def _body_once(self) -> AsyncIterator[bytes]:
        """Yield the body once. aiohttp resumes this generator when the body is written.

        From then on the instance counts as having accepted the request, unless it refuses within REJECT_S.
        """
        self._requested_at = self._services.now()
        body = self._request.body
        if self._others is None:
            self._forget_body()
        yield body
        del body
        asyncio.get_running_loop().call_later(REJECT_S, self._accept)

    def _forget_body(self) -> None:
        self._request = replace(self._request, body=b"")  # a session lasts hours, and needs it no more

    def _accept(self) -> None:
        if self.accepted.done() or self._is_over or self._limit.expired() or self.termination.end is not None:
            return
        self._forget_body()
        self._limit.reschedule(None)
        self._services.health.mark_connected(self.instance)
        longest_s = self._request.max_duration_s
        self._duration = asyncio.get_running_loop().call_later(
            longest_s,
            self.termination.set,
            CallEnded(Reasons.max_duration, f"it ran for {longest_s:g} s"),
        )
        self.running_saved = self._services.store.mark_running(self._session_id, self._services.now())
        self.accepted.set_result(None)

    # The end

    def _stop(self, end: CallEnded) -> None:
        """Tell the agent to stop, and wait for its answer; give a request up that it has not accepted."""
        wait_s = 0.0
        if self.accepted.done() and self._request.stop_timeout_s > 0:
            self._ending_at = self._services.now()
            self._services.capacity.releases.begin(self._ended(end))
            self._log_end(end)
            if self._half_close() and not self._is_leaving:
                wait_s = self._request.stop_timeout_s
        self._wait_until(asyncio.get_running_loop().time() + wait_s)

    def _wait_until(self, when: float) -> None:
        """Hold the request until this time of the event loop's clock at most."""
        if not self._limit.expired():
            self._limit.reschedule(when)

    def _half_close(self) -> bool:
        """End the sending direction of the request's connection. Return False if it is gone already."""
        closed = False
        for one in self._sockets:
            with contextlib.suppress(OSError):  # a closed one of several addresses, or a connection just lost
                one.shutdown(socket.SHUT_WR)
                closed = True
        return closed

    def _ended(self, end: CallEnded) -> SessionEnd:
        ran = self.accepted.done()
        status = _completion_status(end, ran=ran)
        return SessionEnd(self._session_id, end, self._services.now(), ran=ran, completion_status=status)

    def _log_end(self, end: CallEnded) -> None:
        ran = self.accepted.done()
        event = "bot ended" if ran else "bot not begun"
        log_end(self._log, event, end, seconds=self._services.now() - self._began_at, ran=ran)

    async def _finish(self, end: CallEnded) -> None:
        """Save the end, or what is known of it, and log it. The slot is free once the instance is."""
        self._is_over = True
        releases, timeout_s = self._services.capacity.releases, self._request.stop_timeout_s
        answered = end.reason is Reasons.agent_ended or isinstance(end, AnsweredBadly)
        if self._ending_at is not None:
            held = self._held(self._ending_at, timeout_s)
            if answered:
                releases.release(held, ReleasedBy.ANSWERED)
            elif not self._is_leaving:
                releases.watch(held)  # which knows if the time is over
            return
        ended = self._ended(end)
        if answered or self._requested_at is None:
            await save(self._services.store, ended)
        else:
            await releases.end(ended, self._held(ended.ended_at, timeout_s))
        self._log_end(end)
        if not ended.ran:
            self.accepted.set_exception(end)

    def _held(self, ending_at: float, timeout_s: float) -> HeldSlot:
        requested_at = self._began_at if self._requested_at is None else self._requested_at
        return HeldSlot(self._session_id, self.instance, requested_at, ending_at, timeout_s)


class AnsweredBadly(CallEnded):
    """The instance has answered the request, with anything but a 200."""


def _broken_off(error: Exception | str) -> str:
    cause = error if isinstance(error, str) else type(error).__name__
    return f"the request to /bot broke off: {cause}"


def _cause(error: aiohttp.ClientConnectorError) -> str:
    """Return why the connection failed, without an address: the client that started the session reads it."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "no TLS with a good certificate"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name was not found"
    return cause_without_address(error.os_error)


def _completion_status(end: CallEnded, *, ran: bool) -> str | None:
    """Return how the request ended; None for one that was given up before the agent had accepted it.

    One that was stopped, or cut off at its longest duration, has ended as it was asked to.
    """
    if end.reason.failed:
        return HTTP_ERROR
    return HTTP_COMPLETED if ran or end.reason is Reasons.agent_ended else None


class BotSessions:
    """The bot sessions of one worker."""

    def __init__(self, services: BotServices) -> None:
        """Raises ValueError if the HTTP client reuses or limits connections: use `bot_http_client`."""
        connector = services.http.connector
        if connector is None or connector.limit or not connector.force_close:
            raise ValueError(
                "sessions need a client of their own: gateway.calls.bot_client.bot_http_client()"
            )
        self._services = services
        self._bots: dict[str, BotSession] = {}
        self._closing: CallEnded | None = None

    @property
    def running(self) -> int:
        """The number of sessions, including those that are starting or ending."""
        return len(self._bots)

    async def check(self, agent: AgentSettings) -> None:
        """Return if `start` would find a slot now. It takes none, so `start` may find the slot gone.

        Raises CallEnded: at_capacity, store_failed, agent_start_timeout (as NotReady).
        """
        await self._services.capacity.check(agent)
        if self._is_not_ready(agent) and not self._services.capacity.cold_starts.concern(agent):
            raise NotReady

    async def wait_until_ready(self, agent: AgentSettings) -> None:
        """Return once `start` would find a slot and an instance that answers; it may find either gone.

        Waits for a cold agent as `start` does, for what must not be prepared in vain. Raises CallEnded as
        `check`, and agent_unreachable.
        """
        await self._services.capacity.check(agent)
        if self._services.capacity.cold_starts.concern(agent):  # `start` starts one
            return
        health = self._services.health
        try:
            async with asyncio.timeout(self._services.connect_timeout_s):
                while self._is_cold(agent):
                    await asyncio.sleep(STARTING_PROBE_INTERVAL_S)
                    await asyncio.gather(*map(health.probe, agent.instances))
        except TimeoutError:
            if self._is_not_ready(agent):
                raise NotReady from None
            detail = "connecting to the agent failed: none of its instances accepts connections"
            raise CallEnded(Reasons.agent_unreachable, detail) from None

    async def start(
        self, agent: AgentSettings, details: CallDetails, options: SessionOptions, request: BotRequest
    ) -> StartedBot:
        """Start the session `details.session_id` and return once an instance has accepted the request.

        Raises CallEnded: at_capacity, agent_unreachable, agent_start_timeout (also as NotReady),
        agent_failed, agent_lost, store_failed, overloaded, draining; or the session's end if it was stopped
        meanwhile. Its slot is free then. If this is cancelled, the session is stopped.
        """
        if self._closing is not None:
            raise CallEnded(self._closing.reason, self._closing.detail)
        instance = await self._services.capacity.acquire_started(agent, details, options)
        capacity = self._services.capacity

        async def move(failed: str) -> str:
            return await capacity.wait_started(agent, details.session_id, failed, has_failed=True)

        others = None
        if capacity.cold_starts.concern(agent):
            others = OtherInstances(move, capacity.cold_starts.has_ended)
        bot = BotSession(self._services, details, instance, request, others)
        self._bots[details.session_id] = bot
        if self._closing is not None:
            bot.termination.set(self._closing)
        bot.task.add_done_callback(lambda _: self._bots.pop(details.session_id, None))
        try:
            await asyncio.shield(bot.accepted)
            if bot.running_saved is not None:  # so that the client finds it running, at any worker
                await asyncio.wait([bot.running_saved], timeout=START_WRITE_S)
        except asyncio.CancelledError:
            bot.termination.set(CallEnded(Reasons.stopped, "whoever started it gave up"))
            raise
        return StartedBot(details.session_id, bot.instance)

    def stop(self, session_id: str, end: CallEnded) -> bool:
        """End a session at once, by aborting its request. False if this worker does not run it."""
        bot = self._bots.get(session_id)
        if bot is not None:
            bot.termination.set(end)
        return bot is not None

    async def end_all(self, end: CallEnded) -> None:
        """End every session, refuse new ones, and return when all ends have been passed to the store.

        Agents that do not end are left to other workers: their sessions stay `ending`.
        """
        self._closing = end
        while self._bots:
            for bot in list(self._bots.values()):
                bot.leave(end)
            await asyncio.wait([bot.task for bot in self._bots.values()])
            await asyncio.sleep(0)  # the tasks' done callbacks remove them from `_bots`

    def _is_not_ready(self, agent: AgentSettings) -> bool:
        """Return True if at least one instance is starting, and each other one starting or unreachable."""
        return self._is_cold(agent) and Health.STARTING in map(self._services.health.of, agent.instances)

    def _is_cold(self, agent: AgentSettings) -> bool:
        """Return True if each of its instances is starting or unreachable."""
        return {*map(self._services.health.of, agent.instances)} <= {Health.STARTING, Health.UNREACHABLE}
