# SPDX-License-Identifier: BSD-2-Clause
"""Stopping a session from any worker, and reporting its outcome, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from gateway.calls.session_events import session_events
from gateway.model.lifecycle import SessionState

Until = Callable[[Callable[[], Any]], Any]
ENTRY = {"role": "user", "text": "Good morning.", "timestamp": "2026-01-31T09:30:01.5Z"}


# Stopping


async def test_a_stop_closes_the_agents_request(worker: Any, bot_agent: Any) -> None:
    session = await worker.starts()
    started = await bot_agent.next()
    reply = await worker("POST", f"/v1/sessions/{session['id']}/stop")
    assert (reply.status, reply.json["id"]) == (200, session["id"])
    assert reply.json["status"] in ("ending", "ended")
    async with asyncio.timeout(60):
        await started.gone.wait()
    over = await worker("GET", f"/v1/sessions/{session['id']}?wait_for_completion=true")
    assert (over.json["status"], over.json["end_reason"]) == ("ended", "stopped")


async def test_another_worker_is_asked_to_stop_a_session(hire: Any, bot_agent: Any, until: Until) -> None:
    east, west = await hire(), await hire()
    session = await east.starts()
    started = await bot_agent.next()
    path = f"/v1/sessions/{session['id']}"
    waiting = asyncio.create_task(east("GET", f"{path}?wait_for_completion=true&timeout_seconds=120"))
    await until(lambda: session_events(east.store).waiters)
    assert (await west("POST", f"{path}/stop")).status == 200
    async with asyncio.timeout(60):
        await started.gone.wait()
    over = (await waiting).json
    assert (over["status"], over["end_reason"]) == ("ended", "stopped")
    assert (await west.shows(session["id"]))["status"] == "ended"
    await until(lambda: not east.bots.running)
    assert (await east.starts())["status"] == "running"  # its place is free


async def test_a_session_is_ending_until_its_worker_has_ended_it(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)  # which nobody here really carries
    for _ in range(2):
        reply = await worker("POST", f"/v1/sessions/{session_id}/stop")
        assert (reply.status, reply.json["status"]) == (200, "ending")
    await worker.ends(session_id, clock.now + 1.0)
    assert (await worker.shows(session_id))["status"] == "ended"


async def test_a_stop_of_an_ended_session_changes_nothing(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    await worker.ends(session_id, clock.now + 1.0, SessionState.FAILED)
    before = await worker.shows(session_id)
    reply = await worker("POST", f"/v1/sessions/{session_id}/stop")
    assert (reply.status, reply.json) == (200, before)


# Reporting


async def test_a_report_is_stored_and_returned(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    clock.now += 60.0
    transcript = [
        ENTRY,
        {"role": "assistant", "text": "Grüß Gott 😀\u0000", "timestamp": "2026-01-31T10:30:02+01:00"},
    ]
    results = {"resolved": True, "score": 0.5, "notes": [None, "ü"]}
    report = {"transcript": transcript, "duration_seconds": 59.5, "results": results}
    reply = await worker("POST", f"/v1/sessions/{session_id}/complete", report)
    assert reply.status == 200
    assert reply.json["completed_at"] == "2026-01-31T09:31:00.250Z"
    assert reply.json["reported_seconds"] == 59.5
    assert reply.json["results"] == results
    assert reply.json["transcript"] == [
        ENTRY | {"timestamp": "2026-01-31T09:30:01.500Z"},
        transcript[1] | {"timestamp": "2026-01-31T09:30:02.000Z"},
    ]
    assert reply.json["status"] == "running"  # to report does not end it
    await worker.ends(session_id, clock.now)
    shown = await worker.shows(session_id)
    assert {key: shown[key] for key in report if key != "duration_seconds"} == {
        key: reply.json[key] for key in ("transcript", "results")
    }


PI: Final = json.loads("""{
    "transcript": [
      { "role": "agent", "text": "Hi! How can I help you today?", "timestamp": 1710000000 },
      { "role": "user", "text": "I am looking for a Pro plan upgrade.", "timestamp": 1710000005 },
      { "role": "agent", "text": "Great, what is your team size?", "timestamp": 1710000008 }
    ],
    "duration_seconds": 120
  }""")
"""A report as clients of another service send it, whose times are Unix seconds."""


async def test_a_transcript_may_count_seconds_or_have_no_times(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    reply = await worker("POST", f"/v1/sessions/{session_id}/complete", PI)
    assert (reply.status, reply.json["reported_seconds"]) == (200, 120)
    times = ["2024-03-09T16:00:00.000Z", "2024-03-09T16:00:05.000Z", "2024-03-09T16:00:08.000Z"]
    expected = [entry | {"timestamp": at} for entry, at in zip(PI["transcript"], times, strict=True)]
    assert reply.json["transcript"] == expected
    assert (await worker.shows(session_id))["transcript"] == expected

    untimed = {"role": "user", "text": "Hello"}
    given = [untimed, untimed | {"timestamp": None}, untimed | {"timestamp": 1710000000.25}]
    other_id = await worker.carries(clock.now)
    reply = await worker("POST", f"/v1/sessions/{other_id}/complete", {"transcript": given})
    shown = [entry["timestamp"] for entry in reply.json["transcript"]]
    assert shown == [None, None, "2024-03-09T16:00:00.250Z"]


@pytest.mark.parametrize(
    "report",
    [
        {"transcript": [{"role": "user", "text": "Hello"}] * 5000},
        {"transcript": [ENTRY]},
        {"transcript": [ENTRY] * 5000},
        {"transcript": [ENTRY | {"text": ""}]},
        {"transcript": [ENTRY | {"role": "r" * 64, "text": "x" * 20_000}]},
        {"transcript": [ENTRY | {"text": "x" * 500}] * 5000},
        {"duration_seconds": 0},
        {"duration_seconds": 86_400},
        {"results": []},
        {"results": False},
        {"results": "x" * 999_998},
    ],
    ids=lambda report: f"{next(iter(report))}-{len(str(report))}",
)
async def test_reports_at_their_limits_are_accepted(report: Any, worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    reply = await worker("POST", f"/v1/sessions/{session_id}/complete", report)
    assert reply.status == 200, reply.json
    if "transcript" in report:
        assert len(reply.json["transcript"]) == len(report["transcript"])
    if "results" in report:
        assert reply.json["results"] == report["results"]


@pytest.mark.parametrize(
    ("report", "param"),
    [
        ({}, None),
        ({"transcript": None}, None),
        ({"transcript": []}, "transcript"),
        ({"transcript": [ENTRY] * 5001}, "transcript"),
        ({"transcript": ENTRY}, "transcript"),
        ({"transcript": [ENTRY, ENTRY | {"timestamp": True}]}, "transcript[1].timestamp"),
        ({"transcript": [ENTRY | {"timestamp": "1710000000"}]}, "transcript[0].timestamp"),
        ({"transcript": [ENTRY | {"timestamp": -1}]}, "transcript[0].timestamp"),
        ({"transcript": [ENTRY | {"timestamp": 1_710_000_000_000}]}, "transcript[0].timestamp"),  # ms
        (
            {"transcript": [ENTRY] * 500 + [ENTRY | {"timestamp": 253_402_300_800}]},
            "transcript[500].timestamp",
        ),
        ({"transcript": [ENTRY, ENTRY | {"role": ""}]}, "transcript[1].role"),
        ({"transcript": [ENTRY | {"role": "r" * 65}]}, "transcript[0].role"),
        ({"transcript": [ENTRY | {"text": None}]}, "transcript[0].text"),
        ({"transcript": [ENTRY | {"text": "x" * 20_001}]}, "transcript[0].text"),
        ({"transcript": [ENTRY | {"timestamp": "2026-01-31T09:30:00"}]}, "transcript[0].timestamp"),
        ({"transcript": [ENTRY | {"timestamp": "soon"}]}, "transcript[0].timestamp"),
        ({"transcript": [ENTRY | {"timestamp": "0001-01-01T00:00:00+14:00"}]}, "transcript[0].timestamp"),
        ({"transcript": [ENTRY | {"speaker": 1}]}, "transcript[0].speaker"),
        ({"duration_seconds": -0.5}, "duration_seconds"),
        ({"duration_seconds": 86_400.5}, "duration_seconds"),
        ({"duration_seconds": "60"}, "duration_seconds"),
        ({"duration_seconds": True}, "duration_seconds"),
        ({"results": "x" * 999_999}, "results"),
        ({"results": 1, "unknown": 1}, "unknown"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_invalid_report_is_refused(report: Any, param: str | None, worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    reply = await worker("POST", f"/v1/sessions/{session_id}/complete", report)
    assert reply.refuses(422, "invalid_parameter", "unprocessable", param)
    assert (await worker.shows(session_id))["completed_at"] is None


async def test_a_report_that_is_too_large_is_413(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    reply = await worker("POST", f"/v1/sessions/{session_id}/complete", {"results": "x" * 3_000_000})
    assert reply.status == 413
    assert (await worker.shows(session_id))["completed_at"] is None


async def test_a_session_is_completed_once(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    path = f"/v1/sessions/{session_id}/complete"
    replies = await asyncio.gather(*[worker("POST", path, {"results": each}) for each in range(5)])
    assert sorted(reply.status for reply in replies) == [200, 409, 409, 409, 409]
    kept = next(reply.json["results"] for reply in replies if reply.status == 200)
    again = await worker("POST", path, {"transcript": [ENTRY]})
    assert again.refuses(409, "already_completed", "conflict")
    shown = await worker.shows(session_id)
    assert (shown["results"], shown["transcript"]) == (kept, None)


@pytest.mark.parametrize("state", [SessionState.ENDED, SessionState.FAILED])
async def test_an_ended_session_cannot_be_completed(state: SessionState, worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    await worker.ends(session_id, clock.now + 1.0, state)
    reply = await worker("POST", f"/v1/sessions/{session_id}/complete", {"results": 1})
    assert reply.refuses(409, "session_not_active", "conflict")
    assert state.value in reply.json["error"]["message"]


async def test_a_pending_session_cannot_be_completed(worker: Any) -> None:
    session = await worker.starts(transport={"type": "websocket"})
    path = f"/v1/sessions/{session['id']}"
    assert (await worker("POST", f"{path}/complete", {"results": 1})).refuses(
        409, "session_not_active", "conflict"
    )
    await worker("POST", f"{path}/stop")
    assert (await worker("POST", f"{path}/complete", {"results": 1})).refuses(
        409, "session_not_active", "conflict"
    )
