# SPDX-License-Identifier: BSD-2-Clause
"""Daily's signature of a dial-in webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.carriers.daily.auth import authenticate_dialin
from gateway.carriers.signatures import MAX_BODY_BYTES, AuthenticationFailed

# docs/reference/carriers.md §9.4
SECRET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
STAMP = "1756000000000"
NOW = 1_756_000_000.0
BODY = (
    b'{"To":"+14155550199","From":"+14155550100","callId":"11111111-1111-4111-8111-111111111111",'
    b'"callDomain":"22222222-2222-4222-8222-222222222222"}'
)
SIGNATURE = "7SKp9YV7qBZh6kSMllYwo60lxJeSPEN9ZWwpBKuYRsg="


def daily_signs(stamp: str, body: bytes, secret: str = SECRET) -> str:
    digest = hmac.new(base64.b64decode(secret), stamp.encode() + b"." + body, hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def authenticate(
    *secrets: str,
    stamp: str | None = STAMP,
    signature: str | None = SIGNATURE,
    raw: bytes = BODY,
    now: float = NOW,
) -> None:
    authenticate_dialin([SecretStr(secret) for secret in secrets or (SECRET,)], stamp, signature, raw, now)


def changed_texts(text: str) -> Iterator[str]:
    for index, character in enumerate(text):
        for other in {chr(ord(character) ^ 1), chr(ord(character) ^ 32), *"aZ0/+= ,"} - {character}:
            yield text[:index] + other + text[index + 1 :]


def test_the_documented_signature_is_accepted() -> None:
    authenticate()
    assert daily_signs(STAMP, BODY) == SIGNATURE


def test_no_byte_may_change() -> None:
    for stamp in changed_texts(STAMP):
        with pytest.raises(AuthenticationFailed):
            authenticate(stamp=stamp)
    for signature in changed_texts(SIGNATURE):
        with pytest.raises(AuthenticationFailed):
            authenticate(signature=signature)
    for body in changed_texts(BODY.decode()):
        with pytest.raises(AuthenticationFailed):
            authenticate(raw=body.encode())


def test_the_same_json_written_anew_is_another_body() -> None:
    with pytest.raises(AuthenticationFailed):
        authenticate(raw=BODY.replace(b",", b", "))


@pytest.mark.parametrize("stamp", ["1756000000", "1756000000000", "01756000000"])
@pytest.mark.parametrize("drift_s", [-300, 0, 299, 300])
def test_seconds_and_milliseconds_are_both_read(stamp: str, drift_s: int) -> None:
    authenticate(stamp=stamp, signature=daily_signs(stamp, BODY), now=NOW + drift_s)


@pytest.mark.parametrize("stamp", ["1756000000", "1756000000000"])
@pytest.mark.parametrize("drift_s", [-301, 301, -1e9, 1e12, float("nan")])
def test_what_is_not_of_these_five_minutes_is_refused(stamp: str, drift_s: float) -> None:
    with pytest.raises(AuthenticationFailed, match="300 s"):
        authenticate(stamp=stamp, signature=daily_signs(stamp, BODY), now=NOW + drift_s)


def test_one_unit_does_not_pass_as_the_other() -> None:
    with pytest.raises(AuthenticationFailed):
        authenticate(stamp="1756000000")


@pytest.mark.parametrize(
    "stamp", [None, "", "now", "-1", "1756000000.0", f"{STAMP},{STAMP}", f"{STAMP} ", "ä", "\ud800", 99 * "1"]
)
def test_what_is_no_timestamp_is_refused(stamp: str | None) -> None:
    with pytest.raises(AuthenticationFailed, match="x-pinless-timestamp"):
        authenticate(stamp=stamp)


@pytest.mark.parametrize(
    "signature",
    [None, "", f"{SIGNATURE},{SIGNATURE}", "ä", "\ud800", base64.b64decode(SIGNATURE).hex(), 9999 * "A"],
)
def test_what_is_no_signature_is_refused(signature: str | None) -> None:
    with pytest.raises(AuthenticationFailed, match="signature"):
        authenticate(signature=signature)


def test_any_of_several_secrets_is_accepted() -> None:
    other = base64.b64encode(b"another secret").decode()
    authenticate(other, SECRET)
    authenticate(SECRET, other)
    authenticate(SECRET, other, signature=daily_signs(STAMP, BODY, other))
    with pytest.raises(AuthenticationFailed) as caught:
        authenticate(other)
    assert other not in caught.value.reason


def test_without_a_secret_every_request_is_refused() -> None:
    with pytest.raises(AuthenticationFailed, match="no secret"):
        authenticate_dialin([], STAMP, SIGNATURE, BODY, NOW)


def test_a_body_that_is_too_long_is_refused() -> None:
    with pytest.raises(AuthenticationFailed, match="bytes"):
        authenticate(raw=bytes(MAX_BODY_BYTES + 1))


@given(st.binary(max_size=80))
def test_any_bytes_that_daily_signs_are_accepted(body: bytes) -> None:
    authenticate(raw=body, signature=daily_signs(STAMP, body))


@given(
    st.text(st.characters(), max_size=90) | st.none(),
    st.text(st.characters(), max_size=90) | st.none(),
    st.binary(max_size=60),
    st.floats() | st.just(NOW),
)
def test_a_garbled_webhook_is_refused_and_raises_nothing_else(
    stamp: str | None, signature: str | None, raw: bytes, now: float
) -> None:
    with pytest.raises(AuthenticationFailed):
        authenticate(stamp=stamp, signature=signature, raw=raw, now=now)
