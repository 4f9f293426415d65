# SPDX-License-Identifier: BSD-2-Clause
"""Health: whether the process is alive, whether it accepts calls, and its counts."""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway import __version__
from gateway.calls.active import ActiveCalls
from gateway.calls.services import CallServices
from gateway.fastpath import accelerator
from gateway.model.reasons import Reasons
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)


def health_routes(services: CallServices, active: ActiveCalls) -> list[Route]:
    """Return the routes `/livez`, `/readyz` and `/status`."""

    async def livez(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> JSONResponse:
        """Answer 503 while new calls are refused, so that a load balancer sends them elsewhere.

        The store is not asked: a heartbeat does that every few seconds.
        """
        if active.draining:
            return JSONResponse({"status": "draining", "calls": len(active)}, status_code=503)
        if not services.store.admits:
            return JSONResponse({"status": Reasons.store_failed.code, "calls": len(active)}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def status(_: Request) -> JSONResponse:
        """Answer with the counts of all workers and the number of this worker's calls."""
        answer: dict[str, object] = {
            "name": "patchbay",
            "version": __version__,
            "region": services.settings.server.region,
            "regions": sorted(services.region_codes),
            "agents": len(services.settings.agents),
            "accelerator": "c" if accelerator.ACTIVE else "python",
            "workers": services.settings.server.workers,
            "draining": active.draining,
            "calls": len(active),
        }
        if services.pool is not None and services.pool.pool.agents():
            answer["instances"] = services.pool.pool.counts()
        try:
            counts = await services.store.counts()
        except StoreFailed as error:
            log.warning("store", error=str(error))  # the answer says no more than that: it needs no key
            return JSONResponse({**answer, "sessions": None, "store": Reasons.store_failed.sentence})
        answer["sessions"] = {
            "active": counts.total_active,
            "by_state": {str(state): n for state, n in {**counts.active, **counts.over}.items()},
        }
        return JSONResponse({**answer, "store": "ok"})

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/status", status)]
