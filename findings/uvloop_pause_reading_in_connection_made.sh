#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# uvloop 0.23.0: a transport that is paused in `connection_made` reads all the same.
#
# Seen on 2026-11-29, Python 3.11 on Linux: a socket on which bytes wait is given to
# `loop.connect_accepted_socket`, with a protocol that calls `transport.pause_reading()` in `connection_made`.
#
#     asyncio    is_reading() False, data_received was not called; the bytes stay in the socket
#     uvloop     is_reading() True, data_received was called with all of them, before the call returned
#
# A good guess was wrong because pausing there is what asyncio's own protocols do, and uvloop promises to be a
# drop-in replacement: its transport stops a reading that has not begun, which does nothing, and begins to read
# after `connection_made`. A program that passes sockets between processes, or gives a transport its real
# protocol after `connect_accepted_socket` returned, loses what came in between, on busy machines only.
# A pause after the call has returned works on both.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check uvloop==0.23.0

cat >"$folder/paused.py" <<'PYTHON'
import asyncio
import socket

import uvloop


class Paused(asyncio.Protocol):
    def __init__(self):
        self.received = b""

    def connection_made(self, transport):
        transport.pause_reading()

    def data_received(self, data):
        self.received += data


async def accept():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        client.sendall(b"hello")
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(Paused, accepted)
        state = transport.is_reading(), protocol.received
        transport.abort()
        return state


plain = asyncio.run(accept())
fast = uvloop.run(accept())
print("asyncio", plain)
print("uvloop ", fast)
assert plain == (False, b""), "asyncio has changed"
assert fast == (True, b"hello"), "uvloop has changed"
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/paused.py"
