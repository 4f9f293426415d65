# SPDX-License-Identifier: BSD-2-Clause
"""The end of a call or session, set once.

A call can end in any step and from anywhere: the caller hangs up while the agent starts, the API stops the
session, the gateway drains. Whatever notices it sets the end. The first end counts; it interrupts the step
that the call is in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.media.disconnect import Disconnect
from gateway.model.reasons import CallEnded


class Termination:
    """One call's end, None until it is set. It belongs to the call's event loop.

    `received_close`: the close code and reason that the far end sent, if the call ended with that; they are
    passed on to the other far end. None for every other end.
    """

    __slots__ = ("_on_set", "end", "received_close")

    def __init__(self) -> None:
        self.end: CallEnded | None = None
        self.received_close: tuple[int, str] | None = None
        self._on_set: Callable[[CallEnded], None] | None = None

    def set(self, end: CallEnded, received_close: tuple[int, str] | None = None) -> None:
        """Set the end, unless it is set already. May be called from any callback of the event loop."""
        if self.end is None:
            self.end = end
            self.received_close = received_close
            if self._on_set is not None:
                self._on_set(end)

    def set_by_far_end(self, disconnect: Disconnect, end: CallEnded) -> None:
        """Set the end of a call whose far end has left, and keep what it closed with, if anything."""
        self.set(end, (disconnect.code, disconnect.reason) if disconnect.has_code else None)

    @asynccontextmanager
    async def cancel_scope(self) -> AsyncIterator[None]:
        """Run the body of a `with` statement until it is done or the end is set.

        Raises the end, also one that was set just when the body was done.
        """
        try:
            async with asyncio.timeout(None) as scope:
                loop = asyncio.get_running_loop()
                self._on_set = lambda _end: scope.reschedule(loop.time())
                if self.end is not None:
                    self._on_set(self.end)
                yield
        except TimeoutError:
            if self.end is None:
                raise
        finally:
            self._on_set = None
        if self.end is not None:
            raise self.end

    def hand_over(self, end_call: Callable[[CallEnded], None]) -> None:
        """Call `end_call` when the end is set; at once, if it is set already."""
        self._on_set = end_call
        if self.end is not None:
            end_call(self.end)

    def release(self) -> None:
        """Call nothing any more when the end is set. This breaks the reference cycle with the relay."""
        self._on_set = None
