# SPDX-License-Identifier: BSD-2-Clause
"""The limits of one worker over all its connections, and the client address that they count by. No I/O.

A connection or call that exceeds a limit is rejected before any work is done for it. Such a rejection has no
log line of its own, because a flood of requests would then fill the log as well: rejections are counted, and
the counts are logged once a second.

An upgrade is unverified until the call has authenticated, where that is required, and its agent is known to
exist. The limits of calls count verified ones alone. An unverified one is limited by its address: by how many
of them the address has open, and by how many came to nothing. So a flood of them is refused, and real calls
are not (docs/decisions/0034-verified-calls.md). Where the unverified ones of an address leave no place for
the next, the oldest that has been silent for SILENT_S makes room
(docs/decisions/0053-silent-sockets-make-room.md).
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from gateway.auth.rate_limits import RateLimiter, site_of
from gateway.config import Settings
from gateway.model.reasons import CallEnded, Reasons
from gateway.server.fd_reserve import RESERVED_FDS
from gateway.server.unsent_answers import UnsentBytes

log = structlog.get_logger(__name__)

OTHER_FDS: Final = 100 + RESERVED_FDS
"""Descriptors that belong to no call: the store, the log, the port, requests, health probes, the reserve."""

FDS_PER_CALL: Final = 2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WITH_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):[0-9]{1,5}")
_MAX_HOPS: Final = 32

UNVERIFIED_SHARE: Final = 4
MIN_UNVERIFIED: Final = 16
"""Limit of the unverified upgrades of a worker at a time: a fraction of `max_calls`, but not fewer. Beyond
that an address without a verified call may have its equal share of them, and no more.
"""

SILENT_S: Final = 1.0
"""Seconds after which a socket, or a connection, that has shown nothing may have to make room for another:
carriers send their first message at once.
"""

HANDSHAKES_SHARE: Final = 4
MIN_HANDSHAKES: Final = 32
"""TLS handshakes that may be unfinished at a time: a fraction of the descriptors, but not fewer."""

MAX_VERIFIED_SITES: Final = 10_000
"""Addresses of verified calls that are remembered. The one of the least recent call is dropped."""

_UPGRADES: Final = "upgrades"


def max_calls_for(fd_limit: int) -> int:
    """Return the number of calls that a process with `fd_limit` descriptors can carry, at least 1."""
    return max(1, (fd_limit - OTHER_FDS) // FDS_PER_CALL)


class TrustedProxies:
    """The reverse proxies in front of the port, and the client addresses that they forward.

    `X-Forwarded-For` is read from its end, as long as the hop that added an entry is trusted itself. From an
    untrusted address the header is ignored. Only the address is taken from it, never scheme or host.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        """`trusted`: addresses and networks in CIDR notation."""
        self._networks = [ipaddress.ip_network(each) for each in trusted]

    def trusts(self, address: str) -> bool:
        """Return True if `address` belongs to a trusted proxy."""
        parsed = _parse_address(address) if self._networks else None
        return parsed is not None and any(parsed in network for network in self._networks)

    def client_address(self, peer: str, forwarded_for: str) -> str:
        """Return the address of the client of a request that came from `peer`.

        `forwarded_for`: the value of `X-Forwarded-For`, "" for none. The result is the proxy's own address if
        a trusted proxy sends no header, or one without a valid address.
        """
        address = peer
        hops = forwarded_for.split(",")[-_MAX_HOPS:] if forwarded_for else []
        while hops and self.trusts(address):
            hop = _parse_address(hops.pop().strip())
            if hop is None:
                break
            address = str(hop)
        return address


class CallCount:
    """One media socket in the counts of its worker: unverified at first, then a call, until `end`."""

    __slots__ = ("_is_over", "_limits", "_site", "began_at", "connection", "is_verified", "preempt")

    def __init__(self, limits: ConnectionLimits, site: str, connection: str, began_at: float) -> None:
        """`site`: of the client. `connection`: as `add_connection` returned it. `began_at`: as `now`."""
        self._limits = limits
        self._site = site
        self._is_over = False
        self.began_at = began_at
        self.connection = connection
        self.is_verified = False
        self.preempt: Callable[[], bool] | None = None
        """Ends the unverified socket for another's sake, and returns True, unless it may be a call."""

    def verify(self) -> None:
        """Count the socket as a call. No effect if it counts as one.

        Raises CallEnded(overloaded) if meanwhile there are as many calls as there may be.
        """
        if not self.is_verified and not self._is_over:
            self._limits.verify_call(self, self._site)
            self.is_verified = True
            self.preempt = None

    def end(self, *, failed: bool) -> None:
        """Count the socket and its connection as ended. `failed`: it came to nothing by its client's fault,
        if it is not verified.
        """
        if not self._is_over:
            self._is_over = True
            self.preempt = None
            self._limits.end_call(self, self._site, failed=failed)
            self._limits.remove_connection(self.connection)


