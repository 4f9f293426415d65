# SPDX-License-Identifier: BSD-2-Clause
"""The limits of one worker over all its connections, and the client address that they count by. No I/O.

A connection or call that exceeds a limit is rejected before any work is done for it. Such a rejection has no
log line of its own, because a flood of requests would then fill the log as well: rejections are counted, and
the counts are logged once a second.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from gateway.auth.rate_limits import RateLimiter
from gateway.config import Settings
from gateway.model.reasons import CallEnded, Reasons
from gateway.server.fd_reserve import RESERVED_FDS

log = structlog.get_logger(__name__)

OTHER_FDS: Final = 100 + RESERVED_FDS
"""Descriptors that belong to no call: the store, the log, the port, requests, health probes, the reserve."""

FDS_PER_CALL: Final = 2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WITH_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):[0-9]{1,5}")
_MAX_HOPS: Final = 32
_SITE_BITS: Final = 64
"""Prefix length of the smallest IPv6 network that one customer gets (RFC 6177)."""


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


def site_of(address: str) -> str:
    """Return the key under which an address is counted: an IPv6 address counts as its /64 network."""
    parsed = _parse_address(address)
    if parsed is None or isinstance(parsed, ipaddress.IPv4Address):
        return address if parsed is None else str(parsed)
    return str(ipaddress.ip_network((parsed, _SITE_BITS), strict=False))


class ConnectionLimits:
    """Counters of a worker's open connections and running calls, each with its limit."""

    def __init__(self, settings: Settings, fd_limit: int, now: Callable[[], float]) -> None:
        """`fd_limit`: descriptors that this process may open. `now`: seconds of a monotonic clock."""
        limits = settings.limits
        self.proxies = TrustedProxies(settings.server.trusted_proxies)
        self.handshake_timeout_s = limits.handshake_timeout
        self.max_calls = limits.max_calls or max_calls_for(fd_limit)
        self.calls = 0
        self._max_per_site = limits.connections_per_address
        self._upgrade_rate = RateLimiter(limits.upgrades_per_second, math.ceil(limits.upgrades_per_second))
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

    def add_call(self) -> None:
        """Count a new media socket. Raises CallEnded(overloaded) if there are too many, or they come too
        fast.

        Call `remove_call` once it has ended.
        """
        if self.calls >= self.max_calls:
            raise self._reject(CallEnded(Reasons.overloaded, f"there are {self.max_calls} calls"))
        if self._upgrade_rate.take("upgrades", self._now()):
            raise self._reject(CallEnded(Reasons.overloaded, "too many calls begin at the same time"))
        self.calls += 1

    def remove_call(self) -> None:
        """Count a media socket as ended."""
        self.calls -= 1

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
