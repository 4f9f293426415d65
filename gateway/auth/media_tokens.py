# SPDX-License-Identifier: BSD-2-Clause
"""MediaTokens for media sockets: signed, for one agent and one session, for minutes, and once.

docs/reference/public-api.md, "Media sockets": an agent with `websocket_auth = "token"` takes a socket only
with one of them.
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
from gateway.auth.call_tokens import CallClaims
from gateway.store.interface import Store, StoredValue, StoreFailed

# A token is these bytes and their HMAC-SHA256, as base64url (RFC 4648 §5). It goes into headers, queries and
# path segments, and there is nothing in it that any of them would have to escape.
#
#   version     1 byte
#   expires_at  8 bytes, Unix time in ms
#   nonce       16 bytes, which make it good for once
#   session     16 bytes, the UUID
#   audience    16 bytes of a SHA-256 over agent and organization
#   body        16 bytes of a SHA-256 over the body, zeroes if there was none
#
# All that is needed to judge it is in it and in the secret; only "once" needs the store, and is asked last: a
# token shown in the wrong place is not used up by that.

TOKEN_S: Final = 300.0
"""How long a token is good for, in seconds."""

SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 16
DIGEST_BYTES: Final = 16

_VERSION: Final = 1
_CLAIMS: Final = struct.Struct(f">BQ{NONCE_BYTES}s16s{DIGEST_BYTES}s{DIGEST_BYTES}s")
_SIGNATURE_BYTES: Final = hashlib.sha256().digest_size
_LENGTH: Final = (_CLAIMS.size + _SIGNATURE_BYTES) * 4 // 3
"""Characters. The bytes divide by three, so there is no padding, and no second spelling of a token."""
_SHAPE: Final = re.compile(f"[A-Za-z0-9_-]{{{_LENGTH}}}", re.ASCII)
_NO_BODY: Final = bytes(DIGEST_BYTES)

_SECRETS: Final = "secret"
_SECRET_KEY: Final = "tokens"  # noqa: S105 - the name of a secret, not one
NONCES: Final = "nonce"


class TokenRejected(Exception):  # noqa: N818 - the answer "no", not a fault
    """The token opens nothing here. `reason`: why, in words, without any part of the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the token is refused: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RedeemedToken:
    """What a token said: the session that it opens, and the digest of the body it was made with."""

    session_id: str
    body_digest: bytes

    def fits(self, body: str | None) -> bool:
        """Whether a body given with the socket may be: it is the one of the token, or the token had none."""
        return self.body_digest == _NO_BODY or hmac.compare_digest(self.body_digest, _body_digest(body))


