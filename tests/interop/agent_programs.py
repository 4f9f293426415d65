# SPDX-License-Identifier: BSD-2-Clause
"""The telephone handlers of other agent frameworks, each with an agent that repeats what it hears.

    agent_programs.py --host 127.0.0.1 --port 8080 NAME

Everything that speaks with the carrier is the framework's own; what it would ask a model or a service of, is
replaced where the framework lets its users do so. Run in the environment of agents.lock.
"""

# ruff: noqa: PLC0415 - each process imports the one framework that it is about
from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
import websockets
from fastapi import FastAPI, WebSocket

LOOPBACK = "127.0.0.1"
RATE_HZ = 8000
PCM_SECOND = 2 * 16000
"""Bytes of a second of sound as Patter's parts have it: 16 bits at 16 kHz."""

TONE = b"".join(int(9000 * math.sin(n / 6)).to_bytes(2, "little", signed=True) for n in range(16000))


def bolna(carrier: str) -> Callable[[WebSocket], Awaitable[None]]:
    """bolna's input and output handlers of a carrier: what goes to its transcriber comes back as speech."""
    from bolna.helpers.mark_event_meta_data import MarkEventMetaData
    from bolna.input_handlers.telephony_providers import exotel, plivo, twilio
    from bolna.output_handlers.telephony_providers import exotel as exotel_out
    from bolna.output_handlers.telephony_providers import plivo as plivo_out
    from bolna.output_handlers.telephony_providers import twilio as twilio_out

    hears, says = {
        "twilio": (twilio.TwilioInputHandler, twilio_out.TwilioOutputHandler),
        "plivo": (plivo.PlivoInputHandler, plivo_out.PlivoOutputHandler),
        "exotel": (exotel.ExotelInputHandler, exotel_out.ExotelOutputHandler),
    }[carrier]
    sound = "pcm" if carrier == "exotel" else "mulaw"
    account = {"auth_id": f"MA{0:018}", "auth_token": "a-token"}  # that is wanted, and not used
    more = {"auth_credentials": account} if carrier == "plivo" else {}

    async def call(socket: WebSocket) -> None:
        await socket.accept()
        marks = MarkEventMetaData()
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        queues = {"transcriber": heard, "dtmf": asyncio.Queue()}
        ears = hears(queues, socket, {"audio": 0}, marks, **more)
        mouth = says(socket, marks)
        await ears.handle()
        while not (packet := await heard.get())["meta_info"].get("eos"):
            meta = packet["meta_info"] | {"format": sound, "sequence_id": 0, "cached": False}
            await mouth.handle({"data": packet["data"], "meta_info": meta})

    return call


def fastrtc(app: FastAPI) -> Callable[[WebSocket], Awaitable[None]]:
    """fastrtc's telephone handler, with a stream handler that repeats."""
    from fastrtc import AsyncStreamHandler, Stream, wait_for_item

    class Repeat(AsyncStreamHandler):
        def __init__(self) -> None:
            super().__init__(input_sample_rate=RATE_HZ, output_sample_rate=RATE_HZ)
            self.heard: asyncio.Queue[Any] = asyncio.Queue()

        async def receive(self, frame: Any) -> None:
            self.heard.put_nowait((frame[0], frame[1].reshape(1, -1)))

        async def emit(self) -> Any:
            return await wait_for_item(self.heard)

        def copy(self) -> Repeat:
            return Repeat()

        async def start_up(self) -> None:
            """Nothing to prepare."""

    stream = Stream(Repeat(), modality="audio", mode="send-receive")
    stream.mount(app)
    handler: Callable[[WebSocket], Awaitable[None]] = stream.telephone_handler
    return handler


def vision_agents() -> Callable[[WebSocket], Awaitable[None]]:
    """The media stream of Vision Agents' Twilio plugin: its track of the caller's sound is sent back."""
    from getstream.video.rtc.track_util import PcmData
    from vision_agents.plugins.twilio import TwilioMediaStream

    async def call(socket: WebSocket) -> None:
        stream = TwilioMediaStream(socket)
        await stream.accept()

        async def repeat() -> None:
            while True:
                await stream.send_audio(PcmData.from_av_frame(await stream.audio_track.recv()))

        repeating = asyncio.create_task(repeat())
        await stream.run()
        repeating.cancel()

    return call


