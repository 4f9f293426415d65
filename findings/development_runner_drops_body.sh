#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# pipecat-ai 1.14.0: its development runner gives a bot no body for a socket with ?body=.
#
# Pipecat Cloud documents that a WebSocket's `?body=` (base64 of JSON) reaches the bot decoded, as `runner_args.body`
# (docs.pipecat.ai, "Generic WebSocket"); its base image does that on /ws. The development runner's /ws starts the
# same bot with the same class of arguments, and leaves the query alone: the body is what its --runner-body file
# holds, or None. Seen on 2026-11-29, of one Telnyx call to ws://127.0.0.1:PORT/ws?body=eyJjdXN0b21lciI6IDQ3MTF9:
#
#     {"arguments": "WebSocketRunnerArguments", "body": null, "query": "eyJjdXN0b21lciI6IDQ3MTF9", "carrier": "telnyx"}
#
# Why a good guess was wrong: the runner exists so that one bot file runs on a desk and in the cloud, `runner_args`
# has the member in both, and the runner fills it for Daily, WebRTC and WhatsApp. Nothing is refused or logged: the
# bot takes the call and does not know its customer. A bot that is to run under both reads
# `runner_args.websocket.query_params` itself where the body is None.
#
# Exits 0 if it behaves so, 1 if not. Needs Python 3.11 or newer; pip installs some 600 MB into a temporary folder.
set -euo pipefail

work=$(mktemp -d)
runner=
trap '[ -z "$runner" ] || { kill "$runner" && wait "$runner"; } 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

python3 -m venv venv
timeout 150 venv/bin/pip install --quiet --disable-pip-version-check \
    "pipecat-ai[runner,websocket]==1.14.0" "websockets==17.4" > pip.log 2>&1 || { cat pip.log; exit 1; }

cat > bot.py <<'EOF'
import json

from pipecat.runner.run import main
from pipecat.runner.utils import parse_telephony_websocket


async def bot(runner_args):
    carrier, call = await parse_telephony_websocket(runner_args.websocket)
    await runner_args.websocket.send_text(json.dumps({
        "arguments": type(runner_args).__name__,
        "body": runner_args.body,
        "query": runner_args.websocket.query_params.get("body"),
        "carrier": carrier,
    }))
    await runner_args.websocket.close()


if __name__ == "__main__":
    main()
EOF
cat > call.py <<'EOF'
import asyncio
import base64
import json
import sys

from websockets.asyncio.client import connect

OPENING = [
    {"event": "connected", "version": "1.0.0"},
    {
        "event": "start",
        "sequence_number": "1",
        "start": {
            "user_id": "3e6f995f-85f7-4705-9741-53b116d28237",
            "call_control_id": "v2:T02llQxIyaRkhfRKxgAP8nY511EhFLizdvdUKJiSw8d6A9BborherQ",
            "from": "+15551230001",
            "to": "+15551230002",
            "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
        },
        "stream_id": "32de0dea-53cb-4b21-89a4-9e1819c043bc",
    },
]


async def call(port):
    body = base64.b64encode(json.dumps({"customer": 4711}).encode()).decode()
    for _ in range(300):
        try:
            socket = await connect(f"ws://127.0.0.1:{port}/ws?body={body}", proxy=None)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.1)
    else:
        return "the runner does not listen"
    for message in OPENING:
        await socket.send(json.dumps(message))
    said = json.loads(await socket.recv())
    print(json.dumps(said))
    seen = {"arguments": "WebSocketRunnerArguments", "body": None, "query": body, "carrier": "telnyx"}
    return None if said == seen else "it behaves otherwise now"


sys.exit(asyncio.run(asyncio.wait_for(call(sys.argv[1]), 45)))
EOF
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
timeout 60 venv/bin/python bot.py -t telnyx --host 127.0.0.1 --port "$port" > runner.log 2>&1 &
runner=$!
timeout 50 venv/bin/python call.py "$port" || { tail -20 runner.log; exit 1; }
