# SPDX-License-Identifier: BSD-2-Clause
"""A bot for a web client, on Pipecat alone: it repeats what comes in Pipecat's protobuf frames.

Run as bot.py is. Beside its call it serves two HTTP routes of its own, on the runner's application, as a
bot's author adds them; which call they speak of, `x-daily-session-id` says
(docs/reference/agent-container.md).
"""

from __future__ import annotations

import base64
import json
from typing import Any

from bot import SAMPLE_RATE_HZ, Echo, calls
from fastapi import HTTPException, Request
from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputTransportMessageUrgentFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.run import app, main
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner

SESSION = "x-daily-session-id"

running: dict[str, tuple[PipelineWorker, Listener]] = {}
"""The running calls by session id."""


class Listener(FrameProcessor):
    """Count the client's audio."""

    def __init__(self) -> None:
        super().__init__()
        self.heard_bytes = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self.heard_bytes += len(frame.audio)
        await self.push_frame(frame, direction)


def _sound() -> FastAPIWebsocketParams:
    return FastAPIWebsocketParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        audio_out_end_silence_secs=0,
        serializer=ProtobufFrameSerializer(),
    )


async def bot(runner_args: RunnerArguments) -> None:
    """Carry one call; the runner awaits this for every socket on /ws."""
    # On /ws the runner leaves it to the bot to find out who calls: this one is called by web clients only.
    runner_args.transport_type = "websocket"
    transport = await create_transport(runner_args, {"websocket": _sound})
    session = runner_args.websocket.headers[SESSION]
    body = runner_args.websocket.query_params.get("body")
    call = {
        "session": session,
        "body": None if body is None else json.loads(base64.b64decode(body)),
        "over": False,
    }
    calls.append(call)
    listener = Listener()
    worker = PipelineWorker(
        Pipeline([transport.input(), listener, Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE_HZ, audio_out_sample_rate=SAMPLE_RATE_HZ),
    )

    @transport.event_handler("on_client_disconnected")
    async def gone(transport: Any, client: Any) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running[session] = (worker, listener)
    try:
        await runner.run()
    finally:
        del running[session]
        call["over"] = True


def _call_of(request: Request) -> tuple[PipelineWorker, Listener]:
    call = running.get(request.headers.get(SESSION, ""))
    if call is None:
        raise HTTPException(418, "no call of this session is here")
    return call


@app.get("/heard")
async def heard(request: Request) -> dict[str, Any]:
    """Return how much audio the client has sent."""
    _, listener = _call_of(request)
    return {"session": request.headers[SESSION], "heard_bytes": listener.heard_bytes}


@app.post("/tell")
async def tell(request: Request) -> dict[str, Any]:
    """Send the body, which is JSON, to the client in its call."""
    worker, _ = _call_of(request)
    message = await request.json()
    await worker.queue_frame(OutputTransportMessageUrgentFrame(message=message))
    return {"told": message}


if __name__ == "__main__":
    main()
