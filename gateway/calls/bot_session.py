# SPDX-License-Identifier: BSD-2-Clause
"""A session that runs as one open `POST /bot` request (docs/reference/agent-container.md).

    take a slot → send the request → hold it open → end, with one reason

The request is the session: the session ends when its response ends, and to stop the session is to abort the
request. A task of the session's own holds it, so that the client that started the session may disconnect.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import structlog

from gateway.agents.instance_health import Health, InstanceHealth
from gateway.calls.capacity import Capacity
from gateway.calls.session_end import HTTP_COMPLETED, HTTP_ERROR, SessionEnd, log_end, save
from gateway.calls.termination import Termination
from gateway.config import AgentSettings
from gateway.dns.http_connector import open_connector
from gateway.model.futures import ignore_exception
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionOptions
from gateway.store.interface import Store

log = structlog.get_logger(__name__)

KEEPALIVE_IDLE_S: Final = 30
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 3
"""TCP keep-alive: an agent's machine that vanishes is noticed within a minute, though a bot is silent for
hours.
"""

REJECT_S: Final = 0.05
"""Seconds that an instance has to refuse a request that it was sent completely, as one without `/bot` does at
once: then the start fails, instead of a session that ends as soon as it was reported as started.
"""

START_WRITE_S: Final = 1.0
"""Seconds that a start waits until its session is stored as running. After that the store keeps trying."""


def bot_http_client() -> aiohttp.ClientSession:
    """Open a client as `BotSessions` needs it. Call it inside the event loop; the caller closes it.

    Requests are open for hours, so connections are not limited. None is used twice, because an idle
    connection may be closed by the agent just when it is used again. No cookie passes between sessions.
    """
    connector = open_connector(limit=0, force_close=True, socket_factory=_keepalive_socket)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        auto_decompress=False,
    )


def _keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # Linux; elsewhere the system's own times hold
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    return made


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
    """

    headers: Mapping[str, str]
    body: bytes
    max_duration_s: float


class NotReady(CallEnded):
    """The agent has free slots, but every instance reports that it is not ready for a session."""

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
        self, services: BotServices, details: CallDetails, instance: str, request: BotRequest
    ) -> None:
        """Start the session, whose slot on `instance` was taken. Must be called inside the event loop."""
        self._services = services
        self._session_id = details.session_id
        self._instance = instance
        self._headers = request.headers
        self._body = request.body
        self._max_duration_s = request.max_duration_s
        self._log = log.bind(
            session=details.session_id,
            agent=details.agent,
            organization=details.organization,
            instance=instance,
        )
        self._limit: asyncio.Timeout
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

    async def _run(self) -> None:
        """Run the session and record its end. Raises nothing."""
        try:
            async with self.termination.cancel_scope():
                await self._request()
            end = CallEnded(Reasons.agent_ended, "/bot answered 200")
        except CallEnded as reason:
            end = reason
        except Exception:  # noqa: BLE001 - the edge of the session's task: it ends this session and no other
            self._log.exception("internal error")
            end = CallEnded(Reasons.internal_error)
        await self._finish(end)

    async def _request(self) -> None:
        """Send the request and wait until its response has ended. Raises CallEnded unless that is a 200."""
        services = self._services
        try:
            # One timeout for two phases: `_accept` moves it from the connect timeout to the longest duration.
            async with asyncio.timeout(services.connect_timeout_s) as self._limit:
                await services.health.wait_until_started(self._instance)
                await self._post()
        except TimeoutError:
            if not self._limit.expired():  # the socket's own
                raise self._broken("the connection timed out") from None
            if self.accepted.done():
                detail = f"it ran for {self._max_duration_s:g} s"
                raise CallEnded(Reasons.max_duration, detail) from None
            detail = f"it did not take the request within {services.connect_timeout_s:g} s"
            raise CallEnded(Reasons.agent_start_timeout, detail) from None
        except aiohttp.ClientConnectorError as error:
            detail = f"connecting to the agent failed: {_cause(error)}"
            if is_out_of_resources(error.os_error):
                raise CallEnded(Reasons.overloaded, detail) from None
            services.health.mark_unreachable(self._instance)
            raise CallEnded(Reasons.agent_unreachable, detail) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(type(error).__name__) from None

    async def _post(self) -> None:
        headers = {
            **self._headers,
            "x-daily-session-id": self._session_id,
            "Content-Type": "application/json",
            "Content-Length": str(len(self._body)),
            "Accept-Encoding": "identity",
        }
        async with self._services.http.post(
            f"{self._instance}/bot", data=self._body_once(), headers=headers, allow_redirects=False
        ) as answer:
            if answer.status != 200:
                raise CallEnded(Reasons.agent_failed, f"/bot answered {answer.status}")
            self._accept()  # also if it has not read the whole body: an agent need not
            async for _ in answer.content.iter_any():
                pass

    async def _body_once(self) -> AsyncIterator[bytes]:
        """Yield the body once. aiohttp resumes this generator when the body is written.

        From then on the instance counts as having accepted the request, unless it refuses within REJECT_S.
        """
        body, self._body = self._body, b""  # a session lasts hours, and needs it no more
        yield body
        del body
        asyncio.get_running_loop().call_later(REJECT_S, self._accept)

    def _accept(self) -> None:
        if not self.accepted.done() and not self._is_over and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._max_duration_s)
            self.running_saved = self._services.store.mark_running(self._session_id, self._services.now())
            self.accepted.set_result(None)

    def _broken(self, detail: str) -> CallEnded:
        return CallEnded(Reasons.agent_lost, f"the request to /bot broke off: {detail}")

    async def _finish(self, end: CallEnded) -> None:
        """Save the end, which frees the slot, and log it."""
        self._is_over = True
        ran, now = self.accepted.done(), self._services.now()
        ended = SessionEnd(self._session_id, end, now, ran=ran, completion_status=_completion_status(end))
        await save(self._services.store, ended)
        seconds = self._services.now() - self._began_at
        log_end(self._log, "bot ended" if ran else "bot not begun", end, seconds=seconds)
        if not ran:
            self.accepted.set_exception(end)


