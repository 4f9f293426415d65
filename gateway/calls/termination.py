# SPDX-License-Identifier: BSD-2-Clause
"""How a call ends, decided once.

A call can end at any step, and from anywhere: the caller hangs up while the agent starts, somebody stops
the session, the gateway goes away. Whoever knows it decides; the first decision counts, and interrupts
whatever step the call is in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.model.reasons import CallEnded


class Termination:
    """One call's end, once it is known."""

    __slots__ = ("_interrupt", "end")

    def __init__(self) -> None:
        self.end: CallEnded | None = None
        self._interrupt: Callable[[CallEnded], None] | None = None

    def decide(self, end: CallEnded) -> None:
        """The call ends with this, unless its end is decided already. May be called from any callback."""
        if self.end is None:
            self.end = end
            if self._interrupt is not None:
                self._interrupt(end)

    @asynccontextmanager
    async def interrupting(self) -> AsyncIterator[None]:
        """A step that a decision ends at once. Raises the decision, also one taken as the step was done."""
        try:
            async with asyncio.timeout(None) as scope:
                loop = asyncio.get_running_loop()
                self._interrupt = lambda _end: scope.reschedule(loop.time())
                if self.end is not None:
                    self._interrupt(self.end)
                yield
        except TimeoutError:
            if self.end is None:
                raise
        finally:
            self._interrupt = None
        if self.end is not None:
            raise self.end

    def hand_over(self, end_call: Callable[[CallEnded], None]) -> None:
        """From here on a decision goes to `end_call`, also one that was taken meanwhile."""
        self._interrupt = end_call
        if self.end is not None:
            end_call(self.end)

    def let_go(self) -> None:
        """The call is over: a decision goes to nobody."""
        self._interrupt = None
