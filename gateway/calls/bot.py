# SPDX-License-Identifier: BSD-2-Clause
"""One session that runs as `POST /bot` held open (agent-container.md).

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

from gateway.agents.readiness import Probes
from gateway.calls.ends import end_watch, end_written
from gateway.calls.fate import Fate
from gateway.errors import CallEnd, Endings
from gateway.sessions.lifecycle import State
from gateway.sessions.session import CallFacts, Outcome, Traffic
from gateway.sessions.store import Store
from gateway.shortage import is_ours

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
"""public-api.md, "Management": how the request of a session ended."""


def bots_http() -> aiohttp.ClientSession:
    """A client as `Bots` needs it; to be closed by whoever asked for it, inside whose loop this is called.

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
class Means:
    """What every session works with."""

    store: Store
    probes: Probes
    http: aiohttp.ClientSession
    now: Callable[[], float]
    connect_timeout_s: float


@dataclass(frozen=True, slots=True)
class BotRequest:
    """What the agent is sent."""

    headers: Mapping[str, str]
    body: bytes


class Bot:
    """One session: its request, and the task that holds it."""

    def __init__(
        self, means: Means, facts: CallFacts, instance: str, request: BotRequest, max_duration_s: float
    ) -> None:
        self._means = means
        self._session_id = facts.session_id
        self._instance = instance
        self._headers = request.headers
        self._body = request.body
        self._max_duration_s = max_duration_s
        self._log = log.bind(
            session=facts.session_id, agent=facts.agent, organization=facts.organization, instance=instance
        )
        self._limit: asyncio.Timeout
        self._over = False
        self._began_at = means.now()
        self.fate = Fate()
        self.taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the instance has taken the request; or the session's end, where it came before that."""
        self.taken.add_done_callback(_seen)
        self.written: asyncio.Future[None] | None = None
        """Done when the store knows that it runs; None until it does."""
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Runs the session and sees to its end. Raises nothing."""
        try:
            async with self.fate.interrupting():
                await self._hold()
            end = CallEnd(Endings.agent_ended, "/bot answered 200")
        except CallEnd as reason:
            end = reason
        except Exception:  # noqa: BLE001 - the edge of the session's task: it ends this and no other
            self._log.exception("internal error")
            end = CallEnd(Endings.internal_error)
        await self._finish(end)

    async def _hold(self) -> None:
        """Sends the request and waits for the end of its answer. Raises CallEnd for all but a good one."""
        try:
            async with asyncio.timeout(self._means.connect_timeout_s) as self._limit:
                await self._means.probes.wait_until_started(self._instance)
                await self._post()
        except TimeoutError:
            if not self._limit.expired():  # the socket's own
                raise self._broken("the connection timed out") from None
            if self.taken.done():
                words = f"it ran for {self._max_duration_s:g} s"
                raise CallEnd(Endings.max_duration, words) from None
            words = f"it did not take the request within {self._means.connect_timeout_s:g} s"
            raise CallEnd(Endings.agent_start_timeout, words) from None
        except aiohttp.ClientConnectorError as error:
            words = f"connecting to the agent failed: {_why(error)}"
            if is_ours(error.os_error):
                raise CallEnd(Endings.overloaded, words) from None
            self._means.probes.unreachable(self._instance)
            raise CallEnd(Endings.agent_unreachable, words) from None
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
                raise CallEnd(Endings.agent_failed, f"/bot answered {answer.status}")
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

    def _broken(self, words: str) -> CallEnd:
        return CallEnd(Endings.agent_lost, f"the request to /bot broke off: {words}")

    async def _finish(self, end: CallEnd) -> None:
        """Writes the one end down, frees the place, says it in one line."""
        self._over = True
        ending = end.ending
        ran = self.taken.done()
        good = State.ENDED if ran else State.CANCELED
        outcome = Outcome(
            state=State.FAILED if ending.failed else good,
            ended_at=self._means.now(),
            reason=ending.code,
            side=ending.side,
            detail=end.words,
            close_code=ending.close_code,
            traffic=Traffic(),
            first_agent_sound_at=None,
            completion_status=_completion_status(end),
        )
        written = self._means.store.ended(self._session_id, outcome)
        await end_written(written)
        end_watch(self._means.store).ended(self._session_id)
        say = self._log.error if ending is Endings.internal_error else self._log.info
        say(
            "bot ended" if ran else "bot not begun",
            reason=ending.code,
            side=str(ending.side),
            words=end.words,
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


def _completion_status(end: CallEnd) -> str | None:
    if end.ending is Endings.agent_ended:
        return COMPLETED
    return FAILED if end.ending.failed else None


def _seen(taken: asyncio.Future[None]) -> None:
    """Nobody may be waiting any more, and then nobody complains of a failure."""
    if not taken.cancelled():
        taken.exception()
