# SPDX-License-Identifier: BSD-2-Clause
"""Media tokens: each is signed, and opens one media socket to one agent within minutes, for one session.

An agent with `websocket_auth = "token"` accepts a socket with a token only (docs/reference/public-api.md,
"Media sockets"). `MediaTokens` also makes and reads call tokens (call_tokens.py).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.auth import call_tokens
from gateway.auth.call_tokens import Audience, CallClaims
from gateway.store.interface import Store, StoredValue, StoreFailed

# A token is these bytes and their HMAC-SHA256 in base64url (RFC 4648 §5). It is used in headers, queries and
# path segments, and contains no character that any of them would have to escape.
#
#   version     1 byte
#   expires_at  8 bytes, Unix time in ms
#   nonce       16 bytes, stored when the token is used, so that it can be used once
#   session     16 bytes, the UUID
#   audience    16 bytes of a SHA-256 over agent and organization
#   body        16 bytes of a SHA-256 over the body, zeroes if there was none
#
# Token and secret alone decide whether a token is valid. Only its use needs the store, and comes last: a
# token with which a socket was refused is not used up.

TOKEN_S: Final = 300.0
"""Seconds that a token is valid for."""

SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 16
DIGEST_BYTES: Final = 16

_VERSION: Final = 1
_CLAIMS: Final = struct.Struct(f">BQ{NONCE_BYTES}s16s{DIGEST_BYTES}s{DIGEST_BYTES}s")
_SIGNATURE_BYTES: Final = hashlib.sha256().digest_size
_LENGTH: Final = (_CLAIMS.size + _SIGNATURE_BYTES) * 4 // 3
"""Characters.

The number of bytes is a multiple of three, so there is no padding, and one form of each token.
"""
_SHAPE: Final = re.compile(f"[A-Za-z0-9_-]{{{_LENGTH}}}", re.ASCII)
_NO_BODY: Final = bytes(DIGEST_BYTES)

_SECRETS: Final = "secret"
_SECRET_KEY: Final = "tokens"  # noqa: S105 - the name of a secret, not one
NONCES: Final = "nonce"


class TokenRejected(Exception):  # noqa: N818 - the answer "no", not a fault
    """The token is not valid here. `reason` says why, without any part of the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the token is refused: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class MediaClaims:
    """The content of a media token: its session, and the digest of the body it was made with.

    `nonce`: different in every token. `expires_at`: Unix seconds.
    """

    session_id: str
    body_digest: bytes
    nonce: str
    expires_at: float

    def allows(self, body: str | None) -> bool:
        """Return True if the token was made with this body, or without any."""
        return self.body_digest == _NO_BODY or hmac.compare_digest(self.body_digest, _body_digest(body))


@dataclass(frozen=True, slots=True)
class CallGrant:
    """The content of a new call token.

    `call_id`: the carrier's id of the call. None if it is not known yet: then the first call to use the token
    is the one. `session_id`: the session that the call becomes. `admitted`: whether that session was admitted
    already. `awaited`: whether it was then by the request for the document that has the token
    (gateway/calls/awaited_streams.py). `takes_over`: whether the carrier reported that an earlier stream of
    the call has ended.
    `lasting_s`: seconds that the token is valid for. `unsigned_upgrade`: whether it authenticates an upgrade
    that nobody signs.
    """

    call_id: str | None = None
    session_id: str | None = None
    admitted: bool = True
    awaited: bool = False
    takes_over: bool = False
    lasting_s: float = TOKEN_S
    unsigned_upgrade: bool = False


