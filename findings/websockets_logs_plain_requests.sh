#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# websockets 14 to 16: a server prints a traceback at ERROR for every plain HTTP request. Earlier and later
# ones do not.
#
# Seen on 2026-11-29, Python 3.11: a server of `websockets.serve` with `logging.basicConfig()`, which gets
# `GET /readyz HTTP/1.1` without an upgrade, as from a health check or a load balancer. It answers 426 each time.
#
#     12.0                  no ERROR
#     14.2, 15.0.1, 16.0    ERROR "opening handshake failed", with a traceback of InvalidUpgrade
#     17.4                  no ERROR
#
# A good guess was wrong because the answer is a proper one (426 Upgrade Required), and a client that does not
# speak WebSocket is no fault of the server. Whoever asks such a program once a second whether it lives fills
# its log. `curl` is enough to see it.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/asked.py" <<'PYTHON'
import asyncio
import io
import logging
import urllib.error
import urllib.request

import websockets

log = io.StringIO()
logging.basicConfig(stream=log, level=logging.INFO)


async def talk(socket, *path):
    await socket.wait_closed()


def ask(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz")
    except urllib.error.HTTPError as refused:
        return refused.code
    raise AssertionError("a plain request was taken")


async def main():
    serve = websockets.serve(talk, "127.0.0.1", 0)
    async with serve as server:
        port = server.sockets[0].getsockname()[1]
        assert await asyncio.to_thread(ask, port) == 426
        await asyncio.sleep(0.5)  # the line is written after the answer


asyncio.run(main())
print("ERROR" if "ERROR" in log.getvalue() and "Traceback" in log.getvalue() else "quiet")
PYTHON

seen=""
for version in 12.0 14.2 15.0.1 16.0 17.4; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check "websockets==$version"
    said=$("$folder/$version/bin/python" "$folder/asked.py")
    echo "$version $said"
    seen="$seen $said"
done
[ "$seen" = " quiet ERROR ERROR ERROR quiet" ] || { echo "that has changed" >&2; exit 1; }
