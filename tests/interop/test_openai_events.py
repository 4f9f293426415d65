# SPDX-License-Identifier: BSD-2-Clause
"""Events for OpenAI's Realtime API are what the `openai` package's types take, and theirs are read."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

from serializers.agent_dialect import Message, Problem
from serializers.events import AudioFormat, Clear, Dtmf, Media, Start
from serializers.providers.openai_realtime import OpenAiRealtime
from serializers.providers.provider import ProviderSettings

PROGRAM = Path(__file__).with_name("openai_events.py")
START = Start("call", "stream", from_number="+14155550199", audio=AudioFormat("mulaw"))


def test_events_are_those_of_the_package(interop_python: Path) -> None:
    agent = OpenAiRealtime(
        ProviderSettings(key="k", voice="marin", instructions="Be brief.", greeting="Hello.")
    )
    agent.audio(8000)
    key = agent.write_carrier(Dtmf("5"), START)
    assert key is not None
    sent = [
        *agent.opening(START),
        agent.sound_writer(START)(bytes(160), 1, 1, 0),
        key,
        *agent.after(Dtmf("5")),
    ]
    wide = OpenAiRealtime(ProviderSettings(key="k"))
    wide.audio(24000)
    sent += wide.opening(START)
    spoken = b'{"type":"response.output_audio.delta","item_id":"i","content_index":0,"delta":"AAAA"}'
    agent.read_agent(Message(spoken, is_text=True))
    sent += agent.cleared(100)
    assert b"conversation.item.truncate" in sent[-1].data
    checked = subprocess.run(
        [interop_python, PROGRAM],
        input=b"\n".join(message.data for message in sent) + b"\n",
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr.decode()[-3000:]
    audio, started, error = checked.stdout.splitlines()
    read = [agent.read_agent(Message(line, is_text=True)) for line in (audio, started, error)]
    assert read == [Media(base64.b64decode("f39/f39/f38=")), Clear(), Problem("no")]
