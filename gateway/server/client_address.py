# SPDX-License-Identifier: BSD-2-Clause
"""Who is at the other end of a connection: the one function that says a client's address.

It is the address of the connection, unless that is of a proxy that the operator trusts: then
`X-Forwarded-For` is read, from its end, as far as those who wrote it are trusted themselves. From anybody
else the header is not read at all. Nothing but the address comes from it: neither scheme nor host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WITH_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):[0-9]{1,5}")
_MOST_HOPS: Final = 32
_SITE_BITS: Final = 64
"""Of an IPv6 address: what one customer has at the least (RFC 6177)."""


class ClientAddresses:
    """The proxies that are trusted."""

    def __init__(self, trusted: Iterable[str]) -> None:
        """`trusted`: addresses and networks."""
        self._trusted = [ipaddress.ip_network(each) for each in trusted]

    def trusts(self, address: str) -> bool:
        """Whether an address is of a proxy that is trusted."""
        found = _read(address) if self._trusted else None
        return found is not None and any(found in network for network in self._trusted)

    def client(self, address: str, forwarded_for: str) -> str:
        """Whose request it is that came from `address` with this `X-Forwarded-For`, "" for none.

        Where a trusted proxy says nothing, or no address, it is the proxy's own.
        """
        hops = forwarded_for.split(",")[-_MOST_HOPS:] if forwarded_for else []
        while hops and self.trusts(address):
            said = _read(hops.pop().strip())
            if said is None:
                break
            address = str(said)
        return address


def site(address: str) -> str:
    """What is counted as one address: of IPv6 the network of 64 bits."""
    found = _read(address)
    if found is None or isinstance(found, ipaddress.IPv4Address):
        return address if found is None else str(found)
    return str(ipaddress.ip_network((found, _SITE_BITS), strict=False))


def _read(text: str) -> Address | None:
    """An address, with or without a port; one of IPv4 that a socket of both kinds shows as IPv6 is IPv4."""
    if port := _WITH_PORT.fullmatch(text):
        text = port[1] or port[2]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
