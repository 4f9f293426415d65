# SPDX-License-Identifier: BSD-2-Clause
"""One worker process: the event loop, the application on its port, and the signals that end it.

worker_state.py decides what a signal, a deadline or the last call means; this module carries it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Final

import structlog
import uvloop
from starlette.types import ASGIApp

from gateway.api.framework.handler_services import Services
from gateway.app import running
from gateway.calls import reconfiguration
from gateway.config import Settings
from gateway.nodes.node_listener import NodeAddressUnusable
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.exit_status import NOT_TAKEN_OVER, STARTUP_FAILED
from gateway.server.fd_reserve import FdReserve, raise_fd_limit
from gateway.server.stray_signals import StraySignals
from gateway.server.takeover import GRACE_S, Takeover, take_port
from gateway.server.tls import RELOAD_CHECK_S, Certificate, CertificateUnusable, load_certificate
from gateway.server.uvicorn_adapter import TICKS_PER_SECOND, UvicornServer
from gateway.server.worker_link import WorkerCallbacks, WorkerParent
from gateway.server.worker_state import WorkerEvent, WorkerLife, WorkerState
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

DRAIN_LOG_INTERVAL_S: Final = 10.0

ALIVE_TICKS: Final = TICKS_PER_SECOND // 2
"""How many ticks pass between two reports to the parent process."""

SIGNALS: Final[Mapping[int, WorkerEvent]] = {
    signal.SIGTERM: WorkerEvent.SIGTERM,
    signal.SIGINT: WorkerEvent.SIGINT,
    signal.SIGQUIT: WorkerEvent.SIGQUIT,
}


def serve(
    settings: Settings,
    port: socket.socket,
    parent: WorkerParent,
    takeover: Takeover | None,
    *,
    may_create_store: bool = True,
) -> int:
    """Run one worker on a bound socket until it has stopped, and return its exit status.

    `takeover`: this worker takes the port over from another gateway once it listens. `may_create_store`: if
    not, the store must exist. The status is STARTUP_FAILED if the store, the certificate or the node's
    address cannot be used, NOT_TAKEN_OVER, or 0.
    """
    status = 0

    async def run() -> None:
        nonlocal status
        tls = None if certificate is None else certificate.context
        async with running(settings, may_create_store=may_create_store, tls=tls) as (app, services):
            worker = Worker(app, services, limits, fd_reserve, certificate)
            status = await worker.run(port, parent, takeover)

    fd_limit = raise_fd_limit()
    fd_reserve = FdReserve()
    limits = ConnectionLimits(settings, fd_limit, time.monotonic)
    try:
        certificate = load_certificate(settings.server)
        # On asyncio's own loop the relay costs 1.4 times as much.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except (StoreFailed, CertificateUnusable, NodeAddressUnusable) as error:
        log.error("cannot start", error=str(error))
        return STARTUP_FAILED
    return status


class Worker:
    """The server of one process. It turns signals, deadlines and running calls into events of its life."""

    def __init__(
        self,
        app: ASGIApp,
        services: Services,
        limits: ConnectionLimits,
        fd_reserve: FdReserve,
        certificate: Certificate | None,
    ) -> None:
        """`certificate`: None for a port without TLS."""
        drain_timeout_s = services.calls.settings.server.drain_timeout
        self._life = WorkerLife(drain_timeout_s=drain_timeout_s, grace_s=GRACE_S)
        self._server = UvicornServer(app, limits, fd_reserve, certificate, self._tick)
        self._services = services
        self._limits = limits
        self._fd_reserve = fd_reserve
        self._certificate = certificate
        self._next_drain_log = 0.0
        self._stray_signals = StraySignals()
        self._configuring = asyncio.Lock()
        self._configuring_tasks: set[asyncio.Task[None]] = set()
        self._parent: WorkerParent | None = None
        self._status = 0

    async def run(self, port: socket.socket, parent: WorkerParent, takeover: Takeover | None) -> int:
        """Serve on `port` until the worker is STOPPING and its connections are closed. Return the status."""
        self._parent = parent
        self._install_signal_handlers(parent)
        parent.start(
            WorkerCallbacks(
                leave_port=partial(self._handle, WorkerEvent.PORT_HANDED_OVER),
                close_port=partial(self._server.close_port, takes_backlog=False),
                take_connection=self._server.connect_accepted,
                take_settings=self._take_settings,
                parent_lost=self._parent_lost,
            )
        )
        taking = asyncio.create_task(self._take_port(takeover, port)) if takeover is not None else None
        try:
            await self._server.run_until_stopped(port)
        finally:
            if taking is not None:
                taking.cancel()
            parent.stop()
        return self._status

    async def _take_port(self, takeover: Takeover, port: socket.socket) -> None:
        succeeded = await take_port(takeover, port)
        assert self._parent is not None
        self._parent.report_takeover(succeeded=succeeded)
        if not succeeded:  # the port is the old gateway's, which goes on: leave it as one that was replaced
            self._status = NOT_TAKEN_OVER
            self._handle(WorkerEvent.PORT_HANDED_OVER)

    def _install_signal_handlers(self, parent: WorkerParent) -> None:
        """Turn signals into events on the loop.

        A Python signal handler may interrupt any line of this class, so it only schedules a callback. The
        handlers stay after the loop has closed: a repeated signal must not change the exit status.
        """
        loop = asyncio.get_running_loop()

        def on_signal(sig: int, _frame: FrameType | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._handle, SIGNALS[sig])

        def on_hangup(_sig: int, _frame: FrameType | None) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._hang_up)

        for sig in SIGNALS:
            signal.signal(sig, on_signal)
        if parent.passes_interrupts:  # a Ctrl-C reaches the whole process group
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, on_hangup)
        self._stray_signals.install()

    def _parent_lost(self) -> None:
        log.warning("the parent process died: draining", pid=os.getpid(), calls=self._running_calls)
        self._handle(WorkerEvent.PARENT_DIED)

    def _handle(self, event: WorkerEvent) -> None:
        before = self._life.state
        step = self._life.handle(event, time.monotonic())
        if step.state is WorkerState.DRAINING and before is not WorkerState.DRAINING and self._parent:
            self._parent.report_draining()
        pool = self._services.calls.pool
        if pool is not None and event in (WorkerEvent.PORT_HANDED_OVER, WorkerEvent.PARENT_DIED):
            pool.leave(successor=event is WorkerEvent.PORT_HANDED_OVER)
        if self._life.refuses_calls and not self._services.active.draining:
            self._services.active.draining = True
            self._services.calls.awaited.drain()
            if pool is not None:
                pool.drain()
        if step.closes_port:
            self._server.close_port()
        if self._life.state is not WorkerState.SERVING:
            self._server.end_keep_alive(close_idle=self._life.state is not WorkerState.LEAVING_PORT)

    def _tick(self, counter: int) -> bool:
        """Do the periodic work of tick number `counter`. Return True once the server is to stop."""
        self._fd_reserve.release_if_needed()
        if counter % ALIVE_TICKS == 0 and self._parent is not None:
            self._parent.report_alive()
        if counter % TICKS_PER_SECOND == 0:
            self._limits.log_rejected()
            self._fd_reserve.restore_if_possible()
            self._stray_signals.report()
        if self._certificate is not None and counter % (int(RELOAD_CHECK_S) * TICKS_PER_SECOND) == 0:
            self._certificate.reload_if_changed()
        now = time.monotonic()
        running_calls = self._running_calls
        for event in self._life.due_events(now, running_calls):
            self._handle(event)
        if self._life.refuses_calls and running_calls and now >= self._next_drain_log:
            log.info("draining", calls=running_calls, seconds_left=round(self._life.seconds_left(now)))
            self._next_drain_log = now + DRAIN_LOG_INTERVAL_S
        if self._life.state is not WorkerState.STOPPING:
            return False
        if self._parent is not None:
            self._parent.report_ending()
        return True

    @property
    def _running_calls(self) -> int:
        services, nodes = self._services, self._services.calls.nodes
        awaited = services.calls.awaited.running + (0 if nodes is None else nodes.passing)
        return len(services.active) + awaited + services.bots.running + services.outbound.running

    # SIGHUP

    def _hang_up(self) -> None:
        """Read the certificate again, and the configuration, unless the parent process does that."""
        if self._certificate is None:
            log.info("there is no certificate to read again")
        else:
            self._certificate.reload()
        source = self._parent.source if self._parent is not None else None
        if source is not None:
            self._configure(lambda: source.read_again(self._services.calls.settings))

    def _take_settings(self, read: Callable[[], Settings]) -> None:
        self._configure(read)

    def _configure(self, read: Callable[[], Settings | None]) -> None:
        """Go on with the settings that `read` returns; it is called in a thread, and None changes nothing."""
        task = asyncio.create_task(self._read_and_apply(read), name="configuration")
        self._configuring_tasks.add(task)
        task.add_done_callback(self._configuring_tasks.discard)

    async def _read_and_apply(self, read: Callable[[], Settings | None]) -> None:
        def prepare() -> reconfiguration.Reconfiguration | None:
            settings = read()
            return None if settings is None else reconfiguration.read(settings)

        async with self._configuring:  # one after another, as they came
            try:
                prepared = await asyncio.to_thread(prepare)
            except Exception as error:  # noqa: BLE001 - the edge of the task: whatever it is, nothing has changed
                self._cannot_configure(str(error))
            else:
                if prepared is not None:
                    reconfiguration.apply(self._services.calls, prepared)
                    await reconfiguration.note(self._services.calls)

    def _cannot_configure(self, error: str) -> None:
        """Stay as it was. A worker beside others, which have taken the settings, leaves instead."""
        log.error("the configuration stays as it was", error=error)
        if self._parent is not None and self._parent.source is None:
            self._handle(WorkerEvent.SIGTERM)  # the parent starts another, which has them
