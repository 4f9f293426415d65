# SPDX-License-Identifier: BSD-2-Clause
"""The streams of one call: numbered, one session each, and never without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.call_tokens import Audience, CallClaims
from gateway.auth.media_tokens import CallGrant, MediaTokens
from gateway.calls.stream_history import CallStream, StreamHistory, TooManyStreams
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.clock import Clock

SESSION = "5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e"
ClaimsOf = Callable[[CallGrant], CallClaims]

CALL = ("acme", "twilio", "CA1")
AUDIENCE = Audience("support.acme", "acme", "twilio")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def streams(store: SqliteStore) -> StreamHistory:
    return StreamHistory(store.key_values, Clock())


@pytest.fixture
def claims_of(store: SqliteStore) -> ClaimsOf:
    """What a stream's call token says."""
    tokens = MediaTokens(b"s" * 32, store, Clock())
    return lambda grant: tokens.read_call(tokens.mint_call(AUDIENCE, grant), AUDIENCE)


def new_ids() -> Callable[[], str]:
    made = iter(f"id-{number}" for number in range(1000))
    return lambda: next(made)


async def let_pass(_: CallStream) -> None:
    """Any stream may follow an earlier one."""


async def test_the_first_socket_is_the_tokens_session(claims_of: ClaimsOf, streams: StreamHistory) -> None:
    claims = claims_of(CallGrant(session_id=SESSION))
    first, before = await streams.register(CALL, claims, new_ids(), let_pass)
    assert (first.number, first.session_id, before) == (0, SESSION, None)
    second, before = await streams.register(CALL, claims, new_ids(), let_pass)
    assert (second.number, second.session_id, before) == (1, "id-0", first)
    assert list(await streams.all(CALL)) == [first, second]
    assert list(await streams.all(("acme", "twilio", "CA2"))) == []


async def test_a_second_socket_may_be_the_firsts_session(claims_of: ClaimsOf, streams: StreamHistory) -> None:
    async def goes_on(known: Sequence[CallStream]) -> str:
        return known[-1].session_id

    claims = claims_of(CallGrant(session_id=SESSION))
    await streams.register(CALL, claims, new_ids(), goes_on)
    for number in (1, 2):
        mine, before = await streams.register(CALL, claims, new_ids(), goes_on)
        assert (mine.number, mine.session_id) == (number, SESSION)
        assert before is not None
    other, _ = await streams.register(CALL, claims, new_ids(), let_pass)
    assert other.session_id == "id-0"


async def test_all_workers_know_of_a_session_that_waits(streams: StreamHistory) -> None:
    assert not await streams.is_lost(SESSION)
    await streams.mark_lost(SESSION, 5)
    assert await streams.is_lost(SESSION)
    await streams.unmark_lost(SESSION)
    assert not await streams.is_lost(SESSION)
    await streams.mark_lost(SESSION, 0)
    assert not await streams.is_lost(SESSION), "not for longer than was said"


async def test_of_many_each_has_a_number_of_its_own(claims_of: ClaimsOf, streams: StreamHistory) -> None:
    claims = claims_of(CallGrant())
    new_id = new_ids()
    taken = await asyncio.gather(*(streams.register(CALL, claims, new_id, let_pass) for _ in range(20)))
    assert sorted(socket.number for socket, _ in taken) == list(range(20))
    for socket, before in taken:
        assert (before.number if before else -1) == socket.number - 1


async def test_who_may_not_follow_takes_nothing(claims_of: ClaimsOf, streams: StreamHistory) -> None:
    async def refuse(_: CallStream) -> None:
        raise LookupError

    claims = claims_of(CallGrant())
    await streams.register(CALL, claims, new_ids(), refuse)
    with pytest.raises(LookupError):
        await streams.register(CALL, claims, new_ids(), refuse)
    assert len(await streams.all(CALL)) == 1


async def test_there_is_an_end_to_it(
    claims_of: ClaimsOf, streams: StreamHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.calls.stream_history.MAX_STREAMS", 3)
    claims, new_id = claims_of(CallGrant()), new_ids()
    for _ in range(3):
        await streams.register(CALL, claims, new_id, let_pass)
    with pytest.raises(TooManyStreams):
        await streams.register(CALL, claims, new_id, let_pass)


async def test_a_token_without_a_call_is_bound_to_the_first(
    claims_of: ClaimsOf, streams: StreamHistory
) -> None:
    claims = claims_of(CallGrant())
    tries: Any = await asyncio.gather(*(streams.bind(claims, f"CA{number}") for number in range(10)))
    assert tries.count(True) == 1
    assert await streams.bind(claims, f"CA{tries.index(True)}")
    assert not await streams.bind(replace(claims, call_digest="0" * 32), "CA1")
