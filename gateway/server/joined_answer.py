# SPDX-License-Identifier: BSD-2-Clause
"""An answer's head and the first of its body in one write, as most servers send them.

uvicorn writes them one after the other, and the client may see the head alone for a moment. Some clients do
not expect that: `pipecatcloud` 1.4.0 closes its connection once it has the head of `agent deployments`, and
then finds either a whole body that has come with it, or none. It also saves a system call an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_CONTINUE: Final = b"HTTP/1.1 100 "


class JoinedAnswer:
    """A transport for one answer. All but the first write goes on as it is."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        """The first write, until it is sent; empty from then on."""

    def write(self, data: bytes) -> None:
        """Write to the transport; the head with what follows in this iteration of the loop."""
        if self._head is None and not data.startswith(_CONTINUE):
            self._head = data
            self._loop.call_soon(self._send_head)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close the transport once everything is written."""
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
