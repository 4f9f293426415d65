# SPDX-License-Identifier: BSD-2-Clause
"""No message of any kind raises anything but DialectError."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.dialect import Dialect, DialectError
from serializers.opening import Opening
from serializers.registry import DIALECTS

dialects = pytest.mark.parametrize(
    "dialect", [DIALECTS[name] for name in sorted(DIALECTS)], ids=sorted(DIALECTS)
)

EVENTS = [
    *("connected", "start", "media", "dtmf", "mark", "stop", "error", "playedStream", "clearedAudio"),
    *("playFailed", "clear", "playAudio", "checkpoint", "clearAudio", "sendDTMF"),
]
KEYS = [
    *(
        "track",
        "chunk",
        "timestamp",
        "payload",
        "digit",
        "name",
        "value",
        "reason",
        "code",
        "title",
        "detail",
    ),
    *("occurred_at", "dtmf", "duration", "sequenceNumber", "sequence_number", "protocol", "version"),
    *("streamSid", "stream_sid", "stream_id", "streamId", "callSid", "call_sid", "call_control_id", "callId"),
    *("accountSid", "account_sid", "accountId", "user_id", "from", "to", "tags", "tracks"),
    *("mediaFormat", "media_format", "encoding", "sampleRate", "sample_rate", "channels"),
    *("customParameters", "custom_parameters", "extra_headers"),
]
TEXTS = [
    *("1", "-5", "8000", "9" * 30, "PCMU", "L16", "audio/x-mulaw", "inbound_track", "/w==", "\ud800"),
    *("a=b;c=d", '{"a":1}', "{", "%FF%00=%", "2025-06-05T08:54:19.698408Z", "9999-12-31T23:59:59-23:59"),
]

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(TEXTS)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner)
    ),
    max_leaves=12,
)
# Bodies where they are looked for, and filled with what is looked for in them.
bodies = st.dictionaries(st.sampled_from(KEYS), values, max_size=8) | values
messages = st.fixed_dictionaries(
    {"event": st.sampled_from(EVENTS)},
    optional=dict.fromkeys(("sequenceNumber", "sequence_number", "stream_id", "stream_sid"), values)
    | dict.fromkeys(("name", "extra_headers", "occurred_at", "reason", "protocol", "version"), values)
    | dict.fromkeys(("start", "media", "dtmf", "mark", "stop", "payload"), bodies),
)


def put_to_the_test(dialect: Dialect, message: str | bytes) -> None:
    for read in (dialect.read_carrier, dialect.read_agent, Opening(dialect).feed):
        with contextlib.suppress(DialectError):
            event = read(message)
            # What was understood can be kept, logged and sent on.
            repr(event).encode()
    event = dialect.event_of(message if isinstance(message, bytes) else message.encode(errors="replace"))
    assert event is None or isinstance(event, str)


@dialects
@given(message=st.binary() | st.text(st.characters(), max_size=60))
def test_any_bytes_and_any_text(dialect, message):
    put_to_the_test(dialect, message)


@dialects
@given(message=values)
def test_any_json(dialect, message):
    put_to_the_test(dialect, json.dumps(message))
    put_to_the_test(dialect, json.dumps(message, ensure_ascii=False))


@dialects
@given(message=messages)
def test_any_value_of_the_fields_that_are_read(dialect, message):
    put_to_the_test(dialect, json.dumps(message))
    put_to_the_test(dialect, json.dumps(message).encode())


@dialects
@pytest.mark.parametrize("depth", [10, 300, 900, 980, 990, 1_000, 2_000, 100_000])
def test_any_depth(dialect, depth):
    nested = "[" * depth + "]" * depth
    for key in ("customParameters", "custom_parameters"):
        ids = '"callSid":"c","streamSid":"s","call_control_id":"c"'
        message = f'{{"event":"start","stream_id":"s","start":{{{ids},"{key}":{{"k":{nested}}}}}}}'
        put_to_the_test(dialect, message)
    put_to_the_test(dialect, f'{{"event":"start","start":{{}},"extra_headers":{{"k":{nested}}}}}')
