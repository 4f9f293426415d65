# SPDX-License-Identifier: BSD-2-Clause
"""A bot for Twilio's calls on Pipecat's development runner: it repeats what it hears."""

from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.run import main
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner


class Repeat(FrameProcessor):  # in its place: speech to text, your model, text to speech
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            frame = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
        await self.push_frame(frame, direction)


async def bot(runner_args):
    _, call = await parse_telephony_websocket(runner_args.websocket)
    no_hang_up = TwilioFrameSerializer.InputParams(auto_hang_up=False)  # the gateway hangs up
    serializer = TwilioFrameSerializer(call["stream_id"], params=no_hang_up)
    sound = FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=serializer)
    transport = FastAPIWebsocketTransport(runner_args.websocket, sound)
    rates = PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000)
    worker = PipelineWorker(Pipeline([transport.input(), Repeat(), transport.output()]), params=rates)

    @transport.event_handler("on_client_disconnected")
    async def hung_up(transport, client):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    main()
