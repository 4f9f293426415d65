# SPDX-License-Identifier: BSD-2-Clause
"""The A and AAAA records of a name, with their TTL, asked of name servers directly.

`getaddrinfo` (resolver.py) tells no TTL. Here the search list and `ndots` of /etc/resolv.conf count as they
do there, so that `support.default.svc` is found inside a Kubernetes cluster, and so does /etc/hosts.

Each look-up has a channel of its own. c-ares keeps answers in its channel until their TTL is over, though not
longer than an hour, and pycares offers no way to turn that off: a channel that stays would not see an address
that came before the old answer's TTL was over.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiodns
import pycares

TRY_S: Final = 2.0
"""Seconds that a name server has for its first answer; c-ares gives more to each further try."""

TRIES: Final = 2

LIMIT_S: Final = 15.0
"""Seconds after which a look-up has failed: a search list multiplies the tries."""

MAX_ADDRESSES: Final = 5000
"""Addresses of one answer that are taken: a DNS message has room for some 4,000 A records (RFC 1035 §4.2.2).
"""

_NOTHING: Final = frozenset({pycares.errno.ARES_ENODATA, pycares.errno.ARES_ENOTFOUND})
_WORDS: Final = {
    pycares.errno.ARES_ENODATA: "it has no address",
    pycares.errno.ARES_ENOTFOUND: "there is no such name",
    pycares.errno.ARES_ESERVFAIL: "the name server failed (SERVFAIL)",
    pycares.errno.ARES_EREFUSED: "the name server refused",
    pycares.errno.ARES_ETIMEOUT: "no name server answered in time",
    pycares.errno.ARES_ECONNREFUSED: "no name server could be reached",
    pycares.errno.ARES_EBADRESP: "the name server's answer was none",
}


class LookUpFailed(Exception):  # noqa: N818 - named for what happened, as the others of this room
    """A name server gave no answer that says anything about the name. The message completes "NAME: …"."""


@dataclass(frozen=True, slots=True)
class Records:
    """The addresses of a name in one family, sorted and without duplicates; none if it has none.

    `ttl_s`: seconds for which they are good, as the record says that says the least; 0 without any.
    `words`: why there are none, as in "there is no such name".
    """

    addresses: tuple[str, ...] = ()
    ttl_s: int = 0
    words: str = ""


async def look_up(
    host: str, families: Sequence[socket.AddressFamily], nameservers: Sequence[str] = ()
) -> list[Records | LookUpFailed]:
    """Return what the name servers say of a name, for each family by itself, within LIMIT_S. Raises nothing.

    A server may know one family and fail for the other, and only one of the two is then unknown.

    `nameservers`: addresses with or without a port, as in "127.0.0.1:8600"; without any, those of the system.
    """
    try:
        resolver = aiodns.DNSResolver(list(nameservers), timeout=TRY_S, tries=TRIES)
    except (pycares.AresError, OSError) as error:  # no descriptor is left, or no thread
        failure = LookUpFailed(f"the name servers could not be asked: {error}")
        return [failure for _ in families]
    async with resolver:
        return list(await asyncio.gather(*(_ask(resolver, host, family) for family in families)))


async def _ask(
    resolver: aiodns.DNSResolver, host: str, family: socket.AddressFamily
) -> Records | LookUpFailed:
    try:
        async with asyncio.timeout(LIMIT_S):
            found = await resolver.getaddrinfo(host, family, type=socket.SOCK_STREAM)
    except TimeoutError:
        return LookUpFailed(f"no answer within {LIMIT_S:g} s")
    except aiodns.error.DNSError as error:
        code = error.args[0] if error.args else None
        words = _WORDS.get(code, str(error.args[-1]).lower() if error.args else "the look-up failed")
        return Records(words=words) if code in _NOTHING else LookUpFailed(words)
    nodes = found.nodes[:MAX_ADDRESSES]
    addresses = {ipaddress.ip_address(_text(node.addr[0])) for node in nodes}
    ordered = tuple(str(address) for address in sorted(addresses, key=int))
    if not ordered:
        return Records(words=_WORDS[pycares.errno.ARES_ENODATA])
    return Records(ordered, max(0, min(node.ttl for node in nodes)))


def _text(address: str | bytes) -> str:
    return address.decode("ascii") if isinstance(address, bytes) else address
