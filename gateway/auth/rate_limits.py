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
from functools import lru_cache
from typing import Final

MAX_BUCKETS: Final = 10_000
"""Buckets that are stored. The one that was used least recently is dropped, which makes it full again."""

MAX_VALID_KEYS: Final = 10_000
"""Digests of valid keys that are stored. The one that was used least recently is dropped."""

_SITE_BITS: Final = 64
"""Prefix length of the smallest IPv6 network that one customer gets (RFC 6177)."""


@lru_cache(4096)
def site_of(address: str) -> str:
    """Return the name under which an address is counted: an IPv6 address counts as its /64 network.

    An IPv4 address that is mapped into IPv6, as a dual-stack socket reports it, counts as IPv4: all such
    addresses are in one /64. What is no address is returned unchanged.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _SITE_BITS), strict=False))


class RateLimiter:
    """Token buckets by name. Each holds at most `burst` tokens and gains `per_second`.

    Times are Unix seconds.
    """

    def __init__(self, per_second: float, burst: float) -> None:
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
        self._store(name, tokens, now)
        return wait_s

    def available(self, name: Hashable, now: float) -> float:
        """Return the tokens of the bucket; below 0 after `spend` took more than it had."""
        return self._tokens(name, now)

    def wait_s(self, name: Hashable, now: float) -> float:
        """Return the seconds until the bucket has more than nothing."""
        return max(0.0, -self._tokens(name, now) / self._per_second)

    def spend(self, name: Hashable, tokens: float, now: float) -> None:
        """Take `tokens` of what was used already, even if the bucket has fewer: it gains them first then."""
        left = self._tokens(name, now) - tokens
        self._buckets.pop(name, None)
        self._store(name, left, now)

    def _store(self, name: Hashable, tokens: float, now: float) -> None:
        self._buckets[name] = tokens, now
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]

    def _tokens(self, name: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._burst, now))
        # No tokens are lost if the clock is set back, so that it cannot lock a key out.
        return min(self._burst, tokens + max(0.0, now - at) * self._per_second)


class UnknownKeyLimiter:
    """Limits the requests with unknown keys from one address. Times are Unix seconds.

    A key that is about to be looked up counts as unknown until it is known, so that requests at the same
    time are no more than requests in turn.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._valid: dict[bytes, None] = {}

    def begin(self, key: str, address: str, now: float) -> float:
        """Count the look-up of a key and return 0.0, or the seconds until the key may be looked up.

        A key that was valid before is not counted.
        """
        return 0.0 if _digest(key) in self._valid else self._limiter.take(site_of(address), now)

    def unknown(self, key: str, address: str, now: float) -> None:
        """Take note that a key, for which `begin` returned 0.0, is unknown or revoked."""
        if self._valid.pop(_digest(key), False) is None:  # it was not counted
            self._limiter.spend(site_of(address), 1.0, now)

    def undecided(self, key: str, address: str, now: float) -> None:
        """Take note that a key, for which `begin` returned 0.0, could not be looked up: it does not count."""
        if _digest(key) not in self._valid:
            self._limiter.spend(site_of(address), -1.0, now)

    def known(self, key: str, address: str, now: float) -> None:
        """Take note that a key, for which `begin` returned 0.0, is valid: its look-up does not count."""
        self.undecided(key, address, now)
        digest = _digest(key)
        self._valid.pop(digest, None)
        self._valid[digest] = None
        if len(self._valid) > MAX_VALID_KEYS:
            del self._valid[next(iter(self._valid))]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
