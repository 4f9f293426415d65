# SPDX-License-Identifier: BSD-2-Clause
"""MediaTokens for media sockets: what they open, and everything they do not."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.media_tokens import TOKEN_S, MediaClaims, MediaTokens, TokenRejected, load_secret
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore
from tests.harness.clock import Clock
from tests.harness.token_use import redeem

OpenStore = Callable[..., Any]

SECRET = b"s" * 32
SESSION = "5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e"
AGENT = ("support.acme", "acme")
REDEEM_PROCESS = Path(__file__).with_name("redeem_process.py")
ANSWER_S = 60.0
"""Seconds in which a process starts or answers: a test that waits longer hangs."""

URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(store: SqliteStore, clock: Clock) -> MediaTokens:
    return MediaTokens(SECRET, store, clock)


async def assert_refused(
    tokens: MediaTokens, token: str, reason: str, agent: tuple[str, str] = AGENT
) -> None:
    with pytest.raises(TokenRejected) as refusal:
        await redeem(tokens, token, *agent)
    assert refusal.value.reason == reason
    assert not token or token not in str(refusal.value)


async def test_a_token_opens_its_session_once(tokens: MediaTokens) -> None:
    token = tokens.mint(*AGENT, SESSION)
    assert (await redeem(tokens, token, *AGENT)).session_id == SESSION
    await assert_refused(tokens, token, "used already")


async def test_a_token_needs_no_escaping_anywhere(tokens: MediaTokens) -> None:
    minted = [tokens.mint(*AGENT, str(uuid.uuid4()), '{"a": 1}') for _ in range(50)]
    assert all(re.fullmatch("[A-Za-z0-9_-]{140}", token) for token in minted)
    assert len(set(minted)) == 50


async def test_each_token_of_a_session_is_for_once(tokens: MediaTokens) -> None:
    for token in [tokens.mint(*AGENT, SESSION) for _ in range(2)]:
        assert (await redeem(tokens, token, *AGENT)).session_id == SESSION


async def test_a_token_expires(tokens: MediaTokens, clock: Clock) -> None:
    token, late = tokens.mint(*AGENT, SESSION), tokens.mint(*AGENT, SESSION)
    clock.now += TOKEN_S - 0.01
    await redeem(tokens, token, *AGENT)
    clock.now += 0.01
    await assert_refused(tokens, late, "expired")
    await assert_refused(tokens, token, "expired")


async def test_a_used_token_stays_so_when_the_clock_is_set_back(
    tokens: MediaTokens, clock: Clock, store: SqliteStore
) -> None:
    token = tokens.mint(*AGENT, SESSION)
    await redeem(tokens, token, *AGENT)
    clock.now += TOKEN_S + 10
    await store.reap(clock.now)
    clock.now -= 20
    await assert_refused(tokens, token, "used already")


@pytest.mark.parametrize(
    "other",
    [
        ("sales.acme", "acme"),
        ("support.acme", "other"),
        ("support.acm", "eacme"),
        ("Support.acme", "acme"),
        ("", ""),
        ("\ud83d", "acme"),
    ],
)
async def test_a_token_is_for_one_agent_and_not_used_up_at_another(
    other: tuple[str, str], tokens: MediaTokens
) -> None:
    token = tokens.mint(*AGENT, SESSION)
    await assert_refused(tokens, token, "for another agent", other)
    await redeem(tokens, token, *AGENT)


async def test_a_token_of_another_secret_is_refused(
    tokens: MediaTokens, store: SqliteStore, clock: Clock
) -> None:
    forged = MediaTokens(b"x" * 32, store, clock).mint(*AGENT, SESSION)
    await assert_refused(tokens, forged, "wrong signature")


async def test_a_token_with_any_character_changed_is_refused(tokens: MediaTokens) -> None:
    token = tokens.mint(*AGENT, SESSION)
    for n, character in enumerate(token):
        changed = token[:n] + ("A" if character != "A" else "B") + token[n + 1 :]
        await assert_refused(tokens, changed, "wrong signature")
    await redeem(tokens, token, *AGENT)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "nonsense",
        "A" * 139,
        "A" * 141,
        "A" * 140 + "\n",
        "A" * 139 + "=",
        "A" * 139 + ".",
        "A" * 139 + "/",
        "A" * 139 + "+",
        "A" * 139 + "é",
        "A" * 139 + "\ud83d",
        "\u0661" * 140,
        "A" * 1_000_000,
    ],
    ids=lambda token: ascii(token[-4:]) + f" {len(token)}",
)
async def test_what_is_no_token_is_malformed(token: str, tokens: MediaTokens) -> None:
    await assert_refused(tokens, token, "malformed")


async def test_a_token_of_another_release_is_malformed(tokens: MediaTokens) -> None:
    claims = b"\x02" + base64.urlsafe_b64decode(tokens.mint(*AGENT, SESSION))[1:73]
    signed = base64.urlsafe_b64encode(claims + tokens._signature(claims)).decode()
    await assert_refused(tokens, signed, "malformed")


@given(st.text(alphabet=URL_SAFE, min_size=140, max_size=140))
def test_nobody_guesses_a_token(token: str) -> None:
    class NoStore:
        key_values = None  # it is not read

    tokens = MediaTokens(SECRET, NoStore(), Clock())  # type: ignore[arg-type]
    with pytest.raises(TokenRejected, match="wrong signature"):
        asyncio.run(redeem(tokens, token, *AGENT))


async def test_a_token_knows_the_body_it_was_made_with(tokens: MediaTokens) -> None:
    body = '{"name": "Zoë \ud83d"}'
    bound = await redeem(tokens, tokens.mint(*AGENT, SESSION, body), *AGENT)
    assert bound.allows(body)
    for other in (None, "", body + " "):
        assert not bound.allows(other)
    free = await redeem(tokens, tokens.mint(*AGENT, SESSION), *AGENT)
    assert isinstance(free, MediaClaims)
    for any_body in (None, "", body):
        assert free.allows(any_body)
    empty = await redeem(tokens, tokens.mint(*AGENT, SESSION, ""), *AGENT)
    assert empty.allows("")
    assert not empty.allows(None)


@pytest.mark.parametrize(
    "session_id", ["", "session-1", SESSION.upper(), SESSION.replace("-", ""), "{" + SESSION + "}"]
)
def test_a_session_without_a_proper_id_gets_no_token(session_id: str, tokens: MediaTokens) -> None:
    with pytest.raises(ValueError, match=r"UUID|spelled"):
        tokens.mint(*AGENT, session_id)


class RedeemProcess:
    """A worker in a process of its own (redeem_process.py)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, file: Path) -> RedeemProcess:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(REDEEM_PROCESS), str(file), stdin=pipe, stdout=pipe
        )
        started = cls(process)
        assert await started._read_line() == b"ready\n"
        return started

    async def redeem(self, tokens: list[str]) -> list[str]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(tokens).encode() + b"\n")
        answers: list[str] = json.loads(await self._read_line())
        await self._process.communicate()
        return answers

    async def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        return await asyncio.wait_for(self._process.stdout.readline(), ANSWER_S)