class MediaTokens:
    """Makes and checks tokens. All workers share one `secret` (`load_secret`)."""

    def __init__(self, secret: bytes, store: Store, now: Callable[[], float]) -> None:
        """`now`: Unix seconds. Raises ValueError if the secret is shorter than SECRET_BYTES."""
        if len(secret) < SECRET_BYTES:
            raise ValueError(f"a secret for tokens has at least {SECRET_BYTES} bytes")
        self._secret = secret
        self._documents = store.key_values
        self._now = now

    def mint(self, agent: str, organization: str, session_id: str, body: str | None = None) -> str:
        """Return a token of letters, digits, "-" and "_" that is valid for TOKEN_S from now.

        `agent`: the service host, "support.acme". `body`: exactly as it will be sent with the socket. Raises
        ValueError if the session id is not a UUID in its usual form.
        """
        session = uuid.UUID(session_id)
        if str(session) != session_id:
            raise ValueError("the session id is not spelled as UUIDs are")
        claims = _CLAIMS.pack(
            _VERSION,
            int((self._now() + TOKEN_S) * 1000),
            os.urandom(NONCE_BYTES),
            session.bytes,
            _audience(agent, organization),
            _body_digest(body),
        )
        return base64.urlsafe_b64encode(claims + self._signature(claims)).decode("ascii")

    def read(self, token: str, agent: str, organization: str) -> MediaClaims:
        """Return the content of a token for `agent` of `organization`, which may be used already, or expired.

        Raises TokenRejected ("malformed", "wrong signature", "for another agent").
        """
        if not _SHAPE.fullmatch(token):
            raise TokenRejected("malformed")
        signed = base64.urlsafe_b64decode(token)
        claims, signature = signed[: _CLAIMS.size], signed[_CLAIMS.size :]
        if not hmac.compare_digest(signature, self._signature(claims)):
            raise TokenRejected("wrong signature")
        version, expires_ms, nonce, session, audience, body_digest = _CLAIMS.unpack(claims)
        if version != _VERSION:  # signed by another release of ours
            raise TokenRejected("malformed")
        if not hmac.compare_digest(audience, _audience(agent, organization)):
            raise TokenRejected("for another agent")
        return MediaClaims(str(uuid.UUID(bytes=session)), body_digest, nonce.hex(), expires_ms / 1000)

    async def use(self, claims: MediaClaims) -> None:
        """Use a token up. A token can be used once on all workers together.

        Raises TokenRejected ("expired", "used already") or StoreFailed. After StoreFailed or a cancellation
        the token may be used up.
        """
        now = self._now()
        if now >= claims.expires_at:
            raise TokenRejected("expired")
        # Stored for longer than the token is valid: a clock that is set back must not make it valid again.
        stored_until = claims.expires_at + TOKEN_S
        if not await self._documents.put_if_absent(
            NONCES, claims.nonce, "true", now=now, expires_at=stored_until
        ):
            raise TokenRejected("used already")

    def mint_call(self, audience: Audience, grant: CallGrant) -> str:
        """Return a call token for one stream of `audience`.

        Raises ValueError if the session id is not a UUID.
        """
        claims = CallClaims(
            nonce=call_tokens.nonce_of(os.urandom(NONCE_BYTES)),
            expires_at=self._now() + grant.lasting_s,
            session_id=grant.session_id,
            admitted=grant.admitted and grant.session_id is not None,
            takes_over=grant.takes_over,
            call_digest=call_tokens.digest_of(grant.call_id) if grant.call_id else None,
            unsigned_upgrade=grant.unsigned_upgrade,
            awaited=grant.awaited,
        )
        return call_tokens.write(claims, audience.digest, self._secret)

    def read_call(self, token: str, audience: Audience) -> CallClaims:
        """Return the content of a call token. The caller must check that it is used once.

        Raises TokenRejected ("malformed", "wrong signature", "expired", "for another agent").
        """
        if not call_tokens.is_call_token(token):
            raise TokenRejected("malformed")
        content = call_tokens.read(token, self._secret)
        if content is None:
            raise TokenRejected("wrong signature")
        claims, audience_digest = content
        if self._now() >= claims.expires_at:
            raise TokenRejected("expired")
        if not hmac.compare_digest(audience_digest, audience.digest):
            raise TokenRejected("for another agent")
        return claims

    def derive_session_id(self, *names: str) -> str:
        """Return a session id that only these names have, the same at each worker; nobody else can guess it.

        Names of sessions of one kind begin with a word of their own.
        """
        named = b"".join(len(part).to_bytes(4) + part for part in map(_bytes, names))
        return str(uuid.UUID(bytes=hmac.digest(self._secret, named, "sha256")[:16], version=4))

    def _signature(self, claims: bytes) -> bytes:
        return hmac.digest(self._secret, claims, "sha256")


async def load_secret(
    store: Store,
    now: Callable[[], float],
    make: Callable[[int], bytes] = os.urandom,
    *,
    purpose: str = _SECRET_KEY,
) -> bytes:
    """Return the secret that all workers of `store` share, for tokens unless another `purpose` is named.

    The first worker makes it with `make(SECRET_BYTES)`.

    Raises StoreFailed, also if the stored value is not a secret.
    """
    documents = store.key_values
    stored = await documents.get(_SECRETS, purpose, now())
    if stored is None:
        new = json.dumps(make(SECRET_BYTES).hex())
        await documents.put_if_absent(_SECRETS, purpose, new, now=now())
        stored = await documents.get(_SECRETS, purpose, now())  # another worker may have been faster
    return _decode_secret(stored, purpose)


def _decode_secret(stored: StoredValue | None, purpose: str) -> bytes:
    try:
        secret = bytes.fromhex(json.loads(stored.value)) if stored else b""
    except (ValueError, TypeError):
        secret = b""
    if len(secret) < SECRET_BYTES:
        raise StoreFailed(f"the secret for {purpose} in the session store is damaged")
    return secret


def _audience(agent: str, organization: str) -> bytes:
    # Each name follows its length: otherwise "a" of "bc" and "ab" of "c" would be the same.
    names = b"".join(len(name).to_bytes(4) + name for name in (_bytes(agent), _bytes(organization)))
    return hashlib.sha256(names).digest()[:DIGEST_BYTES]


def _body_digest(body: str | None) -> bytes:
    return _NO_BODY if body is None else hashlib.sha256(_bytes(body)).digest()[:DIGEST_BYTES]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
