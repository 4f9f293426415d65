# SPDX-License-Identifier: BSD-2-Clause
"""Call tokens: what they say, that nothing of them can be changed, and the sockets of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.auth.call_tokens import looks_like_one
from gateway.auth.media_tokens import TOKEN_S, MediaTokens, TokenRejected
from gateway.calls.stream_history import CallStream, StreamHistory, TooManyStreams
from gateway.store.sqlite.sqlite_store import SqliteStore
from tests.harness.clock import Clock

SECRET = b"s" * 32
SESSION = "5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e"
FOR = ("support.acme", "acme", "twilio")
CALL = ("acme", "twilio", "CA1")
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(store: SqliteStore, clock: Clock) -> MediaTokens:
    return MediaTokens(SECRET, store, clock)


@pytest.fixture
def sockets(store: SqliteStore, clock: Clock) -> StreamHistory:
    return StreamHistory(store.documents, clock)


def new_ids() -> Callable[[], str]:
    made = iter(f"id-{number}" for number in range(1000))
    return lambda: next(made)


async def let_pass(_: CallStream) -> None:
    """Whoever comes may follow."""


def assert_refused(tokens: MediaTokens, token: str, reason: str, *, of: tuple[str, str, str] = FOR) -> None:
    with pytest.raises(TokenRejected) as refused:
        tokens.read_call(token, *of)
    assert refused.value.reason == reason


def test_what_it_says(tokens: MediaTokens) -> None:
    token = tokens.mint_call(*FOR, call_id="CA1", session_id=SESSION, held=False, takes_over=True)
    claims = tokens.read_call(token, *FOR)
    assert (claims.session_id, claims.held, claims.takes_over) == (SESSION, False, True)
    assert claims.expires_at == 1000.0 + TOKEN_S
    assert claims.is_for("CA1")
    assert not claims.is_for("CA2")
    assert set(token) <= set(URL_SAFE)
    assert looks_like_one(token)


def test_without_call_and_session(tokens: MediaTokens) -> None:
    claims = tokens.read_call(tokens.mint_call(*FOR), *FOR)
    assert (claims.session_id, claims.held, claims.call_digest) == (None, False, None)
    assert claims.is_for("any call")


def test_a_session_is_held_unless_said_otherwise(tokens: MediaTokens) -> None:
    assert tokens.read_call(tokens.mint_call(*FOR, session_id=SESSION), *FOR).held


@pytest.mark.parametrize("session", ["no-uuid", SESSION.upper(), SESSION.replace("-", "")])
def test_a_session_that_is_no_uuid(tokens: MediaTokens, session: str) -> None:
    with pytest.raises(ValueError, match=r"UUID|badly formed"):
        tokens.mint_call(*FOR, session_id=session)


def test_every_character_counts(tokens: MediaTokens) -> None:
    token = tokens.mint_call(*FOR, call_id="CA1", session_id=SESSION)
    for place, character in enumerate(token):
        other = URL_SAFE[(URL_SAFE.index(character) + 1) % 64]
        changed = f"{token[:place]}{other}{token[place + 1 :]}"
        with pytest.raises(TokenRejected):
            tokens.read_call(changed, *FOR)


@pytest.mark.parametrize("changed", [lambda t: t[:-1], lambda t: f"{t}A", lambda t: t[1:], lambda _: ""])
def test_another_length(tokens: MediaTokens, changed: Callable[[str], str]) -> None:
    assert_refused(tokens, changed(tokens.mint_call(*FOR)), "malformed")


def test_it_expires(tokens: MediaTokens, clock: Clock) -> None:
    token, longer = tokens.mint_call(*FOR), tokens.mint_call(*FOR, lasting_s=7200)
    clock.now += TOKEN_S
    assert_refused(tokens, token, "expired")
    assert tokens.read_call(longer, *FOR)


@pytest.mark.parametrize("place", range(3))
def test_for_somebody_else(tokens: MediaTokens, place: int) -> None:
    of = [*FOR]
    of[place] = ("sales.acme", "globex", "plivo")[place]
    assert_refused(tokens, tokens.mint_call(*FOR), "for another agent", of=(of[0], of[1], of[2]))


def test_of_another_secret(store: SqliteStore, tokens: MediaTokens, clock: Clock) -> None:
    assert_refused(tokens, MediaTokens(b"t" * 32, store, clock).mint_call(*FOR), "wrong signature")


async def test_the_two_kinds_are_not_taken_for_each_other(tokens: MediaTokens) -> None:
    media = tokens.mint(*FOR[:2], SESSION)
    assert not looks_like_one(media)
    assert_refused(tokens, media, "malformed")
    with pytest.raises(TokenRejected):
        await tokens.redeem(tokens.mint_call(*FOR, session_id=SESSION), *FOR[:2])


async def test_the_first_socket_is_the_tokens_session(tokens: MediaTokens, sockets: StreamHistory) -> None:
    claims = tokens.read_call(tokens.mint_call(*FOR, session_id=SESSION), *FOR)
    first, before = await sockets.register(CALL, claims, new_ids(), let_pass)
    assert (first.number, first.session_id, before) == (0, SESSION, None)
    second, before = await sockets.register(CALL, claims, new_ids(), let_pass)
    assert (second.number, second.session_id, before) == (1, "id-0", first)
    assert list(await sockets.all(CALL)) == [first, second]
    assert list(await sockets.all(("acme", "twilio", "CA2"))) == []


async def test_a_second_socket_may_be_the_firsts_session(tokens: MediaTokens, sockets: StreamHistory) -> None:
    async def goes_on(known: Sequence[CallStream]) -> str:
        return known[-1].session_id

    claims = tokens.read_call(tokens.mint_call(*FOR, session_id=SESSION), *FOR)
    await sockets.register(CALL, claims, new_ids(), goes_on)
    for number in (1, 2):
        mine, before = await sockets.register(CALL, claims, new_ids(), goes_on)
        assert (mine.number, mine.session_id) == (number, SESSION)
        assert before is not None
    other, _ = await sockets.register(CALL, claims, new_ids(), let_pass)
    assert other.session_id == "id-0"


async def test_all_workers_know_of_a_session_that_waits(sockets: StreamHistory) -> None:
    assert not await sockets.is_lost(SESSION)
    await sockets.mark_lost(SESSION, 5)
    assert await sockets.is_lost(SESSION)
    await sockets.unmark_lost(SESSION)
    assert not await sockets.is_lost(SESSION)
    await sockets.mark_lost(SESSION, 0)
    assert not await sockets.is_lost(SESSION), "not for longer than was said"


async def test_of_many_each_has_a_number_of_its_own(tokens: MediaTokens, sockets: StreamHistory) -> None:
    claims = tokens.read_call(tokens.mint_call(*FOR), *FOR)
    new_id = new_ids()
    taken = await asyncio.gather(*(sockets.register(CALL, claims, new_id, let_pass) for _ in range(20)))
    assert sorted(socket.number for socket, _ in taken) == list(range(20))
    for socket, before in taken:
        assert (before.number if before else -1) == socket.number - 1


async def test_who_may_not_follow_takes_nothing(tokens: MediaTokens, sockets: StreamHistory) -> None:
    async def refuse(_: CallStream) -> None:
        raise LookupError

    claims = tokens.read_call(tokens.mint_call(*FOR), *FOR)
    await sockets.register(CALL, claims, new_ids(), refuse)
    with pytest.raises(LookupError):
        await sockets.register(CALL, claims, new_ids(), refuse)
    assert len(await sockets.all(CALL)) == 1


async def test_there_is_an_end_to_it(
    tokens: MediaTokens, sockets: StreamHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.calls.stream_history.MAX_STREAMS", 3)
    claims, new_id = tokens.read_call(tokens.mint_call(*FOR), *FOR), new_ids()
    for _ in range(3):
        await sockets.register(CALL, claims, new_id, let_pass)
    with pytest.raises(TooManyStreams):
        await sockets.register(CALL, claims, new_id, let_pass)


async def test_a_token_without_a_call_is_bound_to_the_first(
    tokens: MediaTokens, sockets: StreamHistory
) -> None:
    claims = tokens.read_call(tokens.mint_call(*FOR), *FOR)
    tries: Any = await asyncio.gather(*(sockets.bind(claims, f"CA{number}") for number in range(10)))
    assert tries.count(True) == 1
    assert await sockets.bind(claims, f"CA{tries.index(True)}")
    assert not await sockets.bind(replace(claims, call_digest="0" * 32), "CA1")
