# SPDX-License-Identifier: BSD-2-Clause
"""Run a bot as Pipecat Cloud's base image does. That image is on no package index, so this stands for it.

Its routes and their order are those of docs/reference/agent-container.md, as far as telephone calls go; the
arguments are pipecatcloud's own, and so is the close that it leaves out.

    base_image.py --host 127.0.0.1 --port 8080 FOLDER_OF_BOT_PY
"""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, WebSocket
from fastapi.responses import JSONResponse
from pipecatcloud.agent import PipecatSessionArguments, WebSocketSessionArguments

app = FastAPI()
module: Any = None
"""The bot.py."""

started: list[dict[str, Any]] = []
"""What the bot was started with: the session, and the body."""


@app.websocket("/ws")
async def media_socket(
    ws: WebSocket, x_daily_session_id: Annotated[str | None, Header()] = None, body: str | None = None
) -> None:
    """A media stream: the bot reads the carrier's opening itself."""
    await ws.accept()
    decoded = None if body is None else json.loads(base64.b64decode(body))
    started.append({"session": x_daily_session_id, "body": decoded})
    await module.bot(WebSocketSessionArguments(ws, session_id=x_daily_session_id, body=decoded))


@app.post("/bot")
async def start(
    body: dict[str, Any], x_daily_session_id: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """Any other start: answered when the bot is done."""
    started.append({"session": x_daily_session_id, "body": body})
    await module.bot(PipecatSessionArguments(session_id=x_daily_session_id, body=body))
    return {}


@app.get("/readyz")
async def readyz() -> JSONResponse:
    """Ready, unless the bot's own `readyz` says otherwise."""
    is_ready = getattr(module, "readyz", lambda: True)()
    return JSONResponse({"status": "ok" if is_ready else "not ready"}, 200 if is_ready else 503)


@app.get("/calls")
async def calls() -> list[dict[str, Any]]:
    """For the tests: what the bot was started with."""
    return started


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("folder")
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    module = importlib.import_module("bot")
    uvicorn.run(app, host=given.host, port=given.port)
