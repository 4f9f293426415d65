# SPDX-License-Identifier: BSD-2-Clause
"""Turns of requests that came before the answer to an earlier one of their connection (RFC 9112 §9.3.2)."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.framework.turns import Turns


class RequestTurns:
    """One such request begins in each iteration of the event loop, whichever connection it is of.

    So a few clients that send hundreds of requests at once take little time from calls.
    """

    def __init__(self) -> None:
        self._turns: Turns | None = None  # until the event loop runs

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn, one of a connection at most."""
        return self._turns.waiting if self._turns is not None else 0

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run an application for one request when its turn comes."""
        if self._turns is None:
            self._turns = Turns(asyncio.get_running_loop())
        await self._turns.next()
        await app(scope, receive, send)
