# SPDX-License-Identifier: BSD-2-Clause
"""Call tokens: each lets one carrier's call open a media socket for one agent.

The document that a carrier fetches has one in the stream's URL (docs/reference/carriers.md §2.1, §4.1). Pure:
`MediaTokens` (media_tokens.py) makes and reads call tokens, and has the secret and the clock.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
import uuid
from dataclasses import dataclass
from typing import Final

# As in media_tokens.py, a token is these bytes and their HMAC-SHA256 in base64url. The version differs, so
# that neither kind of token is accepted as the other:
#
#   version     1 byte
#   flags       1 byte
#   expires_at  8 bytes, Unix time in ms
#   nonce       12 bytes, different in every token
#   session     16 bytes, the UUID, zeroes if it has none
#   audience    16 bytes of a SHA-256 over agent, organization and carrier
#   call        16 bytes of a SHA-256 over the carrier's call id, zeroes if it is not known yet

VERSION: Final = 2
_ADMITTED: Final = 1
_TAKES_OVER: Final = 2
_UNSIGNED_UPGRADE: Final = 4
_AWAITED: Final = 8
_NONCE_BYTES: Final = 12
_DIGEST_BYTES: Final = 16
_CLAIMS: Final = struct.Struct(f">BBQ{_NONCE_BYTES}s16s{_DIGEST_BYTES}s{_DIGEST_BYTES}s")
_SIGNATURE_BYTES: Final = hashlib.sha256().digest_size
_LENGTH: Final = (_CLAIMS.size + _SIGNATURE_BYTES) * 4 // 3
"""Characters. The number of bytes is a multiple of three, so each token has exactly one form in base64."""
_SHAPE: Final = re.compile(f"Ag[A-Za-z0-9_-]{{{_LENGTH - 2}}}", re.ASCII)
"""`Ag` stands for the version and flags below 16."""
_NONE: Final = bytes(16)


@dataclass(frozen=True, slots=True)
class Audience:
    """The stream that a call token is for: a carrier's, to one agent.

    `agent`: the service host, "support.acme".
    """

    agent: str
    organization: str
    carrier: str

    @property
    def digest(self) -> bytes:
        """The audience's digest in a token."""
        # A zero byte separates them: none of the three can contain one.
        names = (self.agent, self.organization, self.carrier)
        return hashlib.sha256("\0".join(names).encode()).digest()[:_DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class CallClaims:
    """The content of a valid call token.

    `session_id`: the session that the call becomes. `admitted`: whether that session was admitted already, as
    an outbound call's is. `takes_over`: whether the carrier reported that an earlier stream of the call has
    ended. `call_digest`: digest of the call's id; None if the first call to use the token is the one.
    `expires_at`: Unix seconds. `unsigned_upgrade`: whether the sender that was given the token signs no
    upgrade, so that the token authenticates it (`CarrierAccount.signs_upgrades`). `awaited`: whether the
    session is an incoming call's, admitted by the request for the document that has this token.
    """

    nonce: str
    expires_at: float
    session_id: str | None
    admitted: bool
    takes_over: bool
    call_digest: str | None
    unsigned_upgrade: bool = False
    awaited: bool = False

    def is_for(self, call_id: str) -> bool:
        """Return True if the token does not name another call."""
        return self.call_digest is None or hmac.compare_digest(self.call_digest, digest_of(call_id))


def is_call_token(text: str) -> bool:
    """Return True if the text has the form of a call token, valid or not. No other token of ours has it."""
    return _SHAPE.fullmatch(text) is not None


def digest_of(call_id: str) -> str:
    """Return the digest of a call id that tokens and stored values contain: 32 hexadecimal digits."""
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES].hex()


def write(claims: CallClaims, audience: bytes, secret: bytes) -> str:
    """Return the token. Raises ValueError if the session id is not a UUID in its usual form."""
    session = uuid.UUID(claims.session_id) if claims.session_id else None
    if session is not None and str(session) != claims.session_id:
        raise ValueError("the session id is not spelled as UUIDs are")
    packed = _CLAIMS.pack(
        VERSION,
        _ADMITTED * claims.admitted
        | _TAKES_OVER * claims.takes_over
        | _UNSIGNED_UPGRADE * claims.unsigned_upgrade
        | _AWAITED * claims.awaited,
        int(claims.expires_at * 1000),
        bytes.fromhex(claims.nonce),
        session.bytes if session else _NONE,
        audience,
        bytes.fromhex(claims.call_digest) if claims.call_digest else _NONE,
    )
    return base64.urlsafe_b64encode(packed + _signature(packed, secret)).decode("ascii")


def read(token: str, secret: bytes) -> tuple[CallClaims, bytes] | None:
    """Return claims and audience of a token, or None if its signature is not ours.

    `token`: a text for which `is_call_token` is true.
    """
    signed = base64.urlsafe_b64decode(token)
    packed, signature = signed[: _CLAIMS.size], signed[_CLAIMS.size :]
    if not hmac.compare_digest(signature, _signature(packed, secret)):
        return None
    _, flags, expires_ms, nonce, session, audience, call = _CLAIMS.unpack(packed)
    claims = CallClaims(
        nonce=nonce.hex(),
        expires_at=expires_ms / 1000,
        session_id=None if session == _NONE else str(uuid.UUID(bytes=session)),
        admitted=bool(flags & _ADMITTED),
        takes_over=bool(flags & _TAKES_OVER),
        call_digest=None if call == _NONE else call.hex(),
        unsigned_upgrade=bool(flags & _UNSIGNED_UPGRADE),
        awaited=bool(flags & _AWAITED),
    )
    return claims, audience


def nonce_of(random: bytes) -> str:
    """Return a nonce from at least 12 random bytes."""
    return random[:_NONCE_BYTES].hex()


def _signature(packed: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, packed, "sha256")
