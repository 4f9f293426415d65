# SPDX-License-Identifier: BSD-2-Clause
"""Call tokens: their content, and that no change to a token goes unnoticed."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.auth.call_tokens import Audience, is_call_token
from gateway.auth.media_tokens import TOKEN_S, CallGrant, MediaTokens, TokenRejected
from gateway.store.sqlite.sqlite_store import SqliteStore
from tests.harness.clock import Clock
from tests.harness.token_use import redeem

SECRET = b"s" * 32
SESSION = "5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e"
AUDIENCE = Audience("support.acme", "acme", "twilio")
OF_SESSION = CallGrant(session_id=SESSION)
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(store: SqliteStore, clock: Clock) -> MediaTokens:
    return MediaTokens(SECRET, store, clock)


def assert_refused(tokens: MediaTokens, token: str, reason: str, *, audience: Audience = AUDIENCE) -> None:
    with pytest.raises(TokenRejected) as refused:
        tokens.read_call(token, audience)
    assert refused.value.reason == reason


def test_a_token_contains_what_it_was_made_with(tokens: MediaTokens) -> None:
    token = tokens.mint_call(
        AUDIENCE, CallGrant(call_id="CA1", session_id=SESSION, admitted=False, takes_over=True)
    )
    claims = tokens.read_call(token, AUDIENCE)
    assert (claims.session_id, claims.admitted, claims.takes_over) == (SESSION, False, True)
    assert claims.expires_at == 1000.0 + TOKEN_S
    assert claims.is_for("CA1")
    assert not claims.is_for("CA2")
    assert set(token) <= set(URL_SAFE)
    assert is_call_token(token)


@pytest.mark.parametrize("awaited", [False, True])
async def test_a_token_says_whether_its_document_took_the_slot(tokens: MediaTokens, awaited: bool) -> None:
    session_id = tokens.derive_session_id("awaited stream", "support.acme", "CA1")
    grant = CallGrant(
        call_id="CA1", session_id=session_id, awaited=awaited, takes_over=True, unsigned_upgrade=True
    )
    claims = tokens.read_call(tokens.mint_call(AUDIENCE, grant), AUDIENCE)
    assert (claims.awaited, claims.session_id, claims.admitted) == (awaited, session_id, True)


def test_a_derived_session_id_is_of_its_names_alone(tokens: MediaTokens, store: Any, clock: Any) -> None:
    derived = tokens.derive_session_id("a kind", "b", "cd")
    assert derived == MediaTokens(SECRET, store, clock).derive_session_id("a kind", "b", "cd")
    assert str(uuid.UUID(derived)) == derived
    others = [("a kind", "bc", "d"), ("a kind", "bcd"), ("a", "kindb", "cd")]
    assert derived not in [tokens.derive_session_id(*names) for names in others]
    assert derived != MediaTokens(b"t" * 32, store, clock).derive_session_id("a kind", "b", "cd")


@pytest.mark.parametrize("unsigned_upgrade", [False, True])
def test_a_token_says_whether_it_authenticates_an_upgrade(
    tokens: MediaTokens, unsigned_upgrade: bool
) -> None:
    grant = CallGrant(call_id="CA1", takes_over=True, unsigned_upgrade=unsigned_upgrade)
    token = tokens.mint_call(AUDIENCE, grant)
    assert is_call_token(token)
    assert tokens.read_call(token, AUDIENCE).unsigned_upgrade is unsigned_upgrade


def test_a_token_may_name_no_call_and_no_session(tokens: MediaTokens) -> None:
    claims = tokens.read_call(tokens.mint_call(AUDIENCE, CallGrant()), AUDIENCE)
    assert (claims.session_id, claims.admitted, claims.call_digest) == (None, False, None)
    assert claims.is_for("any call")


def test_the_session_of_a_token_is_admitted_by_default(tokens: MediaTokens) -> None:
    assert tokens.read_call(tokens.mint_call(AUDIENCE, CallGrant(session_id=SESSION)), AUDIENCE).admitted


@pytest.mark.parametrize("session", ["no-uuid", SESSION.upper(), SESSION.replace("-", "")])
def test_a_session_id_must_be_a_uuid(tokens: MediaTokens, session: str) -> None:
    with pytest.raises(ValueError, match=r"UUID|badly formed"):
        tokens.mint_call(AUDIENCE, CallGrant(session_id=session))


def test_a_token_with_any_character_changed_is_refused(tokens: MediaTokens) -> None:
    token = tokens.mint_call(AUDIENCE, CallGrant(call_id="CA1", session_id=SESSION))
    for index, character in enumerate(token):
        other = URL_SAFE[(URL_SAFE.index(character) + 1) % 64]
        changed = f"{token[:index]}{other}{token[index + 1 :]}"
        with pytest.raises(TokenRejected):
            tokens.read_call(changed, AUDIENCE)


@pytest.mark.parametrize("changed", [lambda t: t[:-1], lambda t: f"{t}A", lambda t: t[1:], lambda _: ""])
def test_a_token_of_another_length_is_malformed(tokens: MediaTokens, changed: Callable[[str], str]) -> None:
    assert_refused(tokens, changed(tokens.mint_call(AUDIENCE, CallGrant())), "malformed")


def test_a_token_expires(tokens: MediaTokens, clock: Clock) -> None:
    token, longer = (
        tokens.mint_call(AUDIENCE, CallGrant()),
        tokens.mint_call(AUDIENCE, CallGrant(lasting_s=7200)),
    )
    clock.now += TOKEN_S
    assert_refused(tokens, token, "expired")
    assert tokens.read_call(longer, AUDIENCE)


@pytest.mark.parametrize(
    "other",
    [
        replace(AUDIENCE, agent="sales.acme"),
        replace(AUDIENCE, organization="globex"),
        replace(AUDIENCE, carrier="plivo"),
    ],
)
def test_a_token_is_for_one_agent_organisation_and_carrier(tokens: MediaTokens, other: Audience) -> None:
    token = tokens.mint_call(AUDIENCE, CallGrant())
    assert_refused(tokens, token, "for another agent", audience=other)


def test_a_token_of_another_secret_is_refused(store: SqliteStore, tokens: MediaTokens, clock: Clock) -> None:
    assert_refused(
        tokens, MediaTokens(b"t" * 32, store, clock).mint_call(AUDIENCE, CallGrant()), "wrong signature"
    )


async def test_call_tokens_and_media_tokens_are_not_accepted_as_each_other(tokens: MediaTokens) -> None:
    media = tokens.mint(AUDIENCE.agent, AUDIENCE.organization, SESSION)
    assert not is_call_token(media)
    assert_refused(tokens, media, "malformed")
    with pytest.raises(TokenRejected):
        await redeem(
            tokens,
            tokens.mint_call(AUDIENCE, CallGrant(session_id=SESSION)),
            AUDIENCE.agent,
            AUDIENCE.organization,
        )
