# SPDX-License-Identifier: BSD-2-Clause
"""The end of a session: one place builds its record, saves it and logs it, whatever kind of session it is."""

from __future__ import annotations

import ast
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from gateway.calls.session_end import SessionEnd, log_end, save, save_if_unattached
from gateway.calls.session_events import session_events
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import REASONS, CallEnded, Party, Reason, Reasons
from gateway.model.session import CallDetails, SlotLimits, Traffic
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

GATEWAY = Path(__file__).parents[2] / "gateway"
LIMITS = SlotLimits((("http://127.0.0.1:8080", 0),), per_instance=100, max_instances=1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await opened.open()
    yield opened
    await opened.close()


def details(stream_id: str | None = None) -> CallDetails:
    session_id = str(uuid.uuid4())
    return CallDetails(session_id, "support.acme", "acme", "us-west", "twilio", None, stream_id, None, None)


async def admitted(store: SqliteStore, stream_id: str | None = None) -> str:
    call = details(stream_id)
    await store.admit(call, LIMITS, time.time())
    return call.session_id


def ended(session_id: str, reason: Reason = Reasons.stopped, *, ran: bool = False) -> SessionEnd:
    return SessionEnd(session_id, CallEnded(reason, "in words"), time.time(), ran=ran)


def makers(name: str) -> set[str]:
    """Return the files of the gateway that call `name`."""
    return {
        str(path.relative_to(GATEWAY))
        for path in GATEWAY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    }


@pytest.mark.parametrize(
    ("value", "owner"), [("SlotLimits", "calls/capacity.py"), ("SessionResult", "calls/session_end.py")]
)
def test_one_file_decides(value: str, owner: str) -> None:
    assert makers(value) == {owner}


@pytest.mark.parametrize(
    ("reason", "ran", "state"),
    [
        (Reasons.caller_hangup, True, SessionState.ENDED),
        (Reasons.caller_hangup, False, SessionState.CANCELED),
        (Reasons.agent_lost, True, SessionState.FAILED),
        (Reasons.agent_lost, False, SessionState.FAILED),
    ],
)
def test_the_state_follows_from_the_reason_and_whether_the_agent_was_connected(
    reason: Reason, ran: bool, state: SessionState
) -> None:
    result = ended("a-session", reason, ran=ran).result()
    assert (result.state, result.reason, result.side) == (state, reason.code, reason.party)


async def test_a_saved_end_is_read_at_once_and_wakes_those_who_wait(store: SqliteStore) -> None:
    session_id = await admitted(store)
    with session_events(store).waiting(session_id) as over:
        saving = save(store, ended(session_id))
        saving.send(None)  # up to the point at which it first suspends
        assert over.done()
        record = await store.session(session_id)
        saving.close()
    assert record is not None
    assert (record.state, record.reason, record.detail) == (SessionState.CANCELED, "stopped", "in words")


async def test_a_dialed_session_without_a_stream_is_ended(store: SqliteStore) -> None:
    session_id = await admitted(store)
    with session_events(store).waiting(session_id) as over:
        assert await save_if_unattached(store, ended(session_id))
        assert over.done()


async def test_a_dialed_session_is_left_to_the_call_that_has_its_stream(store: SqliteStore) -> None:
    session_id = await admitted(store, stream_id="MZ1")
    assert not await save_if_unattached(store, ended(session_id))
    record = await store.session(session_id)
    assert record is not None
    assert record.active


@pytest.mark.parametrize(
    ("reason", "level"),
    [
        (Reasons.caller_hangup, "info"),
        (Reasons.agent_lost, "warning"),
        (Reasons.internal_error, "error"),
    ],
)
def test_the_log_line_has_the_fields_that_operators_search_for(reason: Reason, level: str) -> None:
    end = CallEnded(reason, "in words")
    with structlog.testing.capture_logs() as lines:
        log_end(
            structlog.get_logger(),
            "call ended",
            end,
            seconds=1.23456,
            ran=True,
            traffic=Traffic(5, 50, 7, 70),
        )
        log_end(structlog.get_logger(), "bot ended", end, seconds=2.0, ran=True)
    common = {"reason": reason.code, "side": str(reason.party), "words": "in words", "log_level": level}
    assert lines == [
        common | {"event": "call ended", "seconds": 1.235, "frames_in": 5, "frames_out": 7},
        common | {"event": "bot ended", "seconds": 2.0},
    ]


def level_of(reason: Reason, *, ran: bool, unheard: bool = False) -> str:
    with structlog.testing.capture_logs() as lines:
        log_end(structlog.get_logger(), "x", CallEnded(reason), seconds=1.0, ran=ran, unheard=unheard)
    return str(lines[0]["log_level"])


@pytest.mark.parametrize("reason", REASONS.values(), ids=lambda reason: reason.code)
def test_a_failed_call_is_a_warning_and_a_harmed_one_an_error(reason: Reason) -> None:
    level = level_of(reason, ran=True)
    if not reason.failed:
        assert level == "info"
    elif reason.party is Party.GATEWAY:
        assert level == "error", "the caller was cut by our own fault"
    else:
        assert level == "warning"


def test_what_any_stranger_can_bring_about_is_no_warning() -> None:
    by_strangers = {code for code, reason in REASONS.items() if reason.failed and not warns(reason)}
    assert by_strangers == {
        "unauthorized",
        "not_found",
        "unknown_agent",
        "wrong_region",
        "bad_request",
        "too_large",
        "rate_limited",
        "preempted",
        "duplicate_call",
        "number_refused",
        "property_refused",
        "bad_opening",
        "carrier_protocol_error",
    }


def warns(reason: Reason) -> bool:
    return level_of(reason, ran=False) != "info"


def test_a_caller_who_heard_nothing_was_harmed_however_the_call_ended() -> None:
    assert level_of(Reasons.caller_hangup, ran=True, unheard=True) == "error"
