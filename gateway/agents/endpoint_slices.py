# SPDX-License-Identifier: BSD-2-Clause
"""The instances in the EndpointSlices of a Kubernetes Service. Pure.

One Service has several slices: one set for each address family and each set of ports, and more where there
are many endpoints. An endpoint may be in two of them for a moment
(https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import msgspec


class Conditions(msgspec.Struct, frozen=True):
    """The conditions of an endpoint; None where the server says nothing."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


_UNSAID = Conditions()


class TargetRef(msgspec.Struct, frozen=True):
    """The object behind an endpoint, usually a pod."""

    uid: str | None = None


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    """One endpoint. Only its first address has a meaning."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    target_ref: TargetRef | None = None


class Port(msgspec.Struct, frozen=True):
    """A port at the endpoints of a slice."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """The metadata of a slice, or of a list of them."""

    name: str = ""
    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """One slice. Raises msgspec's errors where it is read, if it is none."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    address_type: str = ""
    endpoints: list[Endpoint] | None = None
    ports: list[Port] | None = None


class _Place(NamedTuple):
    """An address and a port, in the order of addresses."""

    version: int
    number: int
    port: int
    address: str


@dataclass(slots=True)
class _Seen:
    """The words of all slices on one endpoint. `place`: the first of its places in their order."""

    place: _Place
    is_serving: bool = False
    is_terminating: bool = False


def instances_of(slices: Iterable[EndpointSlice], port: str) -> tuple[list[str], str]:
    """Return the URLs of the endpoints that may get new sessions, and what is wrong if there are none.

    An endpoint is one pod, by its uid, whatever addresses it has: the IPv4 address counts if there are two.
    It may get new sessions if it serves and does not terminate, by all that the slices say of it; what they
    do not say is true of `serving` and false of `terminating`. `port`: the name of a port, or its number.
    The URLs are sorted by address.
    """
    seen: dict[str, _Seen] = {}
    others: set[str] = set()  # the ports of endpoints that do not have this one
    is_any = False
    for each in slices:
        is_any = True
        if each.address_type not in ("IPv4", "IPv6") or not each.endpoints:
            continue
        number = _port_number(each, port)
        if number is None:
            others.update(map(_words, each.ports or ()))
            continue
        for endpoint in each.endpoints:
            _note(seen, endpoint, number)
    found = sorted(each.place for each in seen.values() if each.is_serving and not each.is_terminating)
    urls = dict.fromkeys(
        f"http://{f'[{place.address}]' if place.version == 6 else place.address}:{place.port}"
        for place in found
    )
    remark = ""
    if not is_any:
        remark = "it has no EndpointSlice: there is no such Service, or it selects no pods"
    elif others and not seen:
        remark = f"no endpoint has the port {port}; there is {', '.join(sorted(others))}"
    return list(urls), remark


@lru_cache(8192)
def _parsed(address: str) -> tuple[int, int, str] | None:
    """Return an address as _Place has it, None if it is none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return parsed.version, int(parsed), str(parsed)


def _note(seen: dict[str, _Seen], endpoint: Endpoint, port: int) -> None:
    parsed = _parsed(endpoint.addresses[0]) if endpoint.addresses else None
    if parsed is None:
        return
    version, number, address = parsed
    place = _Place(version, number, port, address)
    uid = endpoint.target_ref.uid if endpoint.target_ref is not None else None
    known = seen.setdefault(uid or address, _Seen(place))
    known.place = min(known.place, place)
    conditions = endpoint.conditions or _UNSAID
    known.is_serving = known.is_serving or conditions.serving is not False
    known.is_terminating = known.is_terminating or conditions.terminating is True


def _port_number(each: EndpointSlice, port: str) -> int | None:
    """Return the number of the port at the endpoints of a slice, None if they do not have it."""
    known = [one for one in each.ports or () if one.protocol in (None, "", "TCP")]
    if not port.isdecimal():
        return next((one.port for one in known if one.name == port and one.port), None)
    # A slice without ports, or with one that has no number, says nothing of which there are.
    if not each.ports or any(one.port in (None, int(port)) for one in known):
        return int(port)
    return None


def _words(port: Port) -> str:
    return f"{port.port or 'any'} ({port.name})" if port.name else f"{port.port or 'any'}"
