# SPDX-License-Identifier: BSD-2-Clause
"""Whatever is built parses back to an equal event, on all carriers and both ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.events import (
    AudioFormat,
    Clear,
    Cleared,
    Connected,
    Dtmf,
    Error,
    Mark,
    Media,
    Played,
    Start,
    Stop,
)
from serializers.opening import Opening
from serializers.registry import DIALECTS

detail = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
numbers = st.integers(min_value=0, max_value=10**18 - 1)
moments = st.none() | st.integers(min_value=0, max_value=253_402_300_799_999)  # ms, to the end of year 9999
rates = st.sampled_from([8000, 16000, 24000])
sounds = st.binary(max_size=400)
tracks = st.sampled_from(["inbound", "outbound"])
keys = st.sampled_from("0123456789*#ABCD")
parameters = st.dictionaries(
    detail, st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=4
)


def starts(audio: st.SearchStrategy[AudioFormat], **more: Any) -> st.SearchStrategy[Start]:
    return st.builds(
        Start,
        call_id=detail,
        stream_id=detail,
        account_id=detail,
        audio=audio,
        parameters=parameters,
        sequence=numbers,
        **more,
    )


def numbers_from_parameters(start: Start) -> Start:
    """Where `start` tells no numbers, they are what the parameters say."""
    told = start.parameters
    return replace(start, from_number=told.get("from_number"), to_number=told.get("to_number"))


@dataclass(frozen=True)
class Talk:
    """What a carrier says, and what it is told."""

    starts: st.SearchStrategy[Start]
    carrier: st.SearchStrategy[Any]
    agent: st.SearchStrategy[Any]


told_tracks = st.lists(tracks, min_size=1, max_size=2, unique=True).map(tuple)
callers = {"from_number": detail, "to_number": detail}
media = st.builds(Media, sounds, tracks, numbers, numbers, numbers)
played = st.builds(Played, detail, numbers)
agent = st.builds(Media, sounds) | st.builds(Mark, detail) | st.just(Clear())

TALKS = {
    "twilio": Talk(
        starts(
            st.builds(AudioFormat, st.just("mulaw"), rates, st.integers(1, 2)),
            tracks=told_tracks,
        ).map(numbers_from_parameters),
        st.builds(Connected, detail, detail)
        | media
        | st.builds(Dtmf, keys, numbers)
        | played
        | st.builds(Stop, st.none(), numbers),
        agent,
    ),
    "telnyx": Talk(
        starts(
            st.builds(
                AudioFormat,
                st.sampled_from(["mulaw", "alaw", "g722", "opus", "amr-wb"]),
                rates,
                st.integers(1, 2),
            )
            | st.builds(AudioFormat, st.just("linear16"), rates, big_endian=st.just(True)),
            **callers,
        ),
        st.builds(Connected, st.none(), detail)
        | media
        | st.builds(Dtmf, keys, numbers, moments)
        | played
        | st.builds(Stop, st.none(), numbers)
        | st.builds(Error, numbers, detail, detail),
        agent,
    ),
    "plivo": Talk(
        starts(
            st.builds(AudioFormat, st.sampled_from(["mulaw", "linear16"]), rates),
            tracks=told_tracks,
        ).map(numbers_from_parameters),
        media | st.builds(Dtmf, keys, numbers, st.none() | numbers) | played | st.builds(Cleared, numbers),
        agent | st.builds(Dtmf, st.text("0123456789*#ABCD", min_size=1, max_size=8)),
    ),
    "exotel": Talk(
        starts(st.builds(AudioFormat, st.just("linear16"), rates), **callers),
        st.just(Connected())
        | st.builds(Media, sounds, st.none(), numbers, numbers, numbers)
        | st.builds(Dtmf, keys, numbers, duration_ms=st.none() | numbers)
        | played
        | st.builds(Stop, detail, numbers),
        agent,
    ),
}


@pytest.mark.parametrize("carrier", sorted(DIALECTS))
@given(data=st.data())
def test_what_the_carrier_says_parses_back(carrier, data):
    dialect, talk = DIALECTS[carrier], TALKS[carrier]
    start = data.draw(talk.starts)
    event = data.draw(talk.carrier)
    text = dialect.write_carrier(event, start)
    assert dialect.read_carrier(text) == event
    assert dialect.read_carrier(text.encode()) == event


@pytest.mark.parametrize("carrier", sorted(DIALECTS))
@given(data=st.data())
def test_how_the_carrier_opens_parses_back(carrier, data):
    dialect = DIALECTS[carrier]
    start = data.draw(TALKS[carrier].starts)
    opening = Opening(dialect)
    if dialect.sends_connected:
        assert opening.feed(dialect.write_carrier(Connected(), start)) is None
    assert opening.feed(dialect.write_carrier(start, start)) == start


@pytest.mark.parametrize("carrier", sorted(DIALECTS))
@given(data=st.data())
def test_what_the_carrier_is_told_parses_back(carrier, data):
    dialect, talk = DIALECTS[carrier], TALKS[carrier]
    start = data.draw(talk.starts)
    event = data.draw(talk.agent)
    text = dialect.write_agent(event, start)
    assert dialect.read_agent(text) == event
    assert dialect.event_of(text.encode()) is not None
