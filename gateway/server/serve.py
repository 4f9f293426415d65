# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay serve`: the processes behind the one port.

One worker runs in the process itself. Several are children (worker_processes.py), each with a socket of its
own on the same port, and restarted when they die. How a worker stops is the table in worker_state.py.

`patchbay serve --replace PID` takes the port over from a running gateway (takeover.py), which then lets its
running calls finish and ends. SIGHUP reloads the certificate (tls.py), and the configuration
(configuration_source.py): the process that was started reads it, and gives it to its workers.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial

import structlog

from gateway.config import Settings, unauthenticated_access
from gateway.fastpath import accelerator
from gateway.observability.log import logging_as
from gateway.server.configuration_source import ConfigurationSource
from gateway.server.control_socket import ReplaceRefusedError
from gateway.server.exit_status import CANNOT_START
from gateway.server.port import address_of, bind_port, start_lock
from gateway.server.port_ownership import PortOwnership
from gateway.server.service_manager import ServiceManager
from gateway.server.stray_signals import ignore_while_starting
from gateway.server.takeover import plan_takeover, reserve
from gateway.server.tls import CertificateUnusable, load_certificate
from gateway.server.worker_link import SoleProcess
from gateway.server.worker_processes import WorkerProcesses

log = structlog.get_logger(__name__)


def run(settings: Settings, *, replace: int | None = None, source: ConfigurationSource | None = None) -> int:
    """Serve until a signal stops the gateway, and return the exit status of the process.

    `replace`: the process id of the gateway whose port is to be taken over. `source`: where SIGHUP reads the
    configuration again; None for nowhere. The status is 0 after a drain, CANNOT_START, or STARTUP_FAILED if
    the store cannot be opened.
    """
    ignore_while_starting()
    with logging_as(settings.server.log_format, settings.server.log_level):
        configured = f"{settings.server.host}:{settings.server.port}"
        try:
            # Each worker loads it again; here so that an error is reported before any process starts.
            load_certificate(settings.server)
            return _run(settings, replace, configured, source)
        except CertificateUnusable as error:
            log.error("cannot start", error=str(error))
        except ReplaceRefusedError as error:
            log.error("cannot replace", pid=replace, error=str(error))
        except OSError as error:
            log.error("cannot listen", address=configured, error=error.strerror or str(error))
        return CANNOT_START


def _run(settings: Settings, replace: int | None, configured: str, source: ConfigurationSource | None) -> int:
    """Do the same. Raises ReplaceRefusedError, and OSError if the port cannot be bound."""
    with ExitStack() as held:
        old = None if replace is None else reserve(replace, configured)
        if old is not None:
            held.callback(old.close)
        lock = start_lock(settings) if old is None else None
        if lock is not None:
            held.enter_context(lock)
        ports = bind_port(settings, shared=old is not None)
        for port in ports:
            held.enter_context(port)
        takeover = None if old is None else plan_takeover(old, ports[0], settings.server.workers)
        address = address_of(ports[0])
        manager = ServiceManager.of_this_process(os.environ)
        held.callback(manager.close)
        announce = partial(_started, settings, address, manager)
        ownership = PortOwnership(address, lock, announce, is_takeover=takeover is not None)
        held.callback(ownership.close)
        for what, detail in unauthenticated_access(settings):
            log.warning("open without authentication", what=what, words=detail)
        if settings.server.workers == 1:
            # Not at the top: the parent of several workers serves nothing itself.
            from gateway.server.worker import serve  # noqa: PLC0415

            return serve(settings, ports[0], SoleProcess(ownership, manager, source), takeover)
        return WorkerProcesses(settings, ports, ownership, takeover, manager).run(source)


def _started(settings: Settings, address: str, manager: ServiceManager) -> None:
    """Log that every worker listens, and tell the service manager. Whoever waits for either may call."""
    manager.report_ready()
    log.info(
        "patchbay",
        address=address,
        pid=os.getpid(),
        workers=settings.server.workers,
        agents=len(settings.agents),
        accelerator="c" if accelerator.ACTIVE else "python",
        tls=settings.server.tls_certificate is not None,
    )
