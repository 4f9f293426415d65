# SPDX-License-Identifier: BSD-2-Clause
"""Health: is the process alive, may it be sent calls, and what is it doing."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway import __version__
from gateway.calls.switchboard import Switchboard
from gateway.media import accelerator
from gateway.sessions.store import StoreFailed


def health_routes(board: Switchboard) -> list[Route]:
    """`/livez`, `/readyz` and `/status`."""

    async def livez(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> JSONResponse:
        """503 from the moment a stop was asked for, so that nobody sends more calls."""
        if board.draining:
            return JSONResponse({"status": "draining", "calls": len(board.calls)}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def status(_: Request) -> JSONResponse:
        """Counts over all workers, and this worker's own calls."""
        answer: dict[str, object] = {
            "name": "patchbay",
            "version": __version__,
            "region": board.settings.server.region,
            "regions": sorted(board.region_codes),
            "agents": len(board.settings.agents),
            "accelerator": "c" if accelerator.ACTIVE else "python",
            "workers": board.settings.server.workers,
            "draining": board.draining,
            "calls": len(board.calls),
        }
        try:
            counts = await board.store.counts()
        except StoreFailed as error:
            return JSONResponse({**answer, "sessions": None, "store": str(error)})
        answer["sessions"] = {
            "active": counts.total_active,
            "by_state": {str(state): n for state, n in {**counts.active, **counts.over}.items()},
        }
        return JSONResponse({**answer, "store": "ok"})

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/status", status)]