class ConnectionLimits:
    """Counters of a worker's open connections and running calls, each with its limit."""

    def __init__(self, settings: Settings, fd_limit: int, now: Callable[[], float]) -> None:
        """`fd_limit`: descriptors that this process may open. `now`: seconds of a monotonic clock."""
        limits = settings.limits
        self.proxies = TrustedProxies(settings.server.trusted_proxies)
        self.handshake_timeout_s = limits.handshake_timeout
        self.answer_timeout_s = limits.answer_timeout
        self.unsent = UnsentBytes(limits.unsent_bytes_per_address)
        self.max_calls = limits.max_calls or max_calls_for(fd_limit)
        self.max_handshakes = max(MIN_HANDSHAKES, fd_limit // HANDSHAKES_SHARE)
        """Limit of the TLS handshakes of a worker that are not done."""
        self.max_handshakes_per_site = self.max_handshakes // 2
        """The same for one address; behind a trusted proxy there is none."""
        self.calls = 0
        """Verified calls that are not over."""
        self._unverified: dict[str, dict[CallCount, None]] = {}  # by site, the oldest first
        self._all_unverified = 0
        self._max_unverified = max(MIN_UNVERIFIED, self.max_calls // UNVERIFIED_SHARE)
        self._max_per_site = limits.connections_per_address
        self._call_rate = RateLimiter(limits.upgrades_per_second, math.ceil(limits.upgrades_per_second))
        self._failed = RateLimiter(limits.requests_per_second, limits.requests_burst)  # by site
        self._verified_sites: OrderedDict[str, None] = OrderedDict()
        self._now = now
        self._connections: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()

    def add_connection(self, address: str) -> str:
        """Count a new connection, and return the site to pass to `remove_connection`.

        Returns "" if connections are not limited or the address is unknown. Raises CallEnded(rate_limited) if
        the site has as many connections as it may.
        """
        if not self._max_per_site or not address:
            return ""
        site = site_of(address)
        if self._connections[site] >= self._max_per_site:
            raise self._reject(CallEnded(Reasons.rate_limited, f"more than {self._max_per_site} connections"))
        self._connections[site] += 1
        return site

    def remove_connection(self, site: str) -> None:
        """Count a connection as closed. `site`: as `add_connection` returned it; "" has no effect."""
        if not site:
            return
        self._connections[site] -= 1
        if not self._connections[site]:
            del self._connections[site]

    def add_call(self, address: str, connection: str) -> CallCount:
        """Count a new media socket as unverified, and return its place in the counts.

        `connection`: as `add_connection` returned it. Raises CallEnded: rate_limited if too many of its
        address have come to nothing, overloaded if there are too many, or they come too fast.
        """
        site, now = site_of(address), self._now()
        if site not in self._verified_sites and self._failed.peek(site, now):
            detail = "too many calls from one address came to nothing"
            raise self._reject(CallEnded(Reasons.rate_limited, detail))
        own = len(self._unverified.get(site, ()))
        obstacle = self._obstacle(site, own, now)
        if obstacle and own and not self._obstacle(site, own - 1, now) and self._preempt_oldest(site, now):
            obstacle = ""
        if obstacle:
            raise self._reject(CallEnded(Reasons.overloaded, obstacle))
        count = CallCount(self, site, connection, now)
        self._unverified.setdefault(site, {})[count] = None
        self._all_unverified += 1
        return count

    def verify_call(self, count: CallCount, site: str) -> None:
        """Count an unverified socket as a call: see `CallCount.verify`."""
        if self.calls >= self.max_calls:
            raise self._reject(CallEnded(Reasons.overloaded, f"there are {self.max_calls} calls"))
        self._remove_unverified(count, site)
        self.calls += 1
        self._call_rate.spend(_UPGRADES, 1.0, self._now())
        self._verified_sites[site] = None
        self._verified_sites.move_to_end(site)
        if len(self._verified_sites) > MAX_VERIFIED_SITES:
            self._verified_sites.popitem(last=False)

    def end_call(self, count: CallCount, site: str, *, failed: bool) -> None:
        """Count a socket as ended: see `CallCount.end`."""
        if count.is_verified:
            self.calls -= 1
            return
        self._remove_unverified(count, site)
        if failed:
            self._failed.take(site, self._now())

    def _obstacle(self, site: str, own: int, now: float) -> str:
        """Return why a site with `own` unverified sockets may open no other, "" if it may."""
        if site not in self._verified_sites:
            all_unverified = self._all_unverified - len(self._unverified.get(site, ())) + own
            sites = len(self._unverified) + (site not in self._unverified)
            if all_unverified >= self._max_unverified and own >= max(1, self._max_unverified // sites):
                return "too many calls from one address are not verified"
        # Of the unverified only the address's own may become calls before this one: others are no reason
        # to refuse it.
        if self.calls + own >= self.max_calls:
            return f"there are {self.max_calls} calls"
        if self._call_rate.available(_UPGRADES, now) - own < 1.0:
            return "too many calls begin at the same time"
        return ""

    def _preempt_oldest(self, site: str, now: float) -> bool:
        """End the oldest socket of a site that has shown nothing for SILENT_S. Return False without one."""
        for count in self._unverified[site]:
            if now - count.began_at < SILENT_S:
                return False
            if count.preempt is not None and count.preempt():
                count.end(failed=True)
                self.count_rejected("a socket that said nothing made room")
                return True
        return False

    def _remove_unverified(self, count: CallCount, site: str) -> None:
        self._all_unverified -= 1
        own = self._unverified[site]
        del own[count]
        if not own:
            del self._unverified[site]

    def count_rejected(self, why: str) -> None:
        """Count a rejection that these limits did not raise. `why`: a fixed clause for the log."""
        self._rejected[why] += 1

    def log_rejected(self) -> None:
        """Log the number of rejections by cause since the last call of this method."""
        for why, times in self._rejected.items():
            log.warning("turned away at the door", why=why, times=times)
        self._rejected.clear()

    def _reject(self, end: CallEnded) -> CallEnded:
        self.count_rejected(end.detail)
        return end


def _parse_address(text: str) -> Address | None:
    """Parse an address, with or without a port. None if it is none.

    An IPv4 address mapped into IPv6, as a dual-stack socket reports it, is returned as IPv4.
    """
    if port := _WITH_PORT.fullmatch(text):
        text = port[1] or port[2]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
