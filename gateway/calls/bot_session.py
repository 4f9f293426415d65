# SPDX-License-Identifier: BSD-2-Clause
"""One session that runs as `POST /bot` held open (docs/reference/agent-container.md).

    connect its instance → send the request → hold it open → end, with one reason

The request is the session: when it ends the session does, and to stop the session is to break it off. It is
the session's own task that holds it, so that whoever started it may go.
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
from gateway.calls.session_events import end_saved, session_events
from gateway.calls.termination import Termination
from gateway.config import AgentSettings
from gateway.model.lifecycle import SessionState
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits, Traffic
from gateway.store.interface import AtCapacity, Store, StoreFailed

log = structlog.get_logger(__name__)

KEEPALIVE_IDLE_S: Final = 30
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 3
"""A machine that is gone without a word is noticed within a minute, though a bot is silent for hours."""

REFUSAL_S: Final = 0.05
"""How long an instance that was sent the request is given to refuse it, as one without `/bot` does at once:
then it is the start that fails, and not a session that nobody looks at."""

COMPLETED: Final = "HTTP_COMPLETED"
FAILED: Final = "HTTP_ERROR"
"""docs/reference/public-api.md, "Management": how the request of a session ended."""


def bot_http_client() -> aiohttp.ClientSession:
    """A client as `BotSessions` needs it; to be closed by whoever asked for it, inside whose loop this is
    called.

    Requests are open for hours, so no number of them may use up the connections; a connection is good for
    one, as an old one may be closed from the far end just when it is used again; and no cookie goes from one
    session to another.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_kept_alive)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        auto_decompress=False,
    )


def _kept_alive(address: tuple[Any, ...]) -> socket.socket:
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
    """What every session works with."""

    store: Store
    health: InstanceHealth
    http: aiohttp.ClientSession
    now: Callable[[], float]
    connect_timeout_s: float


@dataclass(frozen=True, slots=True)
class BotRequest:
    """What the agent is sent."""

    headers: Mapping[str, str]
    body: bytes


