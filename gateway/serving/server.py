# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay serve`: the processes behind the one port.

One worker runs in the process itself. Several are children, each with a socket of its own on the same
port (SO_REUSEPORT: the kernel spreads the connections evenly), started again when they die.

SIGTERM drains: `/readyz` answers 503 and new calls are refused, both still by the open port, the running
calls go on; the process exits 0 when the last has ended or `drain_timeout` is over. The first Ctrl-C does
the same; a second one, or SIGQUIT, ends the calls at once.

A gateway can be replaced while calls come: `patchbay serve --replace PID` takes the port over from another
(gateway/serving/takeover.py), which then lets its running calls finish and ends.

SIGHUP reads the certificate again (gateway/serving/tls.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import structlog
import uvicorn
import uvloop

from gateway.api.services import Services
from gateway.app import running
from gateway.config import Settings
from gateway.log import start_logging
from gateway.media import accelerator
from gateway.media.upgrade import Upgrade
from gateway.serving import descriptors, takeover
from gateway.serving.door import Door
from gateway.serving.doorman import Doorman
from gateway.serving.spare import Spare
from gateway.serving.takeover import HAND_OVER, STRAGGLERS_S, Takeover
from gateway.serving.tls import WATCH_S, Certificate, CertificateUnusable
from gateway.sessions.store import StoreFailed

log = structlog.get_logger(__name__)

BACKLOG = 2048
DRAIN_LOG_INTERVAL_S = 10.0
RESTART_DELAY_S = 1.0
CLOSING_TIME_S = 5
"""What calls and requests are given to end when the time to drain is over."""

STARTUP_FAILED = 3
"""Exit status where the store could not be opened; starting again would not help."""

TICKS_A_SECOND = 10
"""How often uvicorn calls `on_tick`."""

_spawn = multiprocessing.get_context("spawn")


def run(settings: Settings, *, replace: int | None = None) -> int:
    """Serves until told to stop. Returns the exit status: 0 after a drain, 1 where it could not start for
    what it was given, STARTUP_FAILED where it could not for its store.

    `replace`: the process id of the gateway whose port is to be taken over.
    """
    with _logging(settings):
        taken = None
        try:
            _certificate(settings)  # in each worker again; here so that it is said before anything runs
        except CertificateUnusable as error:
            log.error("cannot start", error=str(error))
            return 1
        try:
            port = _reserve_port(settings, shared=replace is not None)
            if replace is not None:
                taken = takeover.plan(replace, port, settings.server.workers)
        except OSError as error:
            where = f"{settings.server.host}:{settings.server.port}"
            log.error("cannot listen", address=where, error=error.strerror or str(error))
            return 1
        with port:
            address = "{}:{}".format(*port.getsockname()[:2])
            log.info(
                "patchbay",
                address=address,
                workers=settings.server.workers,
                agents=len(settings.agents),
                accelerator="c" if accelerator.ACTIVE else "python",
                tls=settings.server.tls_certificate is not None,
            )
            if settings.server.workers == 1:
                status = _serve(settings, port, taken=taken)
            else:
                status = _Workers(settings, port.getsockname()[1], taken).run()
    return status


class _Server(uvicorn.Server):
    """uvicorn's server, with our door and our way to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        services: Services,
        doorman: Doorman,
        spare: Spare,
        certificate: Certificate | None,
        *,
        is_child: bool,
    ) -> None:
        super().__init__(config)
        self._doorman = doorman
        self._spare = spare
        self._certificate = certificate
        self._reload_wanted = False
        self._board = services.board
        self._bots = services.bots
        self._is_child = is_child
        self._drain_until: float | None = None
        self._log_drain_at = 0.0
        self._leave_port_at: float | None = None

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

        def door() -> Door:
            self._spare.look()  # here, and not in the connection: before the next one is accepted
            return Door(self._doorman, self._spare, self.config, self.server_state, self.lifespan.state, loop)

        self.servers = [
            await loop.create_server(door, sock=port, backlog=BACKLOG, **tls) for port in sockets or ()
        ]
        self.started = True

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
            self._drain_until = time.monotonic() + self._board.settings.server.drain_timeout
        self._board.draining = True

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
            for server in self.servers:
                server.close()
            self.handle_exit(signal.SIGTERM, None)
        if self._drain_until is not None:
            now = time.monotonic()
            calls = len(self._board.calls) + self._bots.running + self._board.dialouts.running
            if calls and now >= self._log_drain_at:
                log.info("draining", calls=calls, seconds_left=round(max(0.0, self._drain_until - now)))
                self._log_drain_at = now + DRAIN_LOG_INTERVAL_S
            self.should_exit = not calls or now >= self._drain_until
        return await super().on_tick(counter)

    def _orphaned(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        log.warning("the parent process died: draining")
        self.handle_exit(signal.SIGTERM, None)


def _serve(
    settings: Settings, port: socket.socket, *, is_child: bool = False, taken: Takeover | None = None
) -> int:
    """Runs one worker on a bound socket; its exit status. `taken`: the worker takes the port over."""

    async def serve() -> None:
        async with running(settings) as (app, services):
            config = uvicorn.Config(
                app,
                http=Door,  # made by _Server
                ws=Upgrade,
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=CLOSING_TIME_S,
            )
            doorman = Doorman(settings, open_files, time.monotonic)
            server = _Server(config, services, doorman, spare, certificate, is_child=is_child)
            taking = asyncio.create_task(takeover.take(taken, port)) if taken is not None else None
            try:
                await server.serve(sockets=[port])
            finally:
                if taking is not None:
                    taking.cancel()

    open_files = descriptors.reserve()
    spare = Spare()
    try:
        certificate = _certificate(settings)
        # The relay costs 1.4 times as much on asyncio's own loop.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    except (StoreFailed, CertificateUnusable) as error:
        log.error("cannot start", error=str(error))
        return STARTUP_FAILED
    return 0


def _certificate(settings: Settings) -> Certificate | None:
    """What the port shows; None where it speaks no TLS. Raises CertificateUnusable."""
    server = settings.server
    return Certificate(server.tls_certificate, server.tls_key) if server.tls_certificate else None


def _work(settings: Settings, port_number: int, taken: Takeover | None) -> None:
    """A child process: one worker on a socket of its own."""
    with _logging(settings), _bind(settings.server.host, port_number, reuse_port=True) as port:
        status = _serve(settings, port, is_child=True, taken=taken)
    raise SystemExit(status)


class _Workers:
    """The parent of several workers: starts them, starts them again, passes on what it is told."""

    def __init__(self, settings: Settings, port_number: int, taken: Takeover | None) -> None:
        self._settings = settings
        self._port_number = port_number
        self._taken = taken  # by the first child
        self._children: list[BaseProcess] = []
        self._stopping = False
        self._replaced_one = False
        """A worker that cannot start where others run does not end them: the store may come back."""
        self._status = 0

    def run(self) -> int:
        """Until every child has ended; 0, or the status of the first that could not start."""
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, HAND_OVER):
            signal.signal(sig, self._told)
        signal.signal(signal.SIGHUP, self._reload)
        self._children = [self._start() for _ in range(self._settings.server.workers)]
        while self._children:
            wait([child.sentinel for child in self._children], timeout=RESTART_DELAY_S)
            for child in [child for child in self._children if not child.is_alive()]:
                self._children.remove(child)
                self._ended(child)
        return self._status

    def _start(self) -> BaseProcess:
        taken, self._taken = self._taken, None
        child = _spawn.Process(target=_work, args=(self._settings, self._port_number, taken))
        child.start()
        return child

    def _ended(self, child: BaseProcess) -> None:
        if child.exitcode == STARTUP_FAILED and not self._replaced_one:
            self._status = STARTUP_FAILED
            self._stop(signal.SIGTERM)
        elif not self._stopping:
            log.error("a worker died and is started again", pid=child.pid, exit_status=child.exitcode)
            time.sleep(RESTART_DELAY_S)  # a worker that dies at once must not fill the machine
            if not self._stopping:
                self._replaced_one = True
                self._children.append(self._start())

    def _told(self, sig: int, frame: FrameType | None) -> None:
        again = sig == signal.SIGQUIT or (sig == signal.SIGINT and self._stopping)
        self._stop(signal.SIGQUIT if again else HAND_OVER if sig == HAND_OVER else signal.SIGTERM)

    def _reload(self, sig: int, frame: FrameType | None) -> None:
        self._tell(signal.SIGHUP)

    def _stop(self, sig: signal.Signals) -> None:
        self._stopping = True
        self._tell(sig)

    def _tell(self, sig: signal.Signals) -> None:
        for child in self._children:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, sig)


def _reserve_port(settings: Settings, *, shared: bool) -> socket.socket:
    """The port, bound, and open to others of our user who ask for it in the same way.

    Raises OSError, also where somebody has it already and it is not to be `shared`. With several workers it
    is only kept, so that no other program takes it: each worker listens for itself.
    """
    host, number = settings.server.host, settings.server.port
    if not shared:
        with _bind(host, number, reuse_port=False) as alone:
            number = alone.getsockname()[1]
    return _bind(host, number, reuse_port=True)


def _bind(host: str, number: int, *, reuse_port: bool) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    port = socket.socket(family, kind, proto)
    try:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port.bind(address)
    except OSError:
        port.close()
        raise
    return port


@contextlib.contextmanager
def _logging(settings: Settings) -> Iterator[None]:
    lines = start_logging(settings.server.log_format, settings.server.log_level)
    try:
        yield
    finally:
        lines.stop()
