# SPDX-License-Identifier: BSD-2-Clause
"""Addresses that try keys which open nothing: how many such requests each may make.

A caller with a good key is counted by it (rate.py). Any other is counted by the address of its connection,
and beyond the limit it is refused before anybody looks the next key up. Many may share an address, behind a
proxy for one, so keys that opened something before are looked up all the same.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Hashable
from typing import Final

MAX_BUCKETS: Final = 10_000
"""Buckets that are remembered; the one that was not asked for longest is forgotten, and so is full again."""


class RateLimiter:
    """Buckets that hold `burst` tokens and get `per_second` new ones. Time is Unix seconds, the caller's."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: dict[Hashable, tuple[float, float]] = {}  # tokens, and when there were so many

    def wait(self, name: Hashable, now: float) -> float:
        """What `take` would say; nothing is taken."""
        if name not in self._buckets:
            return 0.0
        tokens = self._tokens(name, now)
        return 0.0 if tokens >= 1.0 else (1.0 - tokens) / self._per_second

    def take(self, name: Hashable, now: float) -> float:
        """Takes a token of the bucket `name`: 0.0, or the seconds until there is one again."""
        tokens = self._tokens(name, now)
        self._buckets.pop(name, None)
        wait = 0.0
        if tokens >= 1.0:
            tokens -= 1.0
        else:
            wait = (1.0 - tokens) / self._per_second
        self._buckets[name] = tokens, now
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return wait

    def _tokens(self, name: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._burst, now))
        # A clock that was set back must not lock a key out.
        return min(self._burst, tokens + max(0.0, now - at) * self._per_second)


MAX_KNOWN: Final = 10_000
"""Keys that are remembered, by their SHA-256; the one that was not used for longest is forgotten."""

_IPV6_NETWORK_BITS: Final = 64
"""One customer's, and so one address as far as this goes (RFC 6177 §2)."""


class FailedKeyLimiter:
    """Counts in the worker that is asked. Time is Unix seconds, the caller's."""

    def __init__(self, rates: RateLimiter) -> None:
        self._rates = rates
        self._known: dict[bytes, None] = {}

    def wait(self, key: str, address: str, now: float) -> float:
        """0.0 where the key may be looked up, else the seconds until it may."""
        wait_s = self._rates.wait(_network(address), now)
        return 0.0 if not wait_s or _digest(key) in self._known else wait_s

    def refused(self, key: str, address: str, now: float) -> None:
        """The key opened nothing."""
        self._known.pop(_digest(key), None)
        self._rates.take(_network(address), now)

    def opened(self, key: str) -> None:
        """The key is somebody's."""
        digest = _digest(key)
        self._known.pop(digest, None)
        self._known[digest] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Interface(f"{address.partition('%')[0]}/{_IPV6_NETWORK_BITS}").network)
    except ValueError:
        return address
