# SPDX-License-Identifier: BSD-2-Clause
"""How one node proves to another that it knows their secret, and the other that it has answered. No I/O.

A request is signed over its method, path, body, time and a nonce. The path names the worker that it is for,
which is unique for all time, and that worker alone remembers the nonce: so a request that was recorded is
good for nobody else, and not a second time. The signature covers the digest of the body, not the body, so the
head alone shows whether the request is genuine. The answer is signed over that nonce: whoever else listens
at the address cannot tell a node that a command was delivered.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 60.0
"""How far the time of a request may be from the receiver's clock: clocks of machines differ."""

MAX_NONCES: Final = 100_000
"""Requests that one worker remembers. More within the window are refused."""

TIME: Final = "patchbay-time"
NONCE: Final = "patchbay-nonce"
DIGEST: Final = "patchbay-digest"
SIGNATURE: Final = "patchbay-signature"
"""Names of headers, in lower case. An answer has SIGNATURE alone."""

_NONCE: Final = re.compile("[0-9a-f]{32}")
_NONCE_BYTES: Final = 16
_TIME: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")


class SignatureRefused(Exception):  # noqa: N818 - the answer "no", not a fault
    """A request is not genuine, or was received before. `str()` says why, without any part of it."""


@dataclass(frozen=True, slots=True)
class RequestLine:
    """The part of a request's head that a signature is over."""

    method: str
    path: str


class NodeSigner:
    """Signs requests, and checks their answers."""

    def __init__(self, secret: bytes, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._secret = secret
        self._now = now

    def sign(self, line: RequestLine, body: bytes) -> dict[str, str]:
        """Return the headers that make a request genuine, once."""
        head = {
            TIME: f"{self._now():.3f}",
            NONCE: os.urandom(_NONCE_BYTES).hex(),
            DIGEST: hashlib.sha256(body).hexdigest(),
        }
        return {**head, SIGNATURE: _request_signature(self._secret, line, head)}

    def is_answer(self, signed: Mapping[str, str], status: int, body: bytes, signature: str) -> bool:
        """Return True if an answer to the request with the headers `signed` comes from a node."""
        made = _answer_signature(self._secret, signed[NONCE], status, body)
        return hmac.compare_digest(made.encode(), signature.encode("utf-8", "replace"))


class NodeVerifier:
    """Checks the requests that one worker receives, and signs its answers."""

    def __init__(self, secret: bytes, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._secret = secret
        self._now = now
        self._nonces: dict[str, float] = {}  # until when they are remembered, in the order in which they came

    def check_head(self, line: RequestLine, headers: Mapping[str, str]) -> None:
        """Check what a request's head shows. `headers`: by lower-case name. Raises SignatureRefused."""
        time = headers.get(TIME, "")
        if not _TIME.fullmatch(time) or not _NONCE.fullmatch(headers.get(NONCE, "")):
            raise SignatureRefused("it has no signature")
        made = _request_signature(self._secret, line, headers)
        if not hmac.compare_digest(made.encode(), headers.get(SIGNATURE, "").encode("utf-8", "replace")):
            raise SignatureRefused("its signature is wrong")
        if abs(float(time) - self._now()) > WINDOW_S:
            raise SignatureRefused(f"its time is more than {WINDOW_S:g} s from here")

    def use(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check the body of a request whose head is good, and use the request up. Raises SignatureRefused."""
        digest = hashlib.sha256(body).hexdigest()
        if not hmac.compare_digest(digest.encode(), headers.get(DIGEST, "").encode("utf-8", "replace")):
            raise SignatureRefused("its body is another")
        now, nonce = self._now(), headers[NONCE]
        self._forget(now)
        if nonce in self._nonces:
            raise SignatureRefused("it was received before")
        if len(self._nonces) >= MAX_NONCES:
            raise SignatureRefused("too many came at once")
        self._nonces[nonce] = now + 2 * WINDOW_S

    def sign_answer(self, headers: Mapping[str, str], status: int, body: bytes) -> str:
        """Return the signature of an answer to the request with these headers."""
        return _answer_signature(self._secret, headers[NONCE], status, body)

    def _forget(self, now: float) -> None:
        while self._nonces:
            nonce = next(iter(self._nonces))
            if now < self._nonces[nonce]:
                return
            del self._nonces[nonce]


def _request_signature(secret: bytes, line: RequestLine, headers: Mapping[str, str]) -> str:
    signed = (line.method, line.path, headers[TIME], headers[NONCE], headers.get(DIGEST, ""))
    return _signature(secret, "request", *signed)


def _answer_signature(secret: bytes, nonce: str, status: int, body: bytes) -> str:
    return _signature(secret, "answer", nonce, str(status), hashlib.sha256(body).hexdigest())


def _signature(secret: bytes, *signed: str) -> str:
    # None of the texts has a line end: h11 takes none in a head, and the others are made here.
    return hmac.digest(secret, "\n".join(("patchbay-node-1", *signed)).encode(), "sha256").hex()
