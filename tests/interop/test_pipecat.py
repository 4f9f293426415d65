# SPDX-License-Identifier: BSD-2-Clause
"""Each carrier reaches a real Pipecat bot through the gateway and is repeated by it; either side may end.

What such a bot reads, and that only its socket's close ends it: docs/reference/carriers.md §8,
docs/reference/agent-container.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gateway.simulator.call_plan import CallPlan, CallReport
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.wav import Recording, read_speech
from serializers.registry import DIALECTS

AGENT = "echo.interop"

ALIKE = 0.8
"""Likeness of the same words before and after a bot (0.99 as measured); of other words it is under UNLIKE."""

UNLIKE = 0.3

LAST_WORDS_S = 1.0
"""Seconds of audio that the carrier has not played when the bot's close ends the call."""

RATE_HZ = 8000

CallsOfBot = Callable[[], list[dict[str, Any]]]
SessionOf = Callable[[str], dict[str, Any]]

on_each_carrier = pytest.mark.parametrize("carrier", list(DIALECTS))


@on_each_carrier
async def test_bot_repeats_what_the_caller_says(
    carrier: str, gateway_url: str, calls_of_bot: CallsOfBot, session_of: SessionOf
) -> None:
    report = await call(carrier, gateway_url, said := samples(read_speech("caller")))
    assert report.error is None
    assert not report.complaints
    assert likeness(said, report) > ALIKE
    assert likeness(samples(read_speech("greeting")), report) < UNLIKE
    assert calls_of_bot()[-1] == {"carrier": carrier, "call_id": report.call_id, "over": True}
    assert_ended(session_of(report.call_id), "caller_hangup", "caller")


@on_each_carrier
async def test_bot_is_free_for_the_next_caller_after_a_hang_up(
    carrier: str, gateway_url: str, calls_of_bot: CallsOfBot, session_of: SessionOf
) -> None:
    first_words = samples(read_speech("caller"))[:RATE_HZ]
    for _ in range(2):
        report = await call(carrier, gateway_url, first_words)
        assert report.error is None
        assert report.ended_by == "caller"
        assert likeness(first_words, report) > ALIKE
        assert_ended(session_of(report.call_id), "caller_hangup", "caller")
        assert calls_of_bot()[-1]["call_id"] == report.call_id


@on_each_carrier
async def test_bot_that_ends_closes_the_carriers_socket(
    carrier: str, gateway_url: str, calls_of_bot: CallsOfBot, session_of: SessionOf
) -> None:
    said = samples(read_speech("caller"))[: int(2.5 * RATE_HZ)]
    report = await call(carrier, gateway_url, said, digits="#")
    assert report.error is None
    assert (report.ended_by, report.close_code) == ("far side", 1000)
    assert likeness(said[: -int(LAST_WORDS_S * RATE_HZ)], report) > ALIKE
    assert_ended(session_of(report.call_id), "agent_ended", "agent")
    assert calls_of_bot()[-1]["call_id"] == report.call_id


async def call(carrier: str, gateway_url: str, said: np.ndarray, digits: str = "") -> CallReport:
    """Call the bot as a caller that does not wait for a greeting."""
    speech = said.astype("<i2").tobytes()
    return await place_call(
        CallPlan(gateway_url, carrier, speech, RATE_HZ, AGENT, digits, answer_wait=0.1, quiet=2.5)
    )


def assert_ended(session: dict[str, Any], reason: str, side: str) -> None:
    assert (session["state"], session["reason"], session["side"]) == ("ended", reason, side)
    assert session["agent"] == AGENT
    assert session["first_agent_sound_at"] is not None


def samples(recording: Recording) -> np.ndarray:
    assert recording.sample_rate == RATE_HZ
    return np.frombuffer(recording.pcm, "<i2").astype(float)


def likeness(said: np.ndarray, report: CallReport) -> float:
    """Return the largest normalised cross-correlation, over all lags, of the caller's and the played audio.

    1 for the same sound at any loudness, near 0 for another; a place where nothing was heard counts as 0.
    """
    heard = np.frombuffer(report.played_audio, "<i2").astype(float)
    assert report.sample_rate == RATE_HZ
    assert len(heard) >= len(said)
    size = 1 << (len(heard) + len(said)).bit_length()
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)), size)
    lags = len(heard) - len(said) + 1
    energy = np.concatenate(([0.0], np.cumsum(heard**2)))
    norms = np.sqrt((energy[len(said) :] - energy[:lags]) * np.sum(said**2))
    return float(np.max(np.abs(products[:lags]) / np.maximum(norms, 1.0)))
