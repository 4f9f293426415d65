# SPDX-License-Identifier: BSD-2-Clause
"""The one door for API keys: every key of a request is identified here, within the limits of one worker.

Requests, WebSockets of the Session API and the verification of a webhook share these limits, so that none of
them is a way around the others'.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.auth.api_keys import Keyring, Principal
from gateway.auth.rate_limits import RateLimiter, UnknownKeyLimiter
from gateway.config import Limits
from gateway.store.interface import StoreFailed


class TooManyRequests(Exception):  # noqa: N818 - read as a sentence
    """A limit was reached. `wait_s`: seconds until a request passes again; more than 0."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"wait {wait_s:g} s")
        self.wait_s = wait_s


class TooManyUnknownKeys(TooManyRequests):
    """The address has tried too many keys that are unknown."""


class TooManyOfKey(TooManyRequests):
    """The key was used for more requests than it may make."""


class LimitedKeys:
    """Identifies API keys, and counts their requests and those with unknown ones."""

    def __init__(self, keyring: Keyring, limits: Limits, now: Callable[[], float]) -> None:
        """`now` returns Unix seconds."""
        self._keyring = keyring
        self._now = now
        self._unknown = UnknownKeyLimiter(RateLimiter(limits.requests_per_second, limits.requests_burst))
        self._requests = RateLimiter(limits.requests_per_second, limits.requests_burst)

    async def identify(self, key: str, address: str) -> Principal | None:
        """Return the owner of a key that came from `address`, None if the key is unknown or revoked.

        Raises TooManyUnknownKeys, without looking the key up; StoreFailed.
        """
        now = self._now()
        if wait_s := self._unknown.begin(key, address, now):
            raise TooManyUnknownKeys(wait_s)
        try:
            principal = await self._keyring.identify(key)
        except StoreFailed:
            self._unknown.undecided(key, address, now)
            raise
        if principal is None:
            self._unknown.unknown(key, address, now)
        else:
            self._unknown.known(key, address, now)
        return principal

    def charge(self, principal: Principal) -> None:
        """Count a request of a key. Raises TooManyOfKey if it has made more than it may."""
        key = (principal.organization, principal.key_id)
        if wait_s := self._requests.take(key, self._now()):
            raise TooManyOfKey(wait_s)
