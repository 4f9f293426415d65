# SPDX-License-Identifier: BSD-2-Clause
"""An agent's port whose connections send at once, so that a gap is the gateway's and not Nagle's."""

from __future__ import annotations

import socket

from tests.harness.agent import AgentPort


class PromptPort(AgentPort):
    """`number`: of a port that somebody else keeps; None keeps a new one. `host`: where to listen on it."""

    def __init__(self, number: int | None = None, host: str = "127.0.0.1") -> None:
        if number is None:
            super().__init__()
        else:
            self.number = number
        self._host = host

    def listen(self, receive_buffer: int | None = None) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it
        if receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listening.bind((self._host, self.number))
        return listening
