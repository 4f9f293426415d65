# SPDX-License-Identifier: BSD-2-Clause
"""The parent process of several workers, each a child process with a socket of its own on the one port.

The parent starts a worker again that died, passes signals on, and stands in for a worker that does not
answer: it has a copy of each worker's socket, accepts what comes there, and gives it to a worker that does
answer. So a worker that stands still, dies or starts again takes no new caller with it. No call passes
through here otherwise.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Final

import structlog

from gateway.config import Settings
from gateway.observability.log import logging_as
from gateway.server.configuration_source import ConfigurationSource
from gateway.server.exit_status import NOT_TAKEN_OVER, STARTUP_FAILED
from gateway.server.port import drain_backlog
from gateway.server.port_ownership import PortOwnership
from gateway.server.service_manager import ServiceManager
from gateway.server.stray_signals import StraySignals
from gateway.server.takeover import Takeover
from gateway.server.worker_link import (
    ALIVE,
    DRAINING,
    ENDING,
    TAKEN_OVER,
    TAKEOVER_FAILED,
    ParentProcess,
    WorkerChannel,
    settings_file,
)

log = structlog.get_logger(__name__)

RESTART_DELAY_S: Final = 1.0
"""A worker that dies at once must not keep the machine busy."""

LOOK_S: Final = 0.5
"""How often the parent looks after its workers."""

SILENT_S: Final = 3.0
"""A worker that has not reported for so long gets no new connections until it does."""

KILL_S: Final = 15.0
"""A worker that has not reported for so long is killed and started again: its calls are silent anyway."""

START_S: Final = 60.0
"""A worker that does not serve so long after its start is worth a line."""

END_S: Final = 60.0
"""A worker that ends for longer is killed."""

SIGBUS_WORDS: Final = "SIGBUS: a file in its memory was shortened, as the store's -shm"

MAX_ACCEPTS: Final = 64
"""Connections that are accepted for a worker at a time."""

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

_spawn = multiprocessing.get_context("spawn")


class WorkerProcess:
    """One worker: its socket on the port, and the child process that serves it now. For the main thread."""

    def __init__(self, port: socket.socket) -> None:
        """`port`: bound. The worker makes it listen."""
        self.port: socket.socket | None = port
        """None once this gateway leaves its port, or another worker has the socket."""
        self.process: BaseProcess | None = None
        self.channel: WorkerChannel | None = None
        self.restart_at: float | None = None
        """When to start a process again, in seconds of the monotonic clock."""
        self.reported_at: float | None = None
        """When the process reported last; None if it has not served yet."""
        self.started_at = 0.0
        """When the process was started, until a line says that it takes too long; then infinite."""
        self.drains_since: float | None = None
        """Since when the process refuses new calls."""
        self.ends_since: float | None = None
        """Since when the process closes its connections and ends."""
        self.is_silent = False
        self.is_killed = False
        self.is_listening = False
        """Whether some process has made the socket listen."""
        self.wants_settings = False
        """Whether the process is to have the settings, which have changed since it was started."""

    @property
    def answers(self) -> bool:
        """Whether the worker serves new connections."""
        serves = self.reported_at is not None and self.drains_since is None and self.ends_since is None
        return serves and not self.is_silent

    def start(
        self, settings: Settings, takeover: Takeover | None = None, *, may_create_store: bool = True
    ) -> None:
        """Start a child process. `may_create_store`: if not, the store must exist."""
        assert self.port is not None
        self.restart_at = None
        self.channel = WorkerChannel()
        arguments = (settings, self.port, self.channel.worker_end, takeover, may_create_store)
        self.process = _spawn.Process(target=_run_child, args=arguments)
        self.process.start()
        self.started_at = time.monotonic()
        self.channel.worker_end.close()

    def hand_socket_on(self) -> WorkerProcess:
        """Return a worker without a process that has the socket from now on; this one keeps its calls."""
        assert self.port is not None
        successor = WorkerProcess(self.port)
        successor.is_listening = self.is_listening
        self.port = None
        if self.channel is not None:
            self.channel.close_port()
        return successor

    def forget_process(self) -> None:
        """Note that the process has ended."""
        if self.channel is not None:
            self.channel.close()
        self.process = self.channel = self.reported_at = self.drains_since = self.ends_since = None
        self.is_silent = self.is_killed = self.wants_settings = False

    def close_port(self) -> None:
        """Close the copy of the worker's socket: nothing is accepted for it any more."""
        if self.port is not None:
            self.port.close()
            self.port = None