async def test_of_two_processes_only_one_redeems_a_token(store: SqliteStore, file: Path) -> None:
    workers = [await RedeemProcess.start(file) for _ in range(2)]
    tokens = MediaTokens(await load_secret(store, lambda: 1000.0), store, lambda: 1000.0)
    sessions = [str(uuid.uuid4()) for _ in range(100)]
    minted = [tokens.mint(*AGENT, session) for session in sessions]
    first, second = await asyncio.gather(*(worker.redeem(minted) for worker in workers))
    for session, *answers in zip(sessions, first, second, strict=True):
        assert sorted(answers) == sorted([session, "used already"])


async def test_a_store_that_does_not_answer_opens_nothing(tokens: MediaTokens, store: SqliteStore) -> None:
    token = tokens.mint(*AGENT, SESSION)
    await store.close()
    with pytest.raises(StoreFailed):
        await redeem(tokens, token, *AGENT)


async def test_the_secret_is_made_once_for_all_workers(open_store: OpenStore, clock: Clock) -> None:
    made: list[int] = []

    def make(size: int) -> bytes:
        made.append(size)
        return bytes([len(made)]) * size

    stores = [await open_store() for _ in range(3)]
    secrets = await asyncio.gather(*(load_secret(store, clock, make) for store in stores))
    assert len(set(secrets)) == 1
    assert set(made) == {32}
    for store in stores:
        await store.close()
    after = await open_store()
    assert await load_secret(after, clock) == secrets[0]


@pytest.mark.parametrize("kept", ["", "null", "1", '"xyz"', '"00ff"', "[" * 9, '{"a": 1}'])
async def test_a_damaged_secret_is_said(kept: str, store: SqliteStore, clock: Clock) -> None:
    await store.key_values.put("secret", "tokens", kept, now=1000.0)
    with pytest.raises(StoreFailed, match="is damaged"):
        await load_secret(store, clock)


def test_a_short_secret_is_none(store: SqliteStore, clock: Clock) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        MediaTokens(b"s" * 31, store, clock)