class BotSession:
    """One session: its request, and the task that holds it."""

    def __init__(
        self,
        means: BotServices,
        details: CallDetails,
        instance: str,
        request: BotRequest,
        max_duration_s: float,
    ) -> None:
        self._means = means
        self._session_id = details.session_id
        self._instance = instance
        self._headers = request.headers
        self._body = request.body
        self._max_duration_s = max_duration_s
        self._log = log.bind(
            session=details.session_id,
            agent=details.agent,
            organization=details.organization,
            instance=instance,
        )
        self._limit: asyncio.Timeout
        self._over = False
        self._began_at = means.now()
        self.termination = Termination()
        self.taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the instance has taken the request; or the session's end, where it came before that."""
        self.taken.add_done_callback(_seen)
        self.written: asyncio.Future[None] | None = None
        """Done when the store knows that it runs; None until it does."""
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Runs the session and sees to its end. Raises nothing."""
        try:
            async with self.termination.cancel_scope():
                await self._hold()
            end = CallEnded(Reasons.agent_ended, "/bot answered 200")
        except CallEnded as reason:
            end = reason
        except Exception:  # noqa: BLE001 - the edge of the session's task: it ends this and no other
            self._log.exception("internal error")
            end = CallEnded(Reasons.internal_error)
        await self._finish(end)

    async def _hold(self) -> None:
        """Sends the request and waits for the end of its answer. Raises CallEnded for all but a good one."""
        try:
            async with asyncio.timeout(self._means.connect_timeout_s) as self._limit:
                await self._means.health.wait_until_started(self._instance)
                await self._post()
        except TimeoutError:
            if not self._limit.expired():  # the socket's own
                raise self._broken("the connection timed out") from None
            if self.taken.done():
                detail = f"it ran for {self._max_duration_s:g} s"
                raise CallEnded(Reasons.max_duration, detail) from None
            detail = f"it did not take the request within {self._means.connect_timeout_s:g} s"
            raise CallEnded(Reasons.agent_start_timeout, detail) from None
        except aiohttp.ClientConnectorError as error:
            detail = f"connecting to the agent failed: {_why(error)}"
            if is_out_of_resources(error.os_error):
                raise CallEnded(Reasons.overloaded, detail) from None
            self._means.health.unreachable(self._instance)
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
        async with self._means.http.post(
            f"{self._instance}/bot", data=self._sent(), headers=headers, allow_redirects=False
        ) as answer:
            if answer.status != 200:
                raise CallEnded(Reasons.agent_failed, f"/bot answered {answer.status}")
            self._note_taken()  # an agent need not read what it does not want
            async for _ in answer.content.iter_any():
                pass

    async def _sent(self) -> AsyncIterator[bytes]:
        """The body; resumed when it was written. The instance has taken it, unless it says no at once."""
        body, self._body = self._body, b""  # a session lasts hours, and needs it no more
        yield body
        del body
        asyncio.get_running_loop().call_later(REFUSAL_S, self._note_taken)

    def _note_taken(self) -> None:
        if not self.taken.done() and not self._over and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._max_duration_s)
            self.written = self._means.store.started(self._session_id, self._means.now())
            self.taken.set_result(None)

    def _broken(self, detail: str) -> CallEnded:
        return CallEnded(Reasons.agent_lost, f"the request to /bot broke off: {detail}")

    async def _finish(self, end: CallEnded) -> None:
        """Writes the one end down, frees the place, says it in one line."""
        self._over = True
        reason = end.reason
        ran = self.taken.done()
        good = SessionState.ENDED if ran else SessionState.CANCELED
        result = SessionResult(
            state=SessionState.FAILED if reason.failed else good,
            ended_at=self._means.now(),
            reason=reason.code,
            side=reason.side,
            detail=end.detail,
            close_code=reason.close_code,
            traffic=Traffic(),
            first_agent_sound_at=None,
            completion_status=_completion_status(end),
        )
        written = self._means.store.ended(self._session_id, result)
        await end_saved(written)
        session_events(self._means.store).ended(self._session_id)
        say = self._log.error if reason is Reasons.internal_error else self._log.info
        say(
            "bot ended" if ran else "bot not begun",
            reason=reason.code,
            side=str(reason.side),
            words=end.detail,
            seconds=round(self._means.now() - self._began_at, 3),
        )
        if not ran:
            self.taken.set_exception(end)


def _why(error: aiohttp.ClientConnectorError) -> str:
    """In words that name no address: they reach whoever started the session."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "no TLS with a good certificate"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name was not found"
    return os.strerror(error.errno).lower() if isinstance(error.errno, int) else "no connection"


def _completion_status(end: CallEnded) -> str | None:
    if end.reason is Reasons.agent_ended:
        return COMPLETED
    return FAILED if end.reason.failed else None


def _seen(taken: asyncio.Future[None]) -> None:
    """Nobody may be waiting any more, and then nobody complains of a failure."""
    if not taken.cancelled():
        taken.exception()


START_WRITE_S: Final = 1.0
"""How long a start waits for its session to be written down as running; the store goes on trying."""


class NotReady(CallEnded):
    """There are places, and every instance that has one says that it takes no session now."""

    def __init__(self) -> None:
        super().__init__(Reasons.agent_start_timeout, "none of the agent's instances is ready")


@dataclass(frozen=True, slots=True)
class StartedBot:
    """A session whose request is on its way. `instance`: the URL of the instance that runs it."""

    session_id: str
    instance: str


