# SPDX-License-Identifier: BSD-2-Clause
"""What a session shows while it waits or runs: `queued`, its figures, both spellings of its id."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from gateway.model.session import (
    CallDetails,
    LiveTraffic,
    QueueLimit,
    ReleasedBy,
    SlotLimits,
    Traffic,
)
from gateway.model.session_ids import ulid_of
from gateway.store.interface import Queued

LINE = SlotLimits((("http://127.0.0.1:8080", 0),), per_instance=1, max_instances=1, queue=QueueLimit(1, 2e9))


async def listed(worker: Any, status: str) -> list[str]:
    """Return the ids of the sessions in a status."""
    page = (await worker("GET", f"/v1/sessions?status={status}")).json
    assert page["total"] == len(page["data"])
    assert {session["status"] for session in page["data"]} <= {status}
    return [session["id"] for session in page["data"]]


async def test_a_session_whose_socket_waits_for_a_slot_is_queued(worker: Any, clock: Any) -> None:
    await worker.carries(clock.now)
    session_id = (await worker.starts(transport={"type": "websocket"}))["id"]
    other_id = (await worker.starts(transport={"type": "websocket"}))["id"]
    call = CallDetails(session_id, "support.acme", "acme", "us-west", "generic", None, None, None, None)
    with pytest.raises(Queued):
        await worker.store.admit(call, LINE, clock.now)
    shown = await worker.shows(session_id)
    assert (shown["status"], shown["started_at"], shown["usage"]["seconds"]) == ("queued", None, 0.0)
    assert await listed(worker, "queued") == [session_id]
    assert await listed(worker, "created") == [other_id]
    await worker.store.leave_queue(session_id)
    assert (await worker.shows(session_id))["status"] == "created"
    assert await listed(worker, "queued") == []


async def test_a_session_whose_agent_starts_yet_is_queued(worker: Any, bot_agent: Any) -> None:
    await bot_agent.stop()
    starting = asyncio.create_task(worker.starts())
    async with asyncio.timeout(60):
        while not (waiting := await listed(worker, "queued")):
            await asyncio.sleep(0.01)
        assert await listed(worker, "starting") == []
        await bot_agent.listen()
        session = await starting
    assert [session["id"]] == waiting
    assert session["status"] == "running"


async def test_what_a_running_call_passes_shows_at_every_worker(hire: Any, clock: Any) -> None:
    east, west = await hire(), await hire()
    session_id = await east.carries(clock.now)
    traffic = Traffic(frames_in=300, bytes_in=48_000, frames_out=150, bytes_out=24_000)
    await east.store.heartbeat(clock.now, [LiveTraffic(session_id, traffic, clock.now + 0.5)])
    clock.now += 6.0
    shown = await west.shows(session_id)
    assert (shown["status"], shown["first_audio_at"]) == ("running", "2026-01-31T09:30:00.750Z")
    assert shown["usage"] == {"seconds": 6.0, "frames_in": 300, "frames_out": 150}


async def test_starting_the_agent_counts_as_use_and_waiting_for_it_to_go_does_not(
    worker: Any, bot_agent: Any, clock: Any
) -> None:
    await bot_agent.stop()
    starting = asyncio.create_task(worker.starts())
    async with asyncio.timeout(60):
        while not await listed(worker, "queued"):
            await asyncio.sleep(0.01)
        clock.now += 3.0
        await bot_agent.listen()
        session = await starting
    assert session["usage"]["seconds"] == 3.0
    assert session["started_at"] == "2026-01-31T09:30:03.250Z"

    other_id = await worker.carries(clock.now, "sales.acme")
    clock.now += 10.0
    await worker.begins_to_end(other_id, clock.now)
    clock.now += 2.0
    assert (await worker.shows(other_id))["usage"]["seconds"] == 10.0  # its agent is not gone yet
    await worker.store.release(other_id, clock.now, ReleasedBy.READY)
    clock.now += 100.0
    assert (await worker.shows(other_id))["usage"]["seconds"] == 10.0


@pytest.mark.parametrize("spelling", [str.upper, str.lower])
async def test_either_spelling_of_an_id_names_the_session(spelling: Any, worker: Any, clock: Any) -> None:
    session_id = await worker.carries(clock.now)
    shown = await worker.shows(session_id)
    assert shown["ulid"] == ulid_of(session_id)
    other = "sess_" + spelling(shown["ulid"].removeprefix("sess_"))
    for given in (other, spelling(session_id)):
        path = f"/v1/sessions/{quote(given)}"
        assert await worker.shows(given) == shown
        reply = await worker("GET", f"{path}?wait_for_completion=true&timeout_seconds=1")
        assert reply.json == shown
    reply = await worker("POST", f"/v1/sessions/{other}/complete", {"results": 1})
    assert (reply.status, reply.json["id"]) == (200, session_id)
    reply = await worker("POST", f"/v1/sessions/{other}/stop")
    assert (reply.json["id"], reply.json["status"]) == (session_id, "ending")