class WorkerProcesses:
    """The children of this process."""

    def __init__(
        self,
        settings: Settings,
        ports: list[socket.socket],
        ownership: PortOwnership,
        takeover: Takeover | None,
        manager: ServiceManager,
    ) -> None:
        """`ports`: one socket for each worker, bound. `takeover`: carried out by the first worker.

        `manager`: whatever started this process.
        """
        self._settings = settings
        self._source: ConfigurationSource | None = None
        self._workers = [WorkerProcess(port) for port in ports]
        self._ownership = ownership
        self._takeover = takeover
        self._manager = manager
        self._awaits_takeover = takeover is not None
        self._is_ending = False
        """Whether no worker is started again."""
        self._is_draining = False
        self._has_restarted = False
        """From the first restart on a child that cannot start ends no others: the store may come back."""
        self._status = 0
        self._looked_at = time.monotonic()
        self._stray_signals = StraySignals()
        self._signals: deque[int] = deque()
        self._leaves_port = False
        """Set by the thread of the control socket."""
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)

    def run(self, source: ConfigurationSource | None = None) -> int:
        """Start the children, wait until all have ended, and return the exit status.

        `source`: where SIGHUP reads the configuration again; None for nowhere.

        The status is 0, STARTUP_FAILED if a child could not start before any was restarted, or
        NOT_TAKEN_OVER.
        """
        self._source = source
        self._install_signal_handlers()
        self._ownership.start(self._leave_soon)
        for worker in self._workers:
            worker.start(self._settings, self._takeover)
            if self._takeover is not None:
                self._takeover.old.close()  # the first worker has it now
                self._takeover = None
        while any(worker.process or worker.restart_at for worker in self._workers):
            self._wait()
            self._manager.report_alive()
            self._handle_signals()
            for worker in list(self._workers):
                self._receive(worker)
                self._note_end(worker)
            self._look_after_workers(time.monotonic())
            self._stand_in()
        signal.set_wakeup_fd(-1)
        self.close()
        return self._status

    def close(self) -> None:
        """Close the sockets of this object; `run` has done so."""
        self._waker.close()
        self._woken.close()
        for worker in self._workers:
            worker.close_port()

    # Events

    def _install_signal_handlers(self) -> None:
        """Queue signals for `run`: a handler may interrupt any of its lines."""

        def queue(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)

        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, queue)
        self._stray_signals.install()
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def _leave_soon(self) -> None:
        """Leave the port in `run`. For the thread of the control socket."""
        self._leaves_port = True
        with suppress(BlockingIOError):  # it is awake
            self._waker.send(b"\0")

    def _wait(self) -> None:
        """Wait for a signal, a message, the end of a child, or a connection that nobody else accepts."""
        waited: list[Any] = [self._woken]
        for worker in self._workers:
            if worker.process is not None:
                waited.append(worker.process.sentinel)
            if worker.channel is not None and worker.channel.is_open:
                waited.append(worker.channel)
        if self._who_answers():
            waited += [worker.port for worker in self._unattended()]
        wait(waited, timeout=LOOK_S)
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _handle_signals(self) -> None:
        if self._leaves_port:
            self._leaves_port = False
            self._leave_port()
        while self._signals:
            number = self._signals.popleft()
            if number == signal.SIGHUP:
                if signal.SIGHUP not in self._signals:  # several at once are one
                    self._reload()
                continue
            if number == signal.SIGINT:
                # Children ignore it: the first one is a SIGTERM to them, the second a SIGQUIT.
                number = signal.SIGQUIT if self._is_draining else signal.SIGTERM
            self._is_draining = True
            self._stop(number)

    def _reload(self) -> None:
        """Let the certificate and the configuration be read again.

        A worker that starts reads both anyhow, and the signal would end it before it has its handler.
        """
        for worker in self._workers:
            if worker.reported_at is not None:
                self._signal(worker, signal.SIGHUP)
        self._read_configuration()

    def _read_configuration(self) -> None:
        """Read the configuration again, and let the workers have it. One that starts later has it, too."""
        if self._source is None or (settings := self._source.read_again(self._settings)) is None:
            return
        self._settings = settings
        for worker in self._workers:
            worker.wants_settings = worker.process is not None
        self._pass_settings()

    def _pass_settings(self) -> None:
        """Give the settings to the workers that have not had them."""
        waiting = [worker for worker in self._workers if worker.wants_settings]
        if not waiting:
            return
        try:
            with settings_file(self._settings) as file:
                for worker in waiting:
                    assert worker.channel is not None
                    worker.wants_settings = not worker.channel.pass_settings(file)
        except OSError as error:  # no descriptor is free; it is tried again soon
            log.error("the configuration cannot be passed on", error=str(error))

    def _receive(self, worker: WorkerProcess) -> None:
        if worker.channel is None or not worker.channel.is_open:
            return
        messages = worker.channel.receive()
        if ALIVE in messages:
            worker.reported_at = time.monotonic()
            worker.is_listening = True
            if all(each.reported_at is not None for each in self._workers):
                self._ownership.all_listen()
        if DRAINING in messages:
            worker.drains_since = time.monotonic()
        if ENDING in messages:
            worker.ends_since = time.monotonic()
        if TAKEN_OVER in messages:
            self._awaits_takeover = False
            self._ownership.taken_over()
        if TAKEOVER_FAILED in messages:
            self._not_taken_over()

    def _note_end(self, worker: WorkerProcess) -> None:
        child = worker.process
        if child is None or child.is_alive():
            return
        worker.forget_process()
        if worker.port is None and not self._is_ending:  # another worker has taken its place
            self._workers.remove(worker)
        elif child.exitcode == STARTUP_FAILED and not self._has_restarted:
            self._status = STARTUP_FAILED
            self._stop(signal.SIGTERM)
        elif self._awaits_takeover and worker is self._workers[0] and not self._is_ending:
            log.error("the port was not taken over", error="the worker that was to take it has died")
            self._not_taken_over()
        elif not self._is_ending:
            line = log.bind(pid=child.pid, exit_status=child.exitcode)
            if child.exitcode == -signal.SIGBUS:
                line = line.bind(words=SIGBUS_WORDS)
            line.error("a worker died and is started again")
            worker.restart_at = time.monotonic() + RESTART_DELAY_S

    # Workers that do not answer

    def _look_after_workers(self, now: float) -> None:
        """Start workers again that died; note, and in the end kill, those that do not report."""
        self._stray_signals.report()
        self._pass_settings()
        stood_still = now - self._looked_at > SILENT_S
        self._looked_at = now
        for worker in list(self._workers):
            if worker.restart_at is not None and now >= worker.restart_at:
                self._restart(worker, now)
            if (
                worker.process is not None
                and worker.reported_at is None
                and now - worker.started_at > START_S
            ):
                worker.started_at = math.inf
                log.warning("a worker takes long to start", pid=worker.process.pid, seconds=START_S)
            if worker.process is None or worker.reported_at is None:
                continue
            if self._drains_by_itself(worker, now):
                log.warning("a worker drains by itself, and another is started", pid=worker.process.pid)
                self._workers.append(successor := worker.hand_socket_on())
                self._restart(successor, now)
            if stood_still:  # this process, and the workers perhaps as well: nobody is to blame
                worker.reported_at = now
            if worker.ends_since is None:
                self._judge(worker, worker.process, round(now - worker.reported_at, 1))
            elif now - worker.ends_since >= END_S:
                self._kill(worker, worker.process, round(now - worker.ends_since, 1))

    def _drains_by_itself(self, worker: WorkerProcess, now: float) -> bool:
        """Return True if somebody has told one worker to drain, and not this process, since a moment ago.

        A service manager may tell all processes at once, and this one last.
        """
        if worker.drains_since is None or worker.port is None or self._is_ending:
            return False
        return now - worker.drains_since >= RESTART_DELAY_S

    def _restart(self, worker: WorkerProcess, now: float) -> None:
        self._has_restarted = True
        try:
            # A worker that is started again beside others must not make a store of its own.
            worker.start(self._settings, may_create_store=False)
        except OSError as error:  # no process or descriptor is free
            log.error("a worker cannot be started", error=str(error))
            worker.forget_process()
            worker.restart_at = now + RESTART_DELAY_S

    def _judge(self, worker: WorkerProcess, child: BaseProcess, silent_s: float) -> None:
        if silent_s < SILENT_S:
            if worker.is_silent:
                worker.is_silent = False
                log.warning("a worker answers again", pid=child.pid)
            return
        if not worker.is_silent:
            worker.is_silent = True
            log.error(
                "a worker does not answer: the others get its new connections",
                pid=child.pid,
                seconds=silent_s,
                process=_state_of(child.pid),
            )
        if silent_s >= KILL_S:
            self._kill(worker, child, silent_s)

    def _kill(self, worker: WorkerProcess, child: BaseProcess, seconds: float) -> None:
        if not worker.is_killed:
            worker.is_killed = True
            log.error("a worker that does not answer is killed", pid=child.pid, seconds=seconds)
            child.kill()

    def _who_answers(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker.answers]

    def _unattended(self) -> list[WorkerProcess]:
        """Return the workers that do not answer, and whose sockets listen nevertheless."""
        return [w for w in self._workers if not w.answers and w.is_listening and w.port is not None]

    def _stand_in(self) -> None:
        """Accept connections for workers that do not answer, and give them to the others in turn."""
        answering = deque(self._who_answers())
        for worker in self._unattended() if answering else ():
            assert worker.port is not None
            for connection in drain_backlog(worker.port, MAX_ACCEPTS):
                with connection:  # the worker has its own copy
                    for other in answering:
                        assert other.channel is not None
                        if other.channel.pass_connection(connection):
                            break
                answering.rotate()

    # Ends

    def _not_taken_over(self) -> None:
        """Leave the port to the old gateway, which goes on."""
        self._awaits_takeover = False
        self._status = NOT_TAKEN_OVER
        self._leave_port()

    def _leave_port(self) -> None:
        """Let the workers leave the port, which another gateway has, and end."""
        self._end()
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.leave_port()

    def _stop(self, number: int) -> None:
        self._end()
        self._signal_children(number)

    def _end(self) -> None:
        """Start no worker again, and accept nothing for any: only their own sockets are left."""
        self._is_ending = True
        for worker in self._workers:
            worker.restart_at = None
            worker.close_port()

    def _signal_children(self, number: int) -> None:
        for worker in self._workers:
            self._signal(worker, number)

    def _signal(self, worker: WorkerProcess, number: int) -> None:
        child = worker.process
        if child is not None and child.pid is not None and child.is_alive():
            os.kill(child.pid, number)


def _state_of(pid: int | None) -> str:
    """Return what a process does, as in "T (stopped)" (proc_pid_status(5)); "" if that cannot be read."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    return next((line.partition("\t")[2] for line in status.splitlines() if line.startswith("State:")), "")


def _run_child(
    settings: Settings,
    port: socket.socket,
    channel: socket.socket,
    takeover: Takeover | None,
    may_create_store: bool,
) -> None:
    """Run one worker in a child process, on a socket of its own. Raises SystemExit with its status."""
    # Not at the top: the parent, which imports this module too, watches and serves nothing.
    from gateway.server.worker import serve  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole process group
    with logging_as(settings.server.log_format, settings.server.log_level), port:
        status = serve(settings, port, ParentProcess(channel), takeover, may_create_store=may_create_store)
    raise SystemExit(status)
