# SPDX-License-Identifier: BSD-2-Clause
"""The parent of several workers, each a child process with a socket of its own on the one port."""

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
from gateway.server.worker import STARTUP_FAILED, serve

log = structlog.get_logger(__name__)

RESTART_DELAY_S = 1.0

_spawn = multiprocessing.get_context("spawn")


class Workers:
    """Starts them, starts them again, passes on what it is told."""

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


def _work(settings: Settings, port_number: int, taken: Takeover | None) -> None:
    """A child process: one worker on a socket of its own."""
    with (
        logging_as(settings.server.log_format, settings.server.log_level),
        bind(settings.server.host, port_number, reuse_port=True) as port,
    ):
        status = serve(settings, port, is_child=True, taken=taken)
    raise SystemExit(status)
