# SPDX-License-Identifier: BSD-2-Clause
"""How a carrier answers marks and clears (docs/reference/carriers.md §2.3, §3.3, §4.3, §5.2)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.fake_carrier import place_call

SOUND_S = 0.4
"""Enough for a mark to be late, in silence as the carrier codes it."""


def _sound(carrier: str) -> dict[str, Any]:
    silence = bytes(int(16000 * SOUND_S)) if carrier == "exotel" else b"\xff" * int(8000 * SOUND_S)
    event = "playAudio" if carrier == "plivo" else "media"
    return {"event": event, "media": {"payload": base64.b64encode(silence).decode()}}


def _mark(carrier: str, name: str) -> dict[str, Any]:
    if carrier == "plivo":
        return {"event": "checkpoint", "name": name}
    return {"event": "mark", "mark": {"name": name}}


def _clear(carrier: str) -> dict[str, Any]:
    return {"event": "clearAudio" if carrier == "plivo" else "clear"}


def _after_the_opening(*messages: dict[str, Any]) -> Any:
    """Says it all at the carrier's first sound."""

    async def script(connection: Any, message: dict[str, Any]) -> None:
        sound = message.get("media", {})
        if str(sound.get("chunk")) == "1":
            for message in messages:
                await connection.send(json.dumps(message))

    return script


def _played(gateway: Any, carrier: str) -> list[str]:
    if carrier == "plivo":
        return [message["name"] for message in gateway.events("playedStream")]
    return [message["mark"]["name"] for message in gateway.events("mark")]


async def test_a_mark_comes_back_when_the_sound_before_it_has_been_played(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    carriers = ("twilio", "telnyx", "plivo", "exotel")
    await asyncio.gather(*(assert_marks_wait_for_sound(carrier, far_side, plan) for carrier in carriers))


async def assert_marks_wait_for_sound(
    carrier: str, far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    script = _after_the_opening(
        _mark(carrier, "idle"), _sound(carrier), _mark(carrier, "one"), _mark(carrier, "two")
    )
    async with far_side(script) as gateway:
        report = await place_call(plan(gateway.url, carrier))
    assert _played(gateway, carrier) == list(report.marks) == ["idle", "one", "two"]
    order = [message["event"] for message in gateway.messages]
    mark = "playedStream" if carrier == "plivo" else "mark"
    first, last = order.index(mark), len(order) - order[::-1].index(mark)
    frames_between = order[first:last].count("media")
    assert frames_between >= SOUND_S * 1000 / (100 if carrier == "exotel" else 20)


@pytest.mark.parametrize(
    ("carrier", "returned", "confirmed"),
    [
        ("twilio", ["one", "two"], False),
        ("telnyx", ["one", "two"], False),
        ("plivo", [], True),
        ("exotel", [], False),
    ],
)
async def test_a_clear_empties_the_buffer(
    carrier: str,
    returned: list[str],
    confirmed: bool,
    far_side: Callable[..., Any],
    plan: Callable[..., Any],
) -> None:
    script = _after_the_opening(
        _sound(carrier), _mark(carrier, "one"), _sound(carrier), _mark(carrier, "two"), _clear(carrier)
    )
    async with far_side(script) as gateway:
        report = await place_call(plan(gateway.url, carrier))
    assert _played(gateway, carrier) == returned
    assert bool(gateway.events("clearedAudio")) is confirmed
    assert report.frames_received == 2
    assert report.audible_ms == 0


async def test_telnyx_says_what_it_cannot_read(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    async with far_side(_after_the_opening({"no": "event"})) as gateway:
        report = await place_call(plan(gateway.url, "telnyx"))
    assert [error["payload"]["code"] for error in gateway.events("error")] == [100003]
    assert any("unreadable" in detail for detail in report.complaints)


async def test_exotel_complains_about_chunks_it_would_play_with_gaps(
    far_side: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    small = {"event": "media", "media": {"payload": base64.b64encode(bytes(640)).decode()}}
    async with far_side(_after_the_opening(small)) as gateway:
        report = await place_call(plan(gateway.url, "exotel"))
    assert not report.failed
    assert "640 bytes" in report.complaints[0]
