# SPDX-License-Identifier: BSD-2-Clause
"""An agent that starts in milliseconds: `/readyz`, `POST /bot` and a media WebSocket, with nothing imported.

    python tiny_bot.py PORT [never-ready] [deaf] [one-shot] [child] [escaped-child] [flood] [exit=STATUS]

`never-ready`: 503 for ever. `deaf`: ignores SIGTERM. `one-shot`: ends after its first session.
`child`, `escaped-child`: starts a process that outlives it, the second in a session of its own.
`flood`: prints without end. `ready-after=FILE`: 503 until the file exists. `exit=STATUS`: ends at once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
import subprocess
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
OPTIONS = dict(each.partition("=")[::2] for each in sys.argv[2:])
SLEEPER = [
    sys.executable,
    "-S",
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)",
]


def say(text: str) -> None:
    print(text, flush=True)


def is_ready() -> bool:
    file = OPTIONS.get("ready-after")
    return "never-ready" not in OPTIONS and (file is None or os.path.exists(file))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    method, path, _ = head[0].split(b" ")
    headers = dict(line.lower().split(b": ", 1) for line in head[1:] if b": " in line)
    if path == b"/readyz":
        status = b"200 OK" if is_ready() else b"503 Service Unavailable"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        return
    session = headers[b"x-daily-session-id"].decode()
    say(f"session {session} begins")
    if method == b"POST":
        await reader.readexactly(int(headers[b"content-length"]))
        await reader.read()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    else:
        key = next(line for line in head if line.lower().startswith(b"sec-websocket-key")).split(b": ")[1]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        hello = f"instance {sys.argv[1]}".encode()
        writer.write(bytes((0x81, len(hello))) + hello)
        await read_until_closed(reader)
        writer.write(b"\x88\x02\x03\xe8")  # close, 1000
    say(f"session {session} ends")
    await writer.drain()
    writer.close()
    if "one-shot" in OPTIONS:
        os._exit(0)


async def read_until_closed(reader: asyncio.StreamReader) -> None:
    """Read frames until a close frame or the end of the connection; a text "crash" kills the process."""
    try:
        while True:
            first, second = await reader.readexactly(2)
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
            mask = await reader.readexactly(4)
            payload = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(length)))
            if first & 0x0F == 8:
                return
            if b"crash" in payload:
                os._exit(3)
    except asyncio.IncompleteReadError:
        return


def start_child(*, is_escaped: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(SLEEPER, start_new_session=is_escaped)


async def main() -> None:
    say(f"starting on {sys.argv[1]}")
    if "exit" in OPTIONS:
        sys.exit(int(OPTIONS["exit"]))
    if "deaf" in OPTIONS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for option in ("child", "escaped-child"):
        if option in OPTIONS:
            child = start_child(is_escaped=option == "escaped-child")
            say(f"{option} {child.pid}")
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    while "flood" in OPTIONS:
        print("x" * 100_000, flush=True)
        await asyncio.sleep(0)
    await server.serve_forever()


asyncio.run(main())
