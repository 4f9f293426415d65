#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# uvicorn 0.54.0 (starlette 1.10.0, websockets 17.4): a WebSocket handler that returns sends no close frame, and if it
# had stopped reading while its peer talked, the connection is reset. To the peer a finished agent looks like one
# whose process was killed.
#
# A caller sends a message every 20 ms, as carriers do. The handler reads one, stops reading, and returns a second
# later. Seen on 2026-11-29 on Linux, six calls each, what the caller's TCP connection ended with:
#
#     uvicorn --ws auto, stops reading, returns      no close frame, reset     6 of 6
#     uvicorn --ws auto, reads, returns              no close frame, FIN       6 of 6
#     uvicorn --ws auto, process killed (SIGKILL)    no close frame, reset     6 of 6
#     websockets' own server, stops reading, returns close frame 1000          6 of 6
#
# --ws auto, the default, is websockets-sansio. With --ws websockets, which is deprecated, no close frame came either.
#
# Why a good guess was wrong: a handler that returns has ended well, and the library under uvicorn says so by itself,
# with 1000. uvicorn closes the transport instead, and pauses reading while the handler takes nothing, so that the
# peer's bytes wait in the kernel; a system that closes a connection with unread bytes resets it (RFC 2525 §2.17).
# Nothing that the peer can read tells the two ends apart: only another connection does, which a dead process refuses.
#
# Exits 0 if it behaves so, 1 if not. Needs Python 3.11 or newer.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv venv
timeout 90 venv/bin/pip install --quiet --disable-pip-version-check \
    uvicorn==0.54.0 starlette==1.10.0 websockets==17.4 > pip.log 2>&1 || { cat pip.log; exit 1; }

cat > agent.py <<'EOF'
import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.asyncio.server import serve

server, mode, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


async def agent(receive):
    await receive()
    if mode == "reads":
        for _ in range(50):
            await receive()
    elif mode == "stops":
        await asyncio.sleep(1)
    else:
        await asyncio.sleep(60)


async def endpoint(websocket):
    await websocket.accept()
    await agent(websocket.receive_text)


async def websockets_server():
    async with serve(lambda connection: agent(connection.recv), "127.0.0.1", port) as running:
        await running.serve_forever()


if server == "websockets":
    asyncio.run(websockets_server())
else:
    app = Starlette(routes=[WebSocketRoute("/ws", endpoint)])
    uvicorn.run(app, host="127.0.0.1", port=port, ws=server, log_level="critical", lifespan="off")
EOF
cat > caller.py <<'EOF'
import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

CALLS = 6
SOUND = json.dumps({"event": "media", "media": {"payload": base64.b64encode(b"\xff" * 160).decode()}}).encode()
UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


def frame(payload):
    """Make one masked text frame of 126 to 65535 bytes (RFC 6455 §5.2)."""
    mask = os.urandom(4)
    header = b"\x81" + bytes([0x80 | 126]) + len(payload).to_bytes(2, "big")
    return header + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def end_of_call(connection):
    """Talk until the agent ends, and say what the connection ended with."""
    frames = b""
    deadline = time.monotonic() + 15
    try:
        while time.monotonic() < deadline:
            connection.sendall(frame(SOUND))
            try:
                data = connection.recv(65536)
            except TimeoutError:
                continue
            frames += data
            if not data or frames.startswith(b"\x88"):
                break
        else:
            return "no end"
        how = "FIN"
    except ConnectionResetError:
        how = "reset"
    if frames.startswith(b"\x88"):
        return f"close frame {int.from_bytes(frames[2:4], 'big')}"
    return f"no close frame, {how}" if not frames else f"other bytes, {how}"


def upgraded(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(UPGRADE)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    connection.settimeout(0.02)
    return connection


def ends(server, mode):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-W", "ignore", "agent.py", server, mode, str(port)])
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        with ThreadPoolExecutor(CALLS) as callers:
            calls = [callers.submit(end_of_call, upgraded(port)) for _ in range(CALLS)]
            if mode == "killed":
                time.sleep(1)
                process.kill()
            return Counter(call.result() for call in calls)
    finally:
        process.kill()
        process.wait()


EXPECTED = {
    ("auto", "stops"): "no close frame, reset",
    ("auto", "reads"): "no close frame, FIN",
    ("auto", "killed"): "no close frame, reset",
    ("websockets", "stops"): "close frame 1000",
}
same = True
for (server, mode), expected in EXPECTED.items():
    seen = ends(server, mode)
    name = "websockets" if server == "websockets" else f"uvicorn --ws {server}"
    print(f"{name}, {mode}: {dict(seen)}", flush=True)
    same = same and seen == {expected: CALLS}
sys.exit(0 if same else "it behaves otherwise now")
EOF
timeout 80 venv/bin/python caller.py