class MediaTokens:
    """Makes and redeems tokens. All workers make and redeem with one `secret` (`load_secret`)."""

    def __init__(self, secret: bytes, store: Store, now: Callable[[], float]) -> None:
        """`now`: Unix seconds. Raises ValueError for a secret shorter than SECRET_BYTES."""
        if len(secret) < SECRET_BYTES:
            raise ValueError(f"a secret for tokens has at least {SECRET_BYTES} bytes")
        self._secret = secret
        self._documents = store.documents
        self._now = now

    def mint(self, agent: str, organization: str, session_id: str, body: str | None = None) -> str:
        """A token of letters, digits, "-" and "_", good for TOKEN_S from now.

        `agent`: the service host, "support.acme". `body`: in the spelling in which it will be compared.
        Raises ValueError for a session id that is no UUID in its usual spelling.
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

    async def redeem(self, token: str, agent: str, organization: str) -> RedeemedToken:
        """Takes a token for `agent` of `organization`: the first who shows it has it, of all workers.

        Raises TokenRejected ("malformed", "wrong signature", "expired", "for another agent", "used already"),
        or StoreFailed; after that, or if this is cancelled, the token may be used up.
        """
        if not _SHAPE.fullmatch(token):
            raise TokenRejected("malformed")
        signed = base64.urlsafe_b64decode(token)
        claims, signature = signed[: _CLAIMS.size], signed[_CLAIMS.size :]
        if not hmac.compare_digest(signature, self._signature(claims)):
            raise TokenRejected("wrong signature")
        version, expires_ms, nonce, session, audience, body_digest = _CLAIMS.unpack(claims)
        if version != _VERSION:  # ours, of another release
            raise TokenRejected("malformed")
        now = self._now()
        expires_at = expires_ms / 1000
        if now >= expires_at:
            raise TokenRejected("expired")
        if not hmac.compare_digest(audience, _audience(agent, organization)):
            raise TokenRejected("for another agent")
        # Kept longer than the token is good for, lest a clock that is set back makes it new.
        kept_until = expires_at + TOKEN_S
        if not await self._documents.put_if_absent(
            NONCES, nonce.hex(), "true", now=now, expires_at=kept_until
        ):
            raise TokenRejected("used already")
        return RedeemedToken(str(uuid.UUID(bytes=session)), body_digest)

    def mint_call(
        self,
        agent: str,
        organization: str,
        carrier: str,
        *,
        call_id: str | None = None,
        session_id: str | None = None,
        held: bool = True,
        takes_over: bool = False,
        lasting_s: float = TOKEN_S,
    ) -> str:
        """A token for the stream of one call of `carrier`, good for `lasting_s` from now (call_tokens.py).

        `call_id`: the carrier's; None where it is not known yet, and the first call that comes is the one.
        `session_id`: what the call becomes; with `held` it was admitted already. `takes_over`: an earlier
        stream of the call is over, as its carrier says. Raises ValueError for a session id that is no UUID.
        """
        claims = CallClaims(
            nonce=call_tokens.nonce_of(os.urandom(NONCE_BYTES)),
            expires_at=self._now() + lasting_s,
            session_id=session_id,
            held=held and session_id is not None,
            takes_over=takes_over,
            call_digest=call_tokens.digest_of(call_id) if call_id else None,
        )
        return call_tokens.write(claims, call_tokens.audience_of(agent, organization, carrier), self._secret)

    def read_call(self, token: str, agent: str, organization: str, carrier: str) -> CallClaims:
        """What a call token says, judged without the store: that it is good once is asked later.

        Raises TokenRejected ("malformed", "wrong signature", "expired", "for another agent").
        """
        if not call_tokens.looks_like_one(token):
            raise TokenRejected("malformed")
        found = call_tokens.read(token, self._secret)
        if found is None:
            raise TokenRejected("wrong signature")
        claims, audience = found
        if self._now() >= claims.expires_at:
            raise TokenRejected("expired")
        if not hmac.compare_digest(audience, call_tokens.audience_of(agent, organization, carrier)):
            raise TokenRejected("for another agent")
        return claims

    def _signature(self, claims: bytes) -> bytes:
        return hmac.digest(self._secret, claims, "sha256")


async def load_secret(
    store: Store, now: Callable[[], float], make: Callable[[int], bytes] = os.urandom
) -> bytes:
    """The secret of all workers of `store`: `make(SECRET_BYTES)` of whoever needs it first, kept for ever.

    Raises StoreFailed, also where what is kept is no secret.
    """
    documents = store.documents
    kept = await documents.get(_SECRETS, _SECRET_KEY, now())
    if kept is None:
        mine = json.dumps(make(SECRET_BYTES).hex())
        await documents.put_if_absent(_SECRETS, _SECRET_KEY, mine, now=now())
        kept = await documents.get(_SECRETS, _SECRET_KEY, now())  # another worker may have been faster
    return _secret(kept)


def _secret(kept: StoredValue | None) -> bytes:
    try:
        secret = bytes.fromhex(json.loads(kept.value)) if kept else b""
    except (ValueError, TypeError):
        secret = b""
    if len(secret) < SECRET_BYTES:
        raise StoreFailed("the secret for tokens in the session store is damaged")
    return secret


def _audience(agent: str, organization: str) -> bytes:
    # Each behind its length, lest "a" of "bc" be "ab" of "c".
    named = b"".join(len(name).to_bytes(4) + name for name in (_bytes(agent), _bytes(organization)))
    return hashlib.sha256(named).digest()[:DIGEST_BYTES]


def _body_digest(body: str | None) -> bytes:
    return _NO_BODY if body is None else hashlib.sha256(_bytes(body)).digest()[:DIGEST_BYTES]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
