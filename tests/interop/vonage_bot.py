# SPDX-License-Identifier: BSD-2-Clause
"""A bot that is written for Vonage, on Pipecat alone: it repeats the caller, and ends the call on the key #.

Run as bot.py is. Pipecat's runner does not know Vonage's opening, so such a bot is always built by hand.
"""

from __future__ import annotations

from typing import Any

from bot import SAMPLE_RATE_HZ, Echo, calls
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.runner.run import main
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.vonage import VonageFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner


def _sound() -> FastAPIWebsocketParams:
    return FastAPIWebsocketParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        audio_out_end_silence_secs=0,
        serializer=VonageFrameSerializer(),
    )


async def bot(runner_args: RunnerArguments) -> None:
    """Carry one call; the runner awaits this for every socket on /ws."""
    runner_args.transport_type = "websocket"
    transport = await create_transport(runner_args, {"websocket": _sound})
    call = {"carrier": "vonage", "over": False}
    calls.append(call)
    worker = PipelineWorker(
        Pipeline([transport.input(), Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE_HZ, audio_out_sample_rate=SAMPLE_RATE_HZ),
    )

    @transport.event_handler("on_client_disconnected")
    async def gone(transport: Any, client: Any) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    try:
        await runner.run()
    finally:
        call["over"] = True


if __name__ == "__main__":
    main()
