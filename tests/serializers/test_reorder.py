# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's media messages are put in order within a bounded window (docs/reference/carriers.md §3.2)."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.registry import DIALECTS
from serializers.reorder import RESTART, WINDOW, ReorderBuffer
from serializers.transforms import ToAgentInOrder


def media(chunk: int | str, track: str = "inbound") -> bytes:
    return json.dumps(
        {"event": "media", "media": {"track": track, "chunk": chunk, "payload": "/w=="}}
    ).encode()


def passed(order: ReorderBuffer, chunks: Iterable[int]) -> list[int]:
    return [
        int(json.loads(message)["media"]["chunk"])
        for chunk in chunks
        for message in order.feed(media(str(chunk)))
    ]


@pytest.mark.parametrize(
    ("came", "passes"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 3, 2, 4], [1, 2, 3, 4]),
        ([1, 5, 4, 3, 2, 6], [1, 2, 3, 4, 5, 6]),
        ([7, 9, 8, 10], [7, 8, 9, 10]),
        ([1, 2, 2, 3, 1], [1, 2, 3]),
        ([1, 3, 4, 5, 6, 7, 8, 2, 9], [1, 3, 4, 5, 6, 7, 8, 9]),
        ([1, 3, 3, 3, 3, 3, 3, 3, 2], [1, 2, 3]),
        ([900, 901, 1, 2, 3], [900, 901, 1, 2, 3]),
        ([900, 902, 1, 2], [900, 902, 1, 2]),
    ],
)
def test_messages_are_passed_on_in_order(came: list[int], passes: list[int]) -> None:
    assert passed(ReorderBuffer(), came) == passes


def test_a_gap_is_waited_for_only_until_the_carrier_pauses() -> None:
    order = ReorderBuffer()
    assert passed(order, [1, 3, 4]) == [1]
    assert order.has_buffered
    assert list(order.flush()) == [media("3"), media("4")]
    assert not order.has_buffered
    assert passed(order, [2, 5]) == [5]


def test_stop_follows_all_audio_and_digits_do_not_wait() -> None:
    order = ReorderBuffer()
    assert passed(order, [1, 3]) == [1]
    digit, stop = b'{"event":"dtmf","dtmf":{"digit":"5"}}', b'{"event":"stop"}'
    assert list(order.feed(digit)) == [digit]
    assert list(order.feed(stop)) == [media("3"), stop]


@pytest.mark.parametrize("chunk", ["", "one", None, 1.5, True, [], "9" * 5000])
def test_an_invalid_chunk_number_changes_nothing(chunk: object) -> None:
    order = ReorderBuffer()
    passed(order, [1])
    odd = media(chunk)  # type: ignore[arg-type]
    assert list(order.feed(odd)) == [odd]
    assert passed(order, [2]) == [2]


@given(st.permutations(range(1, 40)))
def test_messages_are_always_in_order_and_never_more_than_the_window_are_buffered(chunks: list[int]) -> None:
    order = ReorderBuffer()
    out = []
    for chunk in chunks:
        out += passed(order, [chunk])
        assert len(order._buffered) <= WINDOW
    out += [int(json.loads(message)["media"]["chunk"]) for message in order.flush()]
    assert out == sorted(set(out))


@given(st.integers(1, 10**6), st.lists(st.integers(0, WINDOW - 1), max_size=60))
def test_a_message_that_is_late_by_less_than_the_window_is_not_lost(first: int, delays: list[int]) -> None:
    numbers = range(first, first + len(delays))
    came = sorted(numbers, key=lambda number: number - first + delays[number - first])
    if not came or came[0] != first:
        return  # what was before the first that came is past
    order = ReorderBuffer()
    out = passed(order, came)
    out += [int(json.loads(message)["media"]["chunk"]) for message in order.flush()]
    assert out == list(numbers)
    assert len(delays) < RESTART


def test_only_telnyx_messages_are_reordered() -> None:
    assert {
        carrier: isinstance(DIALECTS[carrier].transforms()[0], ToAgentInOrder)
        for carrier in ("twilio", "telnyx", "plivo", "exotel")
    } == {"twilio": False, "telnyx": True, "plivo": False, "exotel": False}


def test_malformed_messages_and_outbound_audio_never_reach_the_agent() -> None:
    to_agent, _ = DIALECTS["telnyx"].transforms()
    assert to_agent.feed(b"no message") == ()
    assert to_agent.feed(media("1", "outbound")) == ()
    first, third, second = media("1"), media("3"), media("2")
    assert to_agent.feed(first) is None, "as it came"
    assert to_agent.feed(third) == ()
    assert to_agent.has_buffered
    assert to_agent.feed(second) == [second, third]
