# SPDX-License-Identifier: BSD-2-Clause
"""Every carrier calls an agent of every dialect: both are heard, and keys, marks, clears and the end arrive.

The last test compares what was heard with the table of docs/translation.md; PATCHBAY_WRITE_DOCS=1 writes it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.simulator.waiting import WAIT_S
from gateway.simulator.wav import read_wav
from serializers.agent_dialect import Message
from serializers.codecs import decode, encode
from serializers.events import AudioFormat, Clear, Dtmf, Mark, Media, Played, Start, Stop
from serializers.pipecat import _fields
from serializers.registry import DIALECTS
from serializers.sample_rate import convert
from serializers.translation.agents import AGENT_DIALECTS
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.caller import Caller
from tests.harness.frames import BINARY, TEXT
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

CARRIERS = ("twilio", "telnyx", "plivo", "exotel")
AGENTS = tuple(AGENT_DIALECTS)
SPEECH = read_wav(Path(__file__).parents[3] / "fixtures/speech/caller.wav", 8000).pcm[16000:32000]
GREETING = read_wav(Path(__file__).parents[3] / "fixtures/speech/greeting.wav", 8000).pcm[4000:16000]
PAGE = Path(__file__).parents[3] / "docs" / "translation.md"
TABLE = re.compile(r"(<!-- heard -->\n).*?(<!-- /heard -->)", re.DOTALL)

heard: dict[tuple[str, str], tuple[str, str]] = {}
"""What the agent and the caller heard, in the table's words."""


@pytest.fixture(scope="module")
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], port: AgentPort) -> Gateway:
    return start_gateway(
        agents=[
            {
                "name": dialect,
                "organization": "acme",
                "instances": [port.url],
                "sessions_per_instance": 50,
                "dialect": dialect,
                "websocket_auth": "none",
                "start_message": False,
            }
            for dialect in AGENTS
        ]
    )


@pytest.fixture
async def agent(agent_at: Callable[..., Any], port: AgentPort) -> Agent:
    started: Agent = await agent_at(port)
    return started


class CarrierEnd:
    """The carrier's end of one call, which keeps what the caller hears."""

    def __init__(self, carrier: str, caller: Caller, start: Start) -> None:
        self.dialect = DIALECTS[carrier]
        self.caller = caller
        self.start = start
        self.sequence = 2
        self.heard = b""
        self.events: list[Any] = []

    def say(self, event: Any) -> None:
        self.caller.say(self.dialect.write_carrier(event, self.start))

    def speak(self, pcm: bytes) -> None:
        """Say PCM of 8 kHz in the carrier's messages."""
        size = 16 * self.dialect.frame_ms
        for number, at in enumerate(range(0, len(pcm), size), 1):
            self.sequence += 1
            sound = encode(pcm[at : at + size], self.start.audio)
            self.say(
                Media(
                    sound,
                    track="inbound",
                    chunk=number,
                    timestamp_ms=number * self.dialect.frame_ms,
                    sequence=self.sequence,
                )
            )

    async def hear(self, until: Callable[[], bool]) -> None:
        """Read until a condition holds."""
        async with asyncio.timeout(WAIT_S):
            while not until():
                frame = await self.caller.hear()
                assert frame.opcode == TEXT
                event = self.dialect.read_agent(frame.payload)
                self.events.append(event)
                if isinstance(event, Media):
                    self.heard += decode(event.payload, self.start.audio)


