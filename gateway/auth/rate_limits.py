# SPDX-License-Identifier: BSD-2-Clause
"""Rate limits of one worker: token buckets, and the limit on requests with unknown keys.

A request with a valid key is limited by its key. Any other request is limited by the address of its
connection: over the limit it is refused without looking its key up. Many clients may share an address, for
example behind a proxy, so keys that were valid before are looked up all the same.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Hashable
from typing import Final

MAX_BUCKETS: Final = 10_000
"""Buckets that are stored. The one that was used least recently is dropped, which makes it full again."""

MAX_VALID_KEYS: Final = 10_000
"""Digests of valid keys that are stored. The one that was used least recently is dropped."""

_IPV6_NETWORK_BITS: Final = 64
"""The network of one customer, which counts as one address (RFC 6177 §2)."""


class RateLimiter:
    """Token buckets by name. Each holds at most `burst` tokens and gains `per_second`.

    Times are Unix seconds.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: dict[Hashable, tuple[float, float]] = {}  # tokens, and the time of that number

    def peek(self, name: Hashable, now: float) -> float:
        """Return the seconds until the bucket has a token, 0.0 if it has one now. Take none."""
        if name not in self._buckets:
            return 0.0
        tokens = self._tokens(name, now)
        return 0.0 if tokens >= 1.0 else (1.0 - tokens) / self._per_second

    def take(self, name: Hashable, now: float) -> float:
        """Take a token and return 0.0. If the bucket has none, return the seconds until it has one."""
        tokens = self._tokens(name, now)
        self._buckets.pop(name, None)
        wait_s = 0.0
        if tokens >= 1.0:
            tokens -= 1.0
        else:
            wait_s = (1.0 - tokens) / self._per_second
        self._buckets[name] = tokens, now
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return wait_s

    def _tokens(self, name: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._burst, now))
        # No tokens are lost if the clock is set back, so that it cannot lock a key out.
        return min(self._burst, tokens + max(0.0, now - at) * self._per_second)


class FailedKeyLimiter:
    """Limits the requests with unknown keys from one address. Times are Unix seconds."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._valid: dict[bytes, None] = {}

    def retry_after_s(self, key: str, address: str, now: float) -> float:
        """Return the seconds until the key may be looked up, 0.0 if that is now."""
        wait_s = self._limiter.peek(_network(address), now)
        return 0.0 if not wait_s or _digest(key) in self._valid else wait_s

    def record_failure(self, key: str, address: str, now: float) -> None:
        """Count a key that is unknown or revoked."""
        self._valid.pop(_digest(key), None)
        self._limiter.take(_network(address), now)

    def record_success(self, key: str) -> None:
        """Remember a valid key."""
        digest = _digest(key)
        self._valid.pop(digest, None)
        self._valid[digest] = None
        if len(self._valid) > MAX_VALID_KEYS:
            del self._valid[next(iter(self._valid))]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Interface(f"{address.partition('%')[0]}/{_IPV6_NETWORK_BITS}").network)
    except ValueError:
        return address
