# SPDX-License-Identifier: BSD-2-Clause
"""A bot for Patchbay in Pipecat Cloud's base image: telephone calls of any carrier, one at a time."""

from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.exotel import ExotelFrameSerializer
from pipecat.serializers.plivo import PlivoFrameSerializer
from pipecat.serializers.telnyx import TelnyxFrameSerializer
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

calls = []


class Repeat(FrameProcessor):  # in its place: speech to text, your model, text to speech
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            frame = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
        await self.push_frame(frame, direction)


def serializer_of(carrier, call):  # the gateway hangs up, so none of them has to
    if carrier == "exotel":
        return ExotelFrameSerializer(call["stream_id"])
    if carrier == "telnyx":
        no_hang_up = TelnyxFrameSerializer.InputParams(auto_hang_up=False)
        return TelnyxFrameSerializer(call["stream_id"], call["outbound_encoding"], "PCMU", params=no_hang_up)
    kind = PlivoFrameSerializer if carrier == "plivo" else TwilioFrameSerializer
    return kind(call["stream_id"], params=kind.InputParams(auto_hang_up=False))


async def bot(args):
    calls.append(args)
    try:
        serializer = serializer_of(*await parse_telephony_websocket(args.websocket))
        sound = FastAPIWebsocketParams(
            audio_in_enabled=True, audio_out_enabled=True, audio_out_10ms_chunks=20, serializer=serializer
        )
        transport = FastAPIWebsocketTransport(args.websocket, sound)
        rates = PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000)
        worker = PipelineWorker(Pipeline([transport.input(), Repeat(), transport.output()]), params=rates)

        @transport.event_handler("on_client_disconnected")
        async def hung_up(transport, client):
            await worker.cancel()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()
    finally:
        calls.remove(args)


def readyz():  # the base image calls it for GET /readyz
    return not calls
