# SPDX-License-Identifier: BSD-2-Clause
"""The parent process of several workers, each a child process with a socket of its own on the one port."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

import structlog

from gateway.config import Settings
from gateway.observability.log import logging_as
from gateway.server.port import bind
from gateway.server.takeover import HAND_OVER, Takeover
from gateway.server.uvicorn_adapter import STARTUP_FAILED
from gateway.server.worker import serve

log = structlog.get_logger(__name__)

RESTART_DELAY_S = 1.0

_spawn = multiprocessing.get_context("spawn")


class WorkerProcesses:
    """The children of this process: starts them, restarts those that die, and passes signals on to them."""

    def __init__(self, settings: Settings, port_number: int, takeover: Takeover | None) -> None:
        """`takeover`: carried out by the first child."""
        self._settings = settings
        self._port_number = port_number
        self._takeover = takeover
        self._children: list[BaseProcess] = []
        self._is_stopping = False
        self._has_restarted = False
        """From the first restart on a child that cannot start ends no others: the store may come back."""
        self._status = 0

    def run(self) -> int:
        """Start the children, wait until all have ended, and return the exit status.

        The status is 0, or STARTUP_FAILED if a child could not start before any was restarted.
        """
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, HAND_OVER):
            signal.signal(sig, self._stop_on_signal)
        signal.signal(signal.SIGHUP, self._reload_on_signal)
        self._children = [self._start() for _ in range(self._settings.server.workers)]
        while self._children:
            wait([child.sentinel for child in self._children], timeout=RESTART_DELAY_S)
            for child in [child for child in self._children if not child.is_alive()]:
                self._children.remove(child)
                self._child_ended(child)
        return self._status

    def _start(self) -> BaseProcess:
        takeover, self._takeover = self._takeover, None
        # A worker that is started again beside others must not make a store of its own.
        may_create_store = not self._has_restarted
        child = _spawn.Process(
            target=_run_child, args=(self._settings, self._port_number, takeover, may_create_store)
        )
        child.start()
        return child

    def _child_ended(self, child: BaseProcess) -> None:
        if child.exitcode == STARTUP_FAILED and not self._has_restarted:
            self._status = STARTUP_FAILED
            self._stop(signal.SIGTERM)
        elif not self._is_stopping:
            log.error("a worker died and is started again", pid=child.pid, exit_status=child.exitcode)
            time.sleep(RESTART_DELAY_S)  # a worker that dies at once must not keep the machine busy
            if not self._is_stopping:
                self._has_restarted = True
                self._children.append(self._start())

    def _stop_on_signal(self, sig: int, _frame: FrameType | None) -> None:
        """Pass a signal on.

        Children ignore SIGINT: the first one is a SIGTERM to them, the second a SIGQUIT.
        """
        if sig == signal.SIGINT:
            sig = signal.SIGQUIT if self._is_stopping else signal.SIGTERM
        self._stop(signal.Signals(sig))

    def _reload_on_signal(self, _sig: int, _frame: FrameType | None) -> None:
        self._signal_children(signal.SIGHUP)

    def _stop(self, sig: signal.Signals) -> None:
        self._is_stopping = True
        self._signal_children(sig)

    def _signal_children(self, sig: signal.Signals) -> None:
        for child in self._children:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, sig)


def _run_child(
    settings: Settings, port_number: int, takeover: Takeover | None, may_create_store: bool
) -> None:
    """Run one worker in a child process, on a socket of its own. Raises SystemExit with its status."""
    with (
        logging_as(settings.server.log_format, settings.server.log_level),
        bind(settings.server.host, port_number, reuse_port=True) as port,
    ):
        status = serve(settings, port, is_child=True, takeover=takeover, may_create_store=may_create_store)
    raise SystemExit(status)
