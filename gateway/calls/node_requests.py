# SPDX-License-Identifier: BSD-2-Clause
"""The requests of other nodes to this worker: commands and questions to its calls, and carriers' sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from gateway.calls.command_bus import CallCommand, CommandBus
from gateway.calls.remote_call import StreamHandovers

MAX_QUESTION_S: Final = 900.0
"""The longest time that an answer may take: more than any playback."""


class NodeRequests:
    """The `NodeHandlers` of one worker."""

    def __init__(
        self,
        commands: CommandBus,
        handovers: StreamHandovers,
        stop_session: Callable[[str], bool],
        search_output: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]] | None = None,
    ) -> None:
        """`stop_session`: ends a session of this worker that is to stop; False if it has no such session.

        `search_output`: searches what this node's instances have printed, for another node.
        """
        self._commands = commands
        self._search_output = search_output
        self._handovers = handovers
        self._stop_session = stop_session

    async def answer(self, kind: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if kind == "output":
            query = request["query"]
            if self._search_output is None or not isinstance(query, dict):
                raise TypeError("a query is an object")
            return {"taken": True, **await self._search_output(query)}
        session_id = request["session"]
        if not isinstance(session_id, str):
            raise TypeError("a session's id is a text")
        if kind == "stop":
            return {"taken": self._stop_session(session_id)}
        command = CallCommand(request["command"])  # of a newer release, perhaps: ValueError
        if kind == "question":
            seconds = min(max(float(request["seconds"]), 0.0), MAX_QUESTION_S)
            is_here, answer = await self._commands.ask_here(session_id, command, seconds)
            return {"taken": is_here, "answer": answer}
        return {"taken": self._commands.take(session_id, command)}

    async def take_stream(
        self, transport: asyncio.Transport, message: bytes, accept: Callable[[], None]
    ) -> None:
        await self._handovers.take_stream(transport, message, accept)
