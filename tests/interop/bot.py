# SPDX-License-Identifier: BSD-2-Clause
"""A bot as its author writes it, on Pipecat alone: it repeats the caller, and ends the call on the key #.

Run by Pipecat's development runner in the environment of requirements.lock, never in ours:

    .venv-interop/bin/python tests/interop/bot.py --port 7861

The runner, the websocket transport and the carriers' serializers are Pipecat's, put together by its
`create_transport`. Two things are not as a bot's author would have them: no hang-up through the carriers'
REST APIs (see `_stay_off_the_carriers_apis`), and a route `GET /calls` for the tests.
"""

from __future__ import annotations

from typing import Any

from pipecat.frames.frames import (
    EndWorkerFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    OutputAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.run import app, main
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.plivo import PlivoFrameSerializer
from pipecat.serializers.telnyx import TelnyxFrameSerializer
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner

SAMPLE_RATE_HZ = 8000

HELD_MS = 400
"""Milliseconds of the caller's audio that are buffered at first, so that the carrier plays without gaps."""

EXOTEL_CHUNK_10MS = 20
"""200 ms, 3200 bytes: the least that Exotel plays without gaps (docs/reference/carriers.md §5.2). Pipecat's
own is 40 ms.
"""

ENDING_KEY = "#"

calls: list[dict[str, Any]] = []
"""Every call since the process began: `carrier` and `call_id` as Pipecat understood them, and `over`."""


class Echo(FrameProcessor):
    """Says what the caller said, HELD_MS later."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Frame] | None = []
        self._held_ms = 0.0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            await self._repeat(OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels))
        elif isinstance(frame, InputDTMFFrame) and frame.button.value == ENDING_KEY:
            await self.push_frame(EndWorkerFrame())
        else:
            await self.push_frame(frame, direction)

    async def _repeat(self, sound: OutputAudioRawFrame) -> None:
        if self._held is None:
            await self.push_frame(sound)
            return
        self._held.append(sound)
        self._held_ms += sound.num_frames * 1000 / sound.sample_rate
        if self._held_ms >= HELD_MS:
            held, self._held = self._held, None
            for frame in held:
                await self.push_frame(frame)


def _sound(**more: int) -> FastAPIWebsocketParams:
    return FastAPIWebsocketParams(
        audio_in_enabled=True, audio_out_enabled=True, audio_out_end_silence_secs=0, **more
    )


TRANSPORTS = {
    "twilio": _sound,
    "telnyx": _sound,
    "plivo": _sound,
    "exotel": lambda: _sound(audio_out_10ms_chunks=EXOTEL_CHUNK_10MS),
}


async def bot(runner_args: RunnerArguments) -> None:
    """Carry one call; the runner awaits this for every socket on /ws."""
    transport = await create_transport(runner_args, TRANSPORTS)
    call = {
        "carrier": runner_args.transport_type,
        "call_id": runner_args.call_data.call_id,
        "over": False,
    }
    calls.append(call)
    worker = PipelineWorker(
        Pipeline([transport.input(), Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE_HZ, audio_out_sample_rate=SAMPLE_RATE_HZ),
    )

    @transport.event_handler("on_client_disconnected")
    async def hung_up(transport: Any, client: Any) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    try:
        await runner.run()
    finally:
        call["over"] = True


@app.get("/calls")
async def list_calls() -> list[dict[str, Any]]:
    """For the tests: what became of every call."""
    return calls


def _stay_off_the_carriers_apis() -> None:
    """Turns `auto_hang_up` off where a serializer is made without parameters, as `create_transport` makes it.

    With it on, a serializer wants the carrier's credentials, and at the end of every call it hangs up through
    the carrier's REST API, whose address is fixed for Telnyx and Plivo (docs/reference/carriers.md §8.2,
    §8.3). There are no credentials here: a Pipecat on which this has no effect refuses every call, and the
    tests fail.
    """
    for serializer in (TwilioFrameSerializer, TelnyxFrameSerializer, PlivoFrameSerializer):

        class StayingOnTheLine(serializer.InputParams):
            auto_hang_up: bool = False

        serializer.InputParams = StayingOnTheLine


if __name__ == "__main__":
    _stay_off_the_carriers_apis()
    main()
