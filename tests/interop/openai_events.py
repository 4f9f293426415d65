# SPDX-License-Identifier: BSD-2-Clause
"""Checks events of the Realtime API against the types of the `openai` package, and makes some of them.

    .venv-interop/bin/python tests/interop/openai_events.py < CLIENT_EVENTS

Reads client events, JSON, one a line, and fails for one that the package's types refuse. Prints server events
as the package writes them, one a line.
"""

from __future__ import annotations

import sys

from openai.types.realtime import (
    InputAudioBufferSpeechStartedEvent,
    RealtimeClientEvent,
    RealtimeErrorEvent,
    ResponseAudioDeltaEvent,
)
from openai.types.realtime.realtime_error import RealtimeError
from pydantic import TypeAdapter

check = TypeAdapter(RealtimeClientEvent).validate_json
for line in sys.stdin:
    check(line, strict=True)

for event in (
    ResponseAudioDeltaEvent(
        type="response.output_audio.delta",
        event_id="event_1",
        response_id="resp_1",
        item_id="item_1",
        output_index=0,
        content_index=0,
        delta="f39/f39/f38=",
    ),
    InputAudioBufferSpeechStartedEvent(
        type="input_audio_buffer.speech_started", event_id="event_2", item_id="item_2", audio_start_ms=10
    ),
    RealtimeErrorEvent(
        type="error", event_id="event_3", error=RealtimeError(type="server_error", message="no")
    ),
):
    print(event.model_dump_json())
