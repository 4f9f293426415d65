# SPDX-License-Identifier: BSD-2-Clause
"""What is about to be done with a session's call, told to the worker that carries it before it is done.

Whoever hangs a call up or transfers it asks the carrier for it, from any worker. The carrier then closes the
stream, which looks like a caller who hung up. So the worker that carries the session is told first, and who
asks waits until it has heard: it then ends the session with the right reason, and keeps the agent's socket
open where closing it would have the agent hang up (docs/reference/carriers.md §8.3).
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from gateway.model.reasons import Reasons
from gateway.store.interface import KeyValueStore

HEARD_S: Final = 2.0
"""A worker looks ten times a second."""
POLL_S: Final = 0.03
KEPT_S: Final = 30.0

_WISH: Final = "call_wish"
_HEARD: Final = "call_wish_heard"


class CallCommand(StrEnum):
    """What is about to be done."""

    NOTHING = "nothing"
    """What was wished did not come to pass."""
    GIVE_UP = "give_up"
    """To hang up while it rings; of the worker that dialled."""
    HANG_UP = "hang_up"
    MACHINE = "machine"
    """To hang up, because a machine answered."""
    TRANSFER = "transfer"
    TRANSFERRED = "transferred"
    """The carrier has taken the transfer."""
    OVER = "over"
    """Nothing: the carrier says that the call is over."""


REASON_BY_COMMAND: Final = {
    CallCommand.GIVE_UP: Reasons.hung_up,
    CallCommand.HANG_UP: Reasons.hung_up,
    CallCommand.MACHINE: Reasons.machine_answered,
    CallCommand.TRANSFER: Reasons.transferred,
    CallCommand.TRANSFERRED: Reasons.transferred,
}
"""How a session ends of which this was wished."""


class CommandBus:
    """CommandBus of all workers. Its methods may raise StoreFailed."""

    def __init__(self, documents: KeyValueStore, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._documents = documents
        self._now = now
        self._hear: Callable[[str, CallCommand], bool] = lambda session_id, command: False
        self._told: dict[str, str] = {}

    def connect(self, deliver: Callable[[str, CallCommand], bool]) -> None:
        """Deliver commands for this worker's sessions to `deliver`, which returns False if it has no such
        session.
        """
        self._hear = deliver

    async def tell(self, session_id: str, wish: CallCommand) -> bool:
        """Tells whoever carries the session; whether anybody has heard it, within HEARD_S."""
        if self._hear(session_id, wish):
            return True
        name = f"{session_id}/{uuid.uuid4().hex}"
        now = self._now()
        value = json.dumps({"wish": wish, "name": name})
        await self._documents.put(_WISH, session_id, value, now=now, expires_at=now + KEPT_S)
        loop = asyncio.get_running_loop()
        until = loop.time() + HEARD_S
        while loop.time() < until:
            await asyncio.sleep(POLL_S)
            if await self._documents.get(_HEARD, name, self._now()) is not None:
                return True
        await self._documents.delete(_WISH, session_id)  # who could hear it only now would hear it too late
        return False

    async def look(self) -> None:
        """Hears what other workers wish; to be called when anything was written."""
        now = self._now()
        found = await self._documents.list(_WISH, now)
        there = {document.key for document in found}
        self._told = {session: name for session, name in self._told.items() if session in there}
        for document in found:
            said = json.loads(document.value)
            name = said["name"]
            if self._told.get(document.key) != name and self._hear(document.key, CallCommand(said["wish"])):
                self._told[document.key] = name
                await self._documents.put(_HEARD, name, "true", now=now, expires_at=now + KEPT_S)
