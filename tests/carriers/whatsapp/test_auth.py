# SPDX-License-Identifier: BSD-2-Clause
"""Meta's signature of a WhatsApp event."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.carriers.signatures import MAX_BODY_BYTES, AuthenticationFailed
from gateway.carriers.whatsapp.auth import authenticate_event

# docs/reference/carriers.md §9.4
SECRET = "app_secret"
BODY = b'{"object":"whatsapp_business_account","entry":[]}'
SIGNATURE = "sha256=c236c758c9b2bd40b388a550eeca09eaca72384dd0aa5e7c31d19cddac5bba46"


def meta_signs(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def authenticate(*secrets: str, signature: str | None = SIGNATURE, raw: bytes = BODY) -> None:
    authenticate_event([SecretStr(secret) for secret in secrets or (SECRET,)], signature, raw)


def changed_texts(text: str) -> Iterator[str]:
    for index, character in enumerate(text):
        for other in {chr(ord(character) ^ 1), chr(ord(character) ^ 32), *"aZ0= ,"} - {character}:
            yield text[:index] + other + text[index + 1 :]


def test_the_documented_signature_is_accepted() -> None:
    authenticate()
    assert meta_signs(BODY) == SIGNATURE


def test_no_byte_may_change() -> None:
    for signature in changed_texts(SIGNATURE):
        with pytest.raises(AuthenticationFailed):
            authenticate(signature=signature)
    for body in changed_texts(BODY.decode()):
        with pytest.raises(AuthenticationFailed):
            authenticate(raw=body.encode())
    with pytest.raises(AuthenticationFailed):
        authenticate(raw=b"")


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "sha256=",
        SIGNATURE.removeprefix("sha256="),
        SIGNATURE.replace("sha256", "sha1"),
        f"{SIGNATURE},{SIGNATURE}",
        f"{SIGNATURE}, {SIGNATURE}",
        "sha256=ä",
        "\ud800",
        "sha256=" + 9999 * "0",
    ],
)
def test_what_is_no_signature_is_refused(signature: str | None) -> None:
    with pytest.raises(AuthenticationFailed, match="signature"):
        authenticate(signature=signature)


def test_any_of_several_secrets_is_accepted() -> None:
    authenticate("other", SECRET)
    authenticate(SECRET, "other")
    authenticate(SECRET, "other", signature=meta_signs(BODY, "other"))
    with pytest.raises(AuthenticationFailed) as caught:
        authenticate("other-secret")
    assert "other-secret" not in caught.value.reason


def test_without_a_secret_every_request_is_refused() -> None:
    with pytest.raises(AuthenticationFailed, match="no secret"):
        authenticate_event([], SIGNATURE, BODY)


def test_a_body_that_is_too_long_is_refused() -> None:
    with pytest.raises(AuthenticationFailed, match="bytes"):
        authenticate(raw=bytes(MAX_BODY_BYTES + 1))


@given(st.binary(max_size=80))
def test_any_bytes_that_meta_signs_are_accepted(body: bytes) -> None:
    authenticate(raw=body, signature=meta_signs(body))


@given(st.text(st.characters(), max_size=90) | st.none(), st.binary(max_size=60))
def test_a_garbled_event_is_refused_and_raises_nothing_else(signature: str | None, raw: bytes) -> None:
    with pytest.raises(AuthenticationFailed):
        authenticate(signature=signature if signature is None else f"sha256={signature}", raw=raw)
