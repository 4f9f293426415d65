# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay serve`: the processes behind the one port.

One worker runs in the process itself. Several are children, each with a socket of its own on the same
port (SO_REUSEPORT: the kernel spreads the connections evenly), started again when they die.

SIGTERM drains: `/readyz` answers 503 and new calls are refused, both still by the open port, the running
calls go on; the process exits 0 when the last has ended or `drain_timeout` is over. The first Ctrl-C does
the same; a second one, or SIGQUIT, ends the calls at once.

A gateway can be replaced while calls come: `patchbay serve --replace PID` takes the port over from another
(gateway/server/takeover.py), which then lets its running calls finish and ends.

SIGHUP reads the certificate again (gateway/server/tls.py).
"""

from __future__ import annotations

import structlog

from gateway.config import Settings
from gateway.fastpath import accelerator
from gateway.observability.log import logging_as
from gateway.server import port, takeover
from gateway.server.tls import CertificateUnusable
from gateway.server.worker import certificate_of, serve
from gateway.server.worker_processes import Workers

log = structlog.get_logger(__name__)


def run(settings: Settings, *, replace: int | None = None) -> int:
    """Serves until told to stop. Returns the exit status: 0 after a drain, 1 where it could not start for
    what it was given, STARTUP_FAILED where it could not for its store.

    `replace`: the process id of the gateway whose port is to be taken over.
    """
    with logging_as(settings.server.log_format, settings.server.log_level):
        taken = None
        try:
            certificate_of(settings)  # in each worker again; here so that it is said before anything runs
        except CertificateUnusable as error:
            log.error("cannot start", error=str(error))
            return 1
        try:
            reserved = port.reserve(settings, shared=replace is not None)
            if replace is not None:
                taken = takeover.plan(replace, reserved, settings.server.workers)
        except OSError as error:
            where = f"{settings.server.host}:{settings.server.port}"
            log.error("cannot listen", address=where, error=error.strerror or str(error))
            return 1
        with reserved:
            address = "{}:{}".format(*reserved.getsockname()[:2])
            log.info(
                "patchbay",
                address=address,
                workers=settings.server.workers,
                agents=len(settings.agents),
                accelerator="c" if accelerator.ACTIVE else "python",
                tls=settings.server.tls_certificate is not None,
            )
            if settings.server.workers == 1:
                status = serve(settings, reserved, taken=taken)
            else:
                status = Workers(settings, reserved.getsockname()[1], taken).run()
    return status
