# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's media-stream messages: facts of Exotel alone."""

from __future__ import annotations

import json

import pytest

from serializers.events import AudioFormat, Start
from serializers.exotel import DIALECT

DOCUMENTED = {"encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "16"}


def test_the_audio_is_described_as_documented() -> None:
    """docs/reference/carriers.md §5.2."""
    start = Start("CA1", "MZ1", "AC1", "+1", "+2", audio=AudioFormat("linear16", 8000), sequence=1)
    written = json.loads(DIALECT.write_carrier(start, start))
    assert written["start"]["media_format"] == DOCUMENTED


@pytest.mark.parametrize("encoding", ["audio/x-raw", "raw", "base64", "audio/x-mulaw", "", None, 7])
def test_the_audio_is_linear_whatever_the_encoding_is_called(encoding: object) -> None:
    media_format = {**DOCUMENTED, "encoding": encoding}
    message = {"event": "start", "start": {"call_sid": "c", "stream_sid": "s", "media_format": media_format}}
    start = DIALECT.read_carrier(json.dumps(message))
    assert isinstance(start, Start)
    assert start.audio == AudioFormat("linear16", 8000)