def _cause(error: aiohttp.ClientConnectorError) -> str:
    """Return why the connection failed, without an address: the client that started the session reads it."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "no TLS with a good certificate"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name was not found"
    return os.strerror(error.errno).lower() if isinstance(error.errno, int) else "no connection"


def _completion_status(end: CallEnded) -> str | None:
    if end.reason is Reasons.agent_ended:
        return HTTP_COMPLETED
    return HTTP_ERROR if end.reason.failed else None


class BotSessions:
    """The bot sessions of one worker."""

    def __init__(self, services: BotServices) -> None:
        """Raises ValueError if the HTTP client reuses or limits connections: use `bot_http_client`."""
        connector = services.http.connector
        if connector is None or connector.limit or not connector.force_close:
            raise ValueError(
                "sessions need a client of their own: gateway.calls.bot_session.bot_http_client()"
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
        if self._is_not_ready(agent):
            raise NotReady

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
        if self._is_not_ready(agent):
            await self.check(agent)  # which tells at_capacity and NotReady apart
        instance = await self._services.capacity.acquire(agent, details, options)
        bot = BotSession(self._services, details, instance, request)
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
        return StartedBot(details.session_id, instance)

    def stop(self, session_id: str, end: CallEnded) -> bool:
        """End a session at once, by aborting its request. False if this worker does not run it."""
        bot = self._bots.get(session_id)
        if bot is not None:
            bot.termination.set(end)
        return bot is not None

    async def end_all(self, end: CallEnded) -> None:
        """End every session, refuse new ones, and return when all ends have been passed to the store."""
        self._closing = end
        while self._bots:
            for bot in self._bots.values():
                bot.termination.set(end)
            await asyncio.wait([bot.task for bot in self._bots.values()])
            await asyncio.sleep(0)  # the tasks' done callbacks remove them from `_bots`

    def _is_not_ready(self, agent: AgentSettings) -> bool:
        """Return True if at least one instance is starting, and each other one starting or unreachable."""
        health = {self._services.health.of(instance) for instance in agent.instances}
        return Health.STARTING in health and health <= {Health.STARTING, Health.UNREACHABLE}
