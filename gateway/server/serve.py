# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay serve`: the processes behind the one port.

One worker runs in the process itself. Several are children (worker_processes.py), each with a socket of its
own on the same port, and restarted when they die. How a worker stops is the table in worker_state.py.

`patchbay serve --replace PID` takes the port over from a running gateway (takeover.py), which then lets its
running calls finish and ends. SIGHUP reloads the certificate (tls.py).
"""

from __future__ import annotations

import structlog

from gateway.config import Settings, unauthenticated_access
from gateway.fastpath import accelerator
from gateway.observability.log import logging_as
from gateway.server import takeover
from gateway.server.port import bind_port
from gateway.server.tls import CertificateUnusable, load_certificate
from gateway.server.worker import serve
from gateway.server.worker_processes import WorkerProcesses

log = structlog.get_logger(__name__)


def run(settings: Settings, *, replace: int | None = None) -> int:
    """Serve until a signal stops the gateway, and return the exit status of the process.

    `replace`: the process id of the gateway whose port is to be taken over. The status is 0 after a drain, 1
    if the certificate or the port cannot be used, and `worker.STARTUP_FAILED` if the store cannot be opened.
    """
    with logging_as(settings.server.log_format, settings.server.log_level):
        plan = None
        try:
            # Each worker loads it again; here so that an error is reported before any process starts.
            load_certificate(settings.server)
        except CertificateUnusable as error:
            log.error("cannot start", error=str(error))
            return 1
        try:
            port = bind_port(settings, shared=replace is not None)
            if replace is not None:
                plan = takeover.plan_takeover(replace, port, settings.server.workers)
        except OSError as error:
            address = f"{settings.server.host}:{settings.server.port}"
            log.error("cannot listen", address=address, error=error.strerror or str(error))
            return 1
        with port:
            log.info(
                "patchbay",
                address="{}:{}".format(*port.getsockname()[:2]),
                workers=settings.server.workers,
                agents=len(settings.agents),
                accelerator="c" if accelerator.ACTIVE else "python",
                tls=settings.server.tls_certificate is not None,
            )
            for what, detail in unauthenticated_access(settings):
                log.warning("open without authentication", what=what, words=detail)
            if settings.server.workers == 1:
                return serve(settings, port, takeover=plan)
            return WorkerProcesses(settings, port.getsockname()[1], plan).run()