class AgentEnd:
    """The agent's end of one call, which keeps what the agent hears: read without the gateway's writers."""

    def __init__(self, dialect: str, call: AgentCall) -> None:
        self.name = dialect
        self.call = call
        self.heard = b""
        self.sizes: set[int] = set()
        self.told: list[Any] = []
        rate = 8000 if dialect in DIALECTS else 16000
        linear = dialect not in ("twilio", "telnyx", "plivo")
        self.audio = AudioFormat("linear16" if linear else "mulaw", rate)

    def send(self, message: Message) -> None:
        self.call.send(self.call.frame(TEXT if message.is_text else BINARY, message.data))

    def say(self, event: Any) -> None:
        """Say an event as such an agent does."""
        if self.name in DIALECTS:
            start = Start("call", "stream", audio=self.audio)
            self.send(Message(DIALECTS[self.name].write_agent(event, start).encode(), is_text=True))
        elif self.name == "vonage" and not isinstance(event, Media):
            name = {"action": "clear"} if isinstance(event, Clear) else {}
            said = name or {"action": "notify", "payload": {"name": event.name}}
            self.send(Message(json.dumps(said).encode(), is_text=True))
        elif self.name == "pipecat":
            self.send(Message(pipecat_frame(event, self.audio), is_text=False))
        elif isinstance(event, Media):
            self.send(Message(event.payload, is_text=False))
        else:
            said = {"event": "clear"} if isinstance(event, Clear) else {"event": "mark", "name": event.name}
            self.send(Message(json.dumps(said).encode(), is_text=True))

    def speak(self, pcm: bytes) -> None:
        """Say PCM of 8 kHz in the agent's messages of 40 ms, as bots do."""
        sound = encode(convert(pcm, 8000, self.audio.sample_rate), self.audio)
        size = self.audio.sample_rate // 25 * (2 if self.audio.encoding == "linear16" else 1)
        for at in range(0, len(sound), size):
            self.say(Media(sound[at : at + size]))

    async def hear(self, until: Callable[[], bool]) -> None:
        """Read until a condition holds."""
        async with asyncio.timeout(WAIT_S):
            while not until():
                frame = await self.call.hear()
                self._read(frame.opcode == TEXT, frame.payload)

    def _read(self, is_text: bool, payload: bytes) -> None:
        sound = None
        if self.name == "pipecat":
            assert not is_text
            ((number, body),) = list(_fields(payload))
            assert isinstance(body, bytes)
            fields = dict(_fields(body))
            if number == 2:
                assert (fields[4], fields[5]) == (16000, 1)
                sound = fields[3]
            else:
                self.told.append(json.loads(fields[1]))
        elif not is_text:
            sound = payload
        else:
            message = json.loads(payload)
            if self.name in DIALECTS:
                event = DIALECTS[self.name].read_carrier(payload)
                sound = event.payload if isinstance(event, Media) else None
                self.told += [] if isinstance(event, Media) else [event]
            else:
                self.told.append(message)
        if sound is not None:
            assert isinstance(sound, bytes)
            self.sizes.add(len(sound))
            self.heard += decode(sound, self.audio)


def pipecat_frame(event: Any, audio: AudioFormat) -> bytes:
    """Return a frame as Pipecat's serializer writes it; a mark has none."""
    if not isinstance(event, Media):
        return bytes.fromhex("2a00")
    body = b"\x1a" + varint(len(event.payload)) + event.payload
    body += b"\x20" + varint(audio.sample_rate) + b"\x28\x01"
    return b"\x12" + varint(len(body)) + body


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    low = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return low + varint(value >> 7) if value > 0x7F else low


def likeness(said: bytes, heard: bytes) -> str:
    """Return `exact`, or how well two pieces of sound correlate at their best alignment."""
    if heard[: len(said)] == said:
        return "exact"
    a, b = (np.frombuffer(pcm, "<i2").astype(float) for pcm in (said, heard))
    best = 0.0
    for late in range(40):
        length = min(len(a), len(b) - late)
        best = max(best, float(np.corrcoef(a[:length], b[late : late + length])[0, 1]))
    return f"{int(best * 1000) / 1000:.3f}"


def coded(pcm: bytes, *formats: AudioFormat) -> bytes:
    """Return PCM as it is behind these codecs."""
    for audio in formats:
        pcm = decode(encode(pcm, audio), audio)
    return pcm


