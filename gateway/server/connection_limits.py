# SPDX-License-Identifier: BSD-2-Clause
"""How many may come in: the limits of one worker over all its connections. No I/O.

What is refused here is refused before any work was done for it. Such refusals have no log line of their own,
because whoever floods a gateway would fill its log too: they are counted, and told once a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from gateway.auth.rate_limits import RateLimiter
from gateway.config import Settings
from gateway.model.reasons import CallEnded, Reasons
from gateway.server.client_address import ClientAddresses, site
from gateway.server.fd_reserve import KEPT

log = structlog.get_logger(__name__)

OTHER_FILES: Final = 100 + KEPT
"""Open files that are no call's: the store, the log, the port, requests, probes; and those kept back."""

FILES_PER_CALL: Final = 2


def most_calls(open_files: int) -> int:
    """How many calls a worker may carry that may have so many open files."""
    return max(1, (open_files - OTHER_FILES) // FILES_PER_CALL)


class ConnectionLimits:
    """Counts who is in."""

    def __init__(self, settings: Settings, open_files: int, now: Callable[[], float]) -> None:
        """`open_files`: how many this process may have. `now`: seconds of any clock that never goes back."""
        limits = settings.limits
        self.peers = ClientAddresses(settings.server.trusted_proxies)
        self.handshake_timeout_s = limits.handshake_timeout
        self.max_calls = limits.max_calls or most_calls(open_files)
        self.calls = 0
        self._per_address = limits.connections_per_address
        self._rate = RateLimiter(limits.upgrades_per_second, math.ceil(limits.upgrades_per_second))
        self._now = now
        self._open: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def enter(self, address: str) -> str:
        """A connection comes: the name under which it is to `leave`; "" where nobody counts.

        Raises CallEnded(rate_limited) where its address has as many as it may.
        """
        if not self._per_address or not address:
            return ""
        name = site(address)
        if self._open[name] >= self._per_address:
            raise self._no(CallEnded(Reasons.rate_limited, f"more than {self._per_address} connections"))
        self._open[name] += 1
        return name

    def leave(self, name: str) -> None:
        """A connection is over."""
        if not name:
            return
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]

    def begin(self) -> None:
        """A media socket is asked for, and is to `end`. Raises CallEnded(overloaded)."""
        if self.calls >= self.max_calls:
            raise self._no(CallEnded(Reasons.overloaded, f"there are {self.max_calls} calls"))
        if self._rate.take("upgrades", self._now()):
            raise self._no(CallEnded(Reasons.overloaded, "too many calls begin at the same time"))
        self.calls += 1

    def end(self) -> None:
        """A media socket is over."""
        self.calls -= 1

    def turned_away(self, why: str) -> None:
        """Notes somebody who was refused for another reason."""
        self._refused[why] += 1

    def report(self) -> None:
        """Tells in the log who was refused since it was last told."""
        for why, times in self._refused.items():
            log.warning("turned away at the door", why=why, times=times)
        self._refused.clear()

    def _no(self, refusal: CallEnded) -> CallEnded:
        self._refused[refusal.detail] += 1
        return refusal
