# SPDX-License-Identifier: BSD-2-Clause
"""Reading sessions: one, a page, and one at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.calls.session_events import session_events
from gateway.model.lifecycle import SessionState
from gateway.model.session import Traffic

Until = Callable[[Callable[[], Any]], Any]


# One


async def test_a_telephone_call_is_a_session_too(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    clock.now += 10.5
    shown = await worker.shows(session_id)
    assert (shown["status"], shown["end_reason"]) == ("running", None)
    assert shown["transport"]["type"] == "telephony"
    assert shown["transport"]["carrier"] == "twilio"
    assert shown["usage"] == {"seconds": 10.5, "frames_in": 0, "frames_out": 0}
    assert "+1555" not in str(shown)

    await worker.ends(session_id, clock.now + 1.0)
    clock.now += 100.0
    shown = await worker.shows(session_id)
    assert (shown["status"], shown["end_reason"]) == ("ended", "caller_hangup")
    assert shown["usage"] == {"seconds": 11.5, "frames_in": 3000, "frames_out": 1500}
    assert shown["first_audio_at"] == "2026-01-31T09:30:10.750Z"
    assert shown["ended_at"] == "2026-01-31T09:30:11.750Z"
    assert shown["failed_at"] is shown["failure"] is None


async def test_a_failed_session_has_its_reason(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    await worker.ends(session_id, clock.now + 1.0, SessionState.FAILED)
    shown = await worker.shows(session_id)
    assert shown["status"] == "failed"
    assert shown["failure"] == {"code": "agent_lost", "message": "the agent's socket was reset"}
    assert shown["failed_at"] == shown["ended_at"] == "2026-01-31T09:30:01.250Z"


async def test_a_session_that_ended_before_its_agent_started_is_canceled(worker: Any, clock: Any) -> None:
    session = await worker.starts(transport={"type": "websocket"})
    await worker.ends(
        session["id"], clock.now, SessionState.CANCELED, traffic=Traffic(), first_agent_sound_at=None
    )
    shown = await worker.shows(session["id"])
    assert (shown["status"], shown["started_at"], shown["first_audio_at"]) == ("canceled", None, None)


@pytest.mark.parametrize("session_id", ["7c9e6679-7425-40de-944b-e07fc1f90ae7", "1", "%F0%9F%98%80", "..."])
async def test_a_session_that_is_unknown_is_404(session_id: str, worker: Any) -> None:
    path = f"/v1/sessions/{session_id}"
    for method, rest, value in [
        ("GET", "", None),
        ("GET", "?wait_for_completion=true", None),
        ("POST", "/stop", None),
        ("POST", "/complete", {"results": 1}),
    ]:
        assert (await worker(method, path + rest, value)).refuses(404, "not_found", "not_found")


async def test_another_organisations_session_is_404(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    path = f"/v1/sessions/{session_id}"
    for method, rest, value in [
        ("GET", "", None),
        ("GET", "?wait_for_completion=true", None),
        ("POST", "/stop", None),
        ("POST", "/complete", {"results": 1}),
    ]:
        reply = await worker(method, path + rest, value, key="sk_globex")
        assert reply.refuses(404, "not_found", "not_found")
    shown = await worker.shows(session_id)
    assert (shown["status"], shown["completed_at"]) == ("running", None)
    assert (await worker("GET", "/v1/sessions", key="sk_globex")).json["total"] == 0


# Many


async def test_pages_begin_with_the_newest_session(worker: Any, clock: Any) -> None:
    made = []
    for _ in range(5):
        made.append(await worker.carries(clock.now))
        clock.now += 1.0
    made.reverse()
    page = (await worker("GET", "/v1/sessions?limit=2&offset=1")).json
    assert [session["id"] for session in page["data"]] == made[1:3]
    assert (page["object"], page["total"], page["limit"], page["offset"]) == ("list", 5, 2, 1)
    assert page["has_more"]
    page = (await worker("GET", "/v1/sessions?limit=2&offset=3")).json
    assert [session["id"] for session in page["data"]] == made[3:]
    assert not page["has_more"]
    page = (await worker("GET", "/v1/sessions?offset=5")).json
    assert (page["data"], page["total"], page["limit"], page["has_more"]) == ([], 5, 20, False)


async def test_lists_omit_the_report(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    await worker("POST", f"/v1/sessions/{session_id}/complete", {"results": {"resolved": True}})
    (listed,) = (await worker("GET", "/v1/sessions")).json["data"]
    assert listed["completed_at"] == "2026-01-31T09:30:00.250Z"
    assert not {"transcript", "results", "reported_seconds"} & set(listed)
    shown = await worker.shows(session_id)
    assert {key: shown[key] for key in listed} == listed


async def test_sessions_of_an_agent(worker: Any, clock: Any) -> None:
    support = await worker.carries(clock.now)
    await worker.carries(clock.now, "sales.acme")
    await worker.carries(clock.now, "support.globex")
    for name in ("support", "support.acme"):
        page = (await worker("GET", f"/v1/sessions?agent={name}")).json
        assert ([session["id"] for session in page["data"]], page["total"]) == ([support], 1)
    assert (await worker("GET", "/v1/sessions?agent=support.globex")).json["total"] == 0
    assert (await worker("GET", "/v1/sessions?agent=unknown")).json["total"] == 0


async def test_sessions_of_a_time_range(worker: Any, clock: Any) -> None:
    made = []
    for _ in range(3):
        made.append(await worker.carries(clock.now))
        clock.now += 60.0
    query = "created_from=2026-01-31T09:31:00.250Z&created_before=2026-01-31T10:32:00.250%2B01:00"
    page = (await worker("GET", f"/v1/sessions?{query}")).json
    assert [session["id"] for session in page["data"]] == [made[1]]


async def test_sessions_in_a_status(worker: Any, clock: Any) -> None:
    by_status: dict[str, list[str]] = {"queued": [], "starting": []}
    by_status["created"] = [(await worker.starts(transport={"type": "websocket"}))["id"]]
    calls = [await worker.carries(clock.now) for _ in range(5)]
    by_status["running"] = [calls[1], calls[0]]
    await worker.ends(calls[2], clock.now)
    by_status["ended"] = [calls[2]]
    await worker.ends(calls[3], clock.now, SessionState.FAILED)
    by_status["failed"] = [calls[3]]
    await worker.store.request_stop(calls[4], clock.now)
    by_status["ending"] = [calls[4]]
    canceled = await worker.starts(transport={"type": "websocket"})
    await worker("POST", f"/v1/sessions/{canceled['id']}/stop")
    by_status["canceled"] = [canceled["id"]]
    for status, ids in by_status.items():
        page = (await worker("GET", f"/v1/sessions?status={status}")).json
        assert ([session["id"] for session in page["data"]], page["total"]) == (ids, len(ids)), status
        assert {session["status"] for session in page["data"]} <= {status}
    page = (await worker("GET", "/v1/sessions?status=running&limit=1&offset=1")).json
    assert ([session["id"] for session in page["data"]], page["total"]) == ([calls[0]], 2)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("agent=Support", "agent"),
        ("agent=", "agent"),
        ("status=active", "status"),
        ("created_from=yesterday", "created_from"),
        ("created_from=2026-01-31T09:30:00", "created_from"),
        ("created_before=0001-01-01T00:00:00%2B14:00", "created_before"),
        ("region=us-west", "region"),
    ],
)
async def test_an_invalid_filter_is_refused(query: str, param: str, worker: Any) -> None:
    reply = await worker("GET", f"/v1/sessions?{query}")
    assert reply.refuses(422, "invalid_parameter", "unprocessable", param)


# Once it is over


def waits(worker: Any, session_id: str, timeout_s: int = 120) -> asyncio.Task[Any]:
    path = f"/v1/sessions/{session_id}?wait_for_completion=true&timeout_seconds={timeout_s}"
    return asyncio.create_task(worker("GET", path))


async def test_many_waiting_requests_are_answered_at_the_end(worker: Any, clock: Any, until: Until) -> None:
    session_id, other_id = await worker.carries(clock.now), await worker.carries(clock.now)
    waiting = [waits(worker, session_id) for _ in range(20)]
    other = waits(worker, other_id)
    watch = session_events(worker.store)
    await until(lambda: watch.waiters == 21)
    assert not any(task.done() for task in (*waiting, other))
    await worker.ends(session_id, clock.now + 1.0)
    for reply in await asyncio.gather(*waiting):
        assert (reply.status, reply.json["status"]) == (200, "ended")
    assert not other.done()
    assert watch.waiters == 1
    await worker.ends(other_id, clock.now + 1.0, SessionState.FAILED)
    assert (await other).json["failure"]["code"] == "agent_lost"
    assert watch.waiters == 0


async def test_an_end_in_another_worker_answers_the_wait(hire: Any, clock: Any, until: Until) -> None:
    east, west = await hire(), await hire()
    session_id = await east.carries(clock.now)
    waiting = waits(west, session_id)
    await until(lambda: session_events(west.store).waiters)
    await east.ends(session_id, clock.now + 1.0)
    assert (await waiting).json["status"] == "ended"


async def test_a_pending_session_that_is_stopped_is_over(worker: Any, until: Until) -> None:
    session = await worker.starts(transport={"type": "websocket"})
    waiting = waits(worker, session["id"])
    await until(lambda: session_events(worker.store).waiters)
    await worker("POST", f"/v1/sessions/{session['id']}/stop")
    assert (await waiting).json["status"] == "canceled"


async def test_an_ended_session_is_answered_at_once(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    await worker.ends(session_id, clock.now + 1.0)
    assert (await waits(worker, session_id)).json["status"] == "ended"


async def test_after_the_timeout_the_current_state_is_answered(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    reply = await waits(worker, session_id, 1)
    assert (reply.status, reply.json["status"]) == (200, "running")
    assert session_events(worker.store).waiters == 0


async def test_without_wait_for_completion_the_answer_is_immediate(worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    for query in ("", "?wait_for_completion=false", "?timeout_seconds=120"):
        assert (await worker("GET", f"/v1/sessions/{session_id}{query}")).json["status"] == "running"


async def test_a_client_that_leaves_ends_its_wait(worker: Any, clock: Any, until: Until) -> None:
    session_id = await worker.carries(clock.now)
    watch = session_events(worker.store)
    staying, going = waits(worker, session_id), waits(worker, session_id)
    await until(lambda: watch.waiters == 2)
    going.cancel()
    await until(lambda: watch.waiters == 1)
    staying.cancel()
    await until(lambda: watch.waiters == 0)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("timeout_seconds=0", "timeout_seconds"),
        ("timeout_seconds=121", "timeout_seconds"),
        ("timeout_seconds=soon", "timeout_seconds"),
        ("wait_for_completion=perhaps", "wait_for_completion"),
        ("wait=true", "wait"),
    ],
)
async def test_the_timeout_of_a_wait_is_limited(query: str, param: str, worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    reply = await worker("GET", f"/v1/sessions/{session_id}?{query}")
    assert reply.refuses(422, "invalid_parameter", "unprocessable", param)
