# SPDX-License-Identifier: BSD-2-Clause
"""What a call token says: which carrier's call may open a media socket, and for which agent.

A document that a carrier fetched hands one out in the stream's URL (docs/reference/carriers.md §2.1, §4.1).
Pure: the secret and the clock are those of `Tokens` (tokens.py), which makes and reads them.
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

# As in tokens.py a token is these bytes and their HMAC-SHA256, as base64url. Another version, so that neither
# kind passes for the other:
#
#   version     1 byte
#   flags       1 byte
#   expires_at  8 bytes, Unix time in ms
#   nonce       12 bytes, which tell one token from another
#   session     16 bytes, the UUID, zeroes if there is none
#   audience    16 bytes of a SHA-256 over agent, organization and carrier
#   call        16 bytes of a SHA-256 over the carrier's call id, zeroes if it is not known yet

VERSION: Final = 2
_HELD: Final = 1
_TAKES_OVER: Final = 2
_NONCE_BYTES: Final = 12
_DIGEST_BYTES: Final = 16
_CLAIMS: Final = struct.Struct(f">BBQ{_NONCE_BYTES}s16s{_DIGEST_BYTES}s{_DIGEST_BYTES}s")
_SIGNATURE_BYTES: Final = hashlib.sha256().digest_size
_LENGTH: Final = (_CLAIMS.size + _SIGNATURE_BYTES) * 4 // 3
"""Characters. As in tokens.py the bytes divide by three, so a token has one spelling."""
_SHAPE: Final = re.compile(f"Ag[A-Za-z0-9_-]{{{_LENGTH - 2}}}", re.ASCII)
"""`Ag` is the version, with flags below 16."""
_NONE: Final = bytes(16)


@dataclass(frozen=True, slots=True)
class CallClaims:
    """What a good call token says.

    `session_id`: the session that the call is to become. `held`: whether it was admitted already, as that of
    a call out is. `takes_over`: whether the carrier says that an earlier stream of the call is over.
    `call_digest`: of the one call that it is for, None where whoever comes first binds it to a call.
    `expires_at`: Unix seconds.
    """

    nonce: str
    expires_at: float
    session_id: str | None
    held: bool
    takes_over: bool
    call_digest: str | None

    def is_for(self, call_id: str) -> bool:
        """Whether the call may use it, as far as the token itself tells."""
        return self.call_digest is None or hmac.compare_digest(self.call_digest, digest_of(call_id))


def looks_like_one(token: str) -> bool:
    """Whether a text can be a call token, good or not; nothing else that we hand out can be one."""
    return _SHAPE.fullmatch(token) is not None


def digest_of(call_id: str) -> str:
    """A call id, as tokens and documents name it: 32 digits of base 16."""
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES].hex()


def audience_of(agent: str, organization: str, carrier: str) -> bytes:
    """For whom a token is good."""
    # None of the three can hold a zero byte.
    return hashlib.sha256("\0".join((agent, organization, carrier)).encode()).digest()[:_DIGEST_BYTES]


def write(claims: CallClaims, audience: bytes, secret: bytes) -> str:
    """The token. Raises ValueError for a session id that is no UUID in its usual spelling."""
    session = uuid.UUID(claims.session_id) if claims.session_id else None
    if session is not None and str(session) != claims.session_id:
        raise ValueError("the session id is not spelled as UUIDs are")
    packed = _CLAIMS.pack(
        VERSION,
        _HELD * claims.held | _TAKES_OVER * claims.takes_over,
        int(claims.expires_at * 1000),
        bytes.fromhex(claims.nonce),
        session.bytes if session else _NONE,
        audience,
        bytes.fromhex(claims.call_digest) if claims.call_digest else _NONE,
    )
    return base64.urlsafe_b64encode(packed + _signature(packed, secret)).decode("ascii")


def read(token: str, secret: bytes) -> tuple[CallClaims, bytes] | None:
    """Claims and audience of a token that looks like one; None where its signature is not ours."""
    signed = base64.urlsafe_b64decode(token)
    packed, signature = signed[: _CLAIMS.size], signed[_CLAIMS.size :]
    if not hmac.compare_digest(signature, _signature(packed, secret)):
        return None
    _, flags, expires_ms, nonce, session, audience, call = _CLAIMS.unpack(packed)
    claims = CallClaims(
        nonce=nonce.hex(),
        expires_at=expires_ms / 1000,
        session_id=None if session == _NONE else str(uuid.UUID(bytes=session)),
        held=bool(flags & _HELD),
        takes_over=bool(flags & _TAKES_OVER),
        call_digest=None if call == _NONE else call.hex(),
    )
    return claims, audience


def nonce_of(random: bytes) -> str:
    """A nonce of random bytes, of which there are enough."""
    return random[:_NONCE_BYTES].hex()


def _signature(packed: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, packed, "sha256")