def patter() -> Callable[[WebSocket], Awaitable[None]]:
    """Patter's bridge for Twilio as a pipeline: its parts hear a second of sound, and say a word."""
    from getpatter.models import Agent
    from getpatter.providers.base import STTProvider, Transcript, TTSProvider
    from getpatter.telephony.twilio import twilio_stream_bridge

    class Ears(STTProvider):
        def __init__(self) -> None:
            self.heard_bytes = 0
            self.words: asyncio.Queue[Transcript] = asyncio.Queue()

        async def connect(self) -> None:
            """Nothing to connect to."""

        async def close(self) -> None:
            """Nothing to close."""

        async def send_audio(self, audio_chunk: bytes) -> None:
            before, self.heard_bytes = self.heard_bytes, self.heard_bytes + len(audio_chunk)
            if before < PCM_SECOND <= self.heard_bytes:
                self.words.put_nowait(Transcript(text="What time is it?", is_final=True))

        async def receive_transcripts(self) -> AsyncIterator[Transcript]:
            while True:
                yield await self.words.get()

    class Mouth(TTSProvider):
        async def synthesize(self, text: str) -> AsyncIterator[bytes]:
            yield TONE

        async def close(self) -> None:
            """Nothing to close."""

    async def answer(_: dict[str, Any]) -> str:
        return "It is noon."

    async def call(socket: WebSocket) -> None:
        agent = Agent(system_prompt="Answer.", provider="pipeline", stt=Ears(), tts=Mouth())
        await twilio_stream_bridge(socket, agent, openai_key="", on_message=answer)

    return call


def twilio_agent_connect(model: str) -> Callable[[WebSocket], Awaitable[None]]:
    """Twilio Agent Connect's voice channel with its OpenAI provider; the model at `model` repeats."""
    from tac import TAC, TACConfig
    from tac.channels.voice import VoiceChannel
    from tac.channels.voice.media_streams.openai_realtime import provider as openai
    from tac.channels.voice.media_streams.openai_realtime.config import OpenAIRealtimeProviderConfig
    from tac.server.fastapi_server import FastAPIWebSocketAdapter

    class Provider(openai.OpenAIRealtimeProvider):
        async def _connect_model(self, conv_id: str) -> None:
            self._calls[conv_id].model_ws = await websockets.connect(model)

    class Config(OpenAIRealtimeProviderConfig):
        def create_provider(self, channel: Any, tac_config: Any) -> Any:
            return Provider(channel, tac_config, self)

    account = {
        "account_sid": f"AC{0:032}",
        "auth_token": "a-token",
        "api_key": f"SK{0:032}",
        "api_secret": "s",
    }
    tac = TAC(TACConfig(**account, phone_number="+15559876543", voice_public_domain="voice.example.com"))
    channel = VoiceChannel(tac, config=Config(openai_api_key="none", default_session_config={}))
    return lambda socket: channel.handle_websocket(FastAPIWebSocketAdapter(socket))


async def repeat_as_a_model(socket: websockets.ServerConnection) -> None:
    """Be a speech model of OpenAI's kind: what is appended is the response's audio."""
    async for message in socket:
        event = json.loads(message)
        if event["type"] == "input_audio_buffer.append":
            delta = {"type": "response.output_audio.delta", "item_id": "item", "delta": event["audio"]}
            await socket.send(json.dumps(delta))


async def serve(name: str, host: str, port: int, model: str) -> None:
    """Serve a framework's handler at /ws until the process ends. `model`: the URL of the repeating model."""
    app = FastAPI()
    handlers: dict[str, Callable[[], Callable[[WebSocket], Awaitable[None]]]] = {
        "bolna-twilio": lambda: bolna("twilio"),
        "bolna-plivo": lambda: bolna("plivo"),
        "bolna-exotel": lambda: bolna("exotel"),
        "fastrtc": lambda: fastrtc(app),
        "patter": patter,
        "twilio-agent-connect": lambda: twilio_agent_connect(model),
        "vision-agents": vision_agents,
    }
    call = handlers[name]()

    @app.websocket("/ws")
    async def media_socket(socket: WebSocket) -> None:
        await call(socket)

    await uvicorn.Server(uvicorn.Config(app, host=host, port=port)).serve()


async def main(name: str, host: str, port: int) -> None:
    """Run one of them."""
    async with websockets.serve(repeat_as_a_model, LOOPBACK, 0) as model:
        await serve(name, host, port, f"ws://{LOOPBACK}:{model.sockets[0].getsockname()[1]}")


if __name__ == "__main__":
    os.environ["TAC_ANALYTICS_DISABLED"] = "true"  # none of them may leave this machine
    os.environ["PATTER_TELEMETRY_DISABLED"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("name")
    given = parser.parse_args()
    asyncio.run(main(given.name, given.host, given.port))