@pytest.mark.parametrize("dialect", AGENTS)
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_both_hear_each_other_and_everything_else_arrives(
    gateway: Gateway, agent: Agent, carrier: str, dialect: str
) -> None:
    caller = await gateway.dial(f"/ws/{carrier}/{dialect}.acme")
    assert caller.status == 101
    start = None
    for text in opening(carrier, {"plan": "gold"}, from_number="+14155550199", to_number="+14155550142"):
        caller.say(text)
        event = DIALECTS[carrier].read_carrier(text)
        start = event if isinstance(event, Start) else start
    assert start is not None
    line = CarrierEnd(carrier, caller, start)
    bot = AgentEnd(dialect, await agent.call())

    # The caller speaks, and presses a key.
    line.speak(SPEECH)
    said = coded(SPEECH, start.audio)
    await bot.hear(lambda: len(bot.heard) >= len(SPEECH) * bot.audio.sample_rate // 8000)
    line.sequence += 1
    line.say(Dtmf("5", sequence=line.sequence))
    if dialect != "pcm16":
        before = len(bot.told)
        await bot.hear(lambda: len(bot.told) > before)
        assert pressed(bot.told[-1]) == "5"
    if dialect in DIALECTS and dialect != carrier:
        opened = next(told for told in bot.told if isinstance(told, Start))
        assert (opened.from_number, opened.to_number) == ("+14155550199", "+14155550142")
        assert opened.parameters["plan"] == "gold"
        assert bot.audio == opened.audio

    # The agent speaks and sets a mark, which comes back once it is played.
    bot.speak(GREETING)
    if dialect != "pipecat":  # which has no marks
        bot.say(Mark("m1"))
        await line.hear(lambda: Mark("m1") in line.events)
        line.sequence += 1
        line.say(Played("m1", sequence=line.sequence))
    await line.hear(lambda: len(line.heard) >= len(GREETING))
    if dialect in DIALECTS:
        await bot.hear(lambda: any(isinstance(told, Played) for told in bot.told))
    elif dialect == "vonage":
        await bot.hear(lambda: {"event": "websocket:notify", "payload": {"name": "m1"}} in bot.told)

    # It is interrupted: nothing of what it says at once is heard any more.
    bot.say(Clear())
    await line.hear(lambda: Clear() in line.events)

    # The carrier's call is over.
    if DIALECTS[carrier].sends_stop:
        line.sequence += 1
        line.say(Stop(sequence=line.sequence))
        if dialect in ("twilio", "telnyx", "exotel"):
            await bot.hear(lambda: any(isinstance(told, Stop) for told in bot.told))
    _, closed = await asyncio.gather(caller.hang_up(), bot.call.closed())
    assert closed[0] == 1000

    to_agent = likeness(said, to_8k(bot))
    answered = coded(
        convert(convert(GREETING, 8000, bot.audio.sample_rate), bot.audio.sample_rate, 8000), bot.audio
    )
    to_caller = likeness(coded(answered, start.audio), line.heard)
    heard[carrier, dialect] = to_agent, to_caller
    same = start.audio == bot.audio or carrier == dialect
    assert (to_agent, to_caller) == ("exact", "exact") if same else float(worst(to_agent, to_caller)) > 0.985


def pressed(told: Any) -> str:
    """Return the key of what an agent was told."""
    if isinstance(told, Dtmf):
        return told.digits
    return str(told["digit"] if "digit" in told else told["data"]["buttons"][0])


def to_8k(bot: AgentEnd) -> bytes:
    """Return what an agent has heard as PCM of 8 kHz."""
    return convert(bot.heard, bot.audio.sample_rate, 8000)


def worst(*likenesses: str) -> float:
    """Return the smallest of them."""
    return min(1.0 if each == "exact" else float(each) for each in likenesses)


def test_the_table_of_the_page_shows_what_was_heard() -> None:
    if len(heard) < len(CARRIERS) * len(AGENTS):
        pytest.skip("only a part of the calls was made")
    head = "| Carrier | " + " | ".join(f"`{name}`" for name in AGENTS) + " |\n"
    rule = "| --- |" + " --- |" * len(AGENTS) + "\n"
    rows = [
        f"| {carrier} | "
        + " | ".join(
            heard[carrier, name][0]
            if heard[carrier, name][0] == heard[carrier, name][1]
            else " / ".join(heard[carrier, name])
            for name in AGENTS
        )
        + " |\n"
        for carrier in CARRIERS
    ]
    table = head + rule + "".join(rows)
    page = PAGE.read_text()
    written = TABLE.sub(lambda match: match[1] + table + match[2], page)
    if os.environ.get("PATCHBAY_WRITE_DOCS"):
        PAGE.write_text(written)
    assert PAGE.read_text() == written
