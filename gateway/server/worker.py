# SPDX-License-Identifier: BSD-2-Clause
"""One worker: the loop, the server on its socket, and how it stops.

A worker drains on SIGTERM, and closes its calls at once on SIGQUIT: gateway/server/serve.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
import uvloop

from gateway.api.framework.services import Services
from gateway.app import running
from gateway.config import Settings
from gateway.media.accept import Upgrade
from gateway.server import fd_reserve, takeover
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.fd_reserve import FdReserve
from gateway.server.port import drain_backlog
from gateway.server.takeover import HAND_OVER, STRAGGLERS_S, Takeover
from gateway.server.tls import WATCH_S, Certificate, CertificateUnusable
from gateway.server.uvicorn_adapter import HttpProtocol
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

BACKLOG = 2048
DRAIN_LOG_INTERVAL_S = 10.0
CLOSING_TIME_S = 5
"""What calls and requests are given to end when the time to drain is over."""

STARTUP_FAILED = 3
"""Exit status where the store could not be opened; starting again would not help."""

TICKS_A_SECOND = 10
"""How often uvicorn calls `on_tick`."""


def serve(
    settings: Settings, port: socket.socket, *, is_child: bool = False, taken: Takeover | None = None
) -> int:
    """Runs one worker on a bound socket; its exit status. `taken`: the worker takes the port over."""

    async def at_work() -> None:
        async with running(settings) as (app, services):
            config = uvicorn.Config(
                app,
                http=HttpProtocol,  # made by _Server
                ws=Upgrade,
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=CLOSING_TIME_S,
            )
            doorman = ConnectionLimits(settings, open_files, time.monotonic)
            server = _Server(config, services, doorman, spare, certificate, is_child=is_child)
            taking = asyncio.create_task(takeover.take(taken, port)) if taken is not None else None
            try:
                await server.serve(sockets=[port])
            finally:
                if taking is not None:
                    taking.cancel()

    open_files = fd_reserve.reserve()
    spare = FdReserve()
    try:
        certificate = certificate_of(settings)
        # The relay costs 1.4 times as much on asyncio's own loop.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(at_work())
    except (StoreFailed, CertificateUnusable) as error:
        log.error("cannot start", error=str(error))
        return STARTUP_FAILED
    return 0


def certificate_of(settings: Settings) -> Certificate | None:
    """What the port shows; None where it speaks no TLS. Raises CertificateUnusable."""
    server = settings.server
    return Certificate(server.tls_certificate, server.tls_key) if server.tls_certificate else None


class _Server(uvicorn.Server):
    """uvicorn's server, with our door and our way to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        services: Services,
        doorman: ConnectionLimits,
        spare: FdReserve,
        certificate: Certificate | None,
        *,
        is_child: bool,
    ) -> None:
        super().__init__(config)
        self._doorman = doorman
        self._spare = spare
        self._certificate = certificate
        self._reload_wanted = False
        self._services = services
        self._bots = services.bots
        self._is_child = is_child
        self._drain_until: float | None = None
        self._log_drain_at = 0.0
        self._leave_port_at: float | None = None
        self._leave_port: Callable[[], None] = lambda: None  # until there is one
        self._drain_at: float | None = None
        self._stragglers: set[asyncio.Task[Any]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if self._is_child:  # a Ctrl-C reaches the whole group; the parent passes on what it means
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            parent = multiprocessing.parent_process()
            assert parent is not None
            asyncio.get_running_loop().add_reader(parent.sentinel, self._orphaned, parent.sentinel)
        else:
            signal.signal(signal.SIGINT, self.handle_exit)
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGQUIT, self.handle_exit)
        signal.signal(HAND_OVER, self._hand_over)
        signal.signal(signal.SIGHUP, self._want_reload)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own has no limit for the TLS handshake, and makes no protocol with a limit of its own."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(STARTUP_FAILED)
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self._certificate is not None:
            tls = {
                "ssl": self._certificate.context,
                "ssl_handshake_timeout": self._doorman.handshake_timeout_s,
            }

        def door() -> HttpProtocol:
            self._spare.look()  # here, and not in the connection: before the next one is accepted
            return HttpProtocol(
                self._doorman, self._spare, self.config, self.server_state, self.lifespan.state, loop
            )

        self.servers = [
            await loop.create_server(door, sock=port, backlog=BACKLOG, **tls) for port in sockets or ()
        ]
        self._leave_port = partial(self._take_in_and_close, sockets or (), door, tls)
        self.started = True

    def _take_in_and_close(
        self, ports: Sequence[socket.socket], door: Callable[[], HttpProtocol], tls: dict[str, Any]
    ) -> None:
        """Closes the port, and accepts before whom the kernel holds for it: they would be reset.

        Of several workers the first that leaves makes the numbers wrong by which the kernel is steered
        (takeover.py), so that until the last has left some still come to those that are there.
        """
        loop = asyncio.get_running_loop()
        for port, server in zip(ports, self.servers, strict=True):
            for connection in drain_backlog(port, BACKLOG):
                task = loop.create_task(loop.connect_accepted_socket(door, connection, **tls))
                self._stragglers.add(task)
                task.add_done_callback(self._taken_in)
            server.close()

    def _taken_in(self, task: asyncio.Task[Any]) -> None:
        self._stragglers.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.info("a connection ended before it was open", error=str(task.exception()))

    def _want_reload(self, sig: int, frame: FrameType | None) -> None:
        self._reload_wanted = True

    def _reload(self) -> None:
        if self._certificate is None:
            log.info("there is no certificate to read again")
        else:
            self._certificate.reload()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGQUIT or (sig == signal.SIGINT and self._drain_until is not None):
            self._drain_until = 0.0
        elif self._drain_until is None:
            self._drain_until = time.monotonic() + self._services.settings.server.drain_timeout
        self._services.active.draining = True

    def _hand_over(self, sig: int, frame: FrameType | None) -> None:
        """Another gateway has the port: no new connection will come, but those on their way are ours."""
        if self._leave_port_at is None:
            self._leave_port_at = time.monotonic() + STRAGGLERS_S

    async def on_tick(self, counter: int) -> bool:
        self._spare.look()
        if counter % TICKS_A_SECOND == 0:
            self._doorman.report()
            self._spare.tend()
        if self._reload_wanted:
            self._reload_wanted = False
            self._reload()
        elif self._certificate is not None and counter % (int(WATCH_S) * TICKS_A_SECOND) == 0:
            self._certificate.follow()
        if self._leave_port_at is not None and time.monotonic() >= self._leave_port_at:
            self._leave_port_at = float("inf")
            self._leave_port()
            self._drain_at = time.monotonic() + STRAGGLERS_S  # who was just accepted has not said what for
        if self._drain_at is not None and time.monotonic() >= self._drain_at:
            self._drain_at = None
            self.handle_exit(signal.SIGTERM, None)
        if self._drain_until is not None:
            now = time.monotonic()
            calls = len(self._services.active) + self._bots.running + self._services.outbound.running
            if calls and now >= self._log_drain_at:
                log.info("draining", calls=calls, seconds_left=round(max(0.0, self._drain_until - now)))
                self._log_drain_at = now + DRAIN_LOG_INTERVAL_S
            self.should_exit = not calls or now >= self._drain_until
        return await super().on_tick(counter)

    def _orphaned(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        log.warning("the parent process died: draining")
        self.handle_exit(signal.SIGTERM, None)