class BotSessions:
    """The sessions of this worker that run as `POST /bot`."""

    def __init__(
        self,
        store: Store,
        health: InstanceHealth,
        http: aiohttp.ClientSession,
        now: Callable[[], float],
        *,
        connect_timeout_s: float,
    ) -> None:
        """`http`: of `bots_http`; ValueError for one that shares or counts connections. `now`: Unix seconds.

        `connect_timeout_s`: from admission until the instance has taken the request.
        """
        connector = http.connector
        if connector is None or connector.limit or not connector.force_close:
            raise ValueError(
                "sessions need a client of their own: gateway.calls.bot_session.bot_http_client()"
            )
        self._store = store
        self._health = health
        self._now = now
        self._means = BotServices(store, health, http, now, connect_timeout_s)
        self._bots: dict[str, BotSession] = {}
        self._closing: CallEnded | None = None

    @property
    def running(self) -> int:
        """How many sessions there are, those that are being started or ended included."""
        return len(self._bots)

    async def expect_place(self, agent: AgentSettings) -> None:
        """Raises what `start` would raise now for want of a place, and takes none: for whoever has to make
        something first. CallEnded(at_capacity), NotReady, CallEnded(store_failed)."""
        try:
            _, taken = await self._store.sessions(agent=agent.service_host, active=True, limit=0)
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
        places = min(len(set(agent.instances)), agent.max_agents) * agent.sessions_per_instance
        if taken >= places:
            raise _at_capacity(taken, places)
        if self._none_ready(agent):
            raise NotReady

    async def start(  # noqa: PLR0917 - what a session is made of, in the order of its making
        self,
        agent: AgentSettings,
        details: CallDetails,
        options: SessionOptions,
        headers: Mapping[str, str],
        body: bytes,
        max_duration_s: float,
    ) -> StartedBot:
        """Starts the session `facts.session_id`, and returns once an instance has taken the request.

        `headers`: the `x-daily-…` ones beside the session's id, which is told in any case. `body`: JSON.
        `max_duration_s`: from then on; that is when the session is ended.

        Raises CallEnded: at_capacity, agent_unreachable, agent_start_timeout (NotReady among them),
        agent_failed, agent_lost, store_failed, overloaded, draining, or as the session was stopped
        meanwhile. Its place is free then. If this is cancelled, the session is stopped.
        """
        if self._closing is not None:
            raise CallEnded(self._closing.reason, self._closing.detail)
        if self._none_ready(agent):
            await self.expect_place(agent)  # which says what is wanting
        instance = await self._admit(agent, details, options)
        bot = BotSession(self._means, details, instance, BotRequest(headers, body), max_duration_s)
        self._bots[details.session_id] = bot
        if self._closing is not None:
            bot.termination.set(self._closing)
        bot.task.add_done_callback(lambda _: self._bots.pop(details.session_id, None))
        try:
            await asyncio.shield(bot.taken)
            if bot.written is not None:  # so that whoever is answered finds it running, at any worker
                await asyncio.wait([bot.written], timeout=START_WRITE_S)
        except asyncio.CancelledError:
            bot.termination.set(CallEnded(Reasons.stopped, "whoever started it gave up"))
            raise
        return StartedBot(details.session_id, instance)

    def stop(self, session_id: str, end: CallEnded) -> bool:
        """Ends a session at once, by breaking off its request; False where this worker has none of it."""
        bot = self._bots.get(session_id)
        if bot is not None:
            bot.termination.set(end)
        return bot is not None

    async def end_all(self, end: CallEnded) -> None:
        """Ends every session, starts no more, and returns when the ends are told to the store."""
        self._closing = end
        while self._bots:
            for bot in self._bots.values():
                bot.termination.set(end)
            await asyncio.wait([bot.task for bot in self._bots.values()])
            await asyncio.sleep(0)  # the tasks' callbacks forget them

    def _none_ready(self, agent: AgentSettings) -> bool:
        """Whether an instance said that it takes none now, and no other may."""
        seen = {self._health.readiness(instance) for instance in agent.instances}
        return Health.STARTING in seen and seen <= {Health.STARTING, Health.UNREACHABLE}

    async def _admit(self, agent: AgentSettings, details: CallDetails, options: SessionOptions) -> str:
        places = SlotLimits(
            instances=self._health.ranks(agent.instances),
            per_instance=agent.sessions_per_instance,
            max_instances=agent.max_agents,
            reserved=agent.reserve_outbound,
        )
        try:
            return await self._store.admit(details, places, self._now(), options)
        except AtCapacity as full:
            raise _at_capacity(full.taken, full.limit) from None
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None


def _at_capacity(taken: int, places: int) -> CallEnded:
    return CallEnded(Reasons.at_capacity, f"{taken} of {places} places are taken")
