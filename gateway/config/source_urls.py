# SPDX-License-Identifier: BSD-2-Clause
"""Entries of an agent's `instances` that name no instance but say where instances are found.

dns://HOST:PORT                          every address of a name
dns4://HOST:PORT, dns6://HOST:PORT       those of one family
kubernetes://NAMESPACE/SERVICE:PORT      the endpoints of a Service; PORT is a name or a number
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator

from gateway.config.values import MAX_PORT, check_instance_url

_FAMILIES: Final = {
    "dns": (socket.AF_INET, socket.AF_INET6),
    "dns4": (socket.AF_INET,),
    "dns6": (socket.AF_INET6,),
}
SCHEMES: Final = (*(f"{scheme}://" for scheme in _FAMILIES), "kubernetes://")
"""The beginnings of entries that say where instances are found."""

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*{_LABEL}")
_SEGMENT: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SERVICE: Final = re.compile(rf"(?P<namespace>{_SEGMENT})/(?P<service>{_SEGMENT}):(?P<port>{_SEGMENT})")


@dataclass(frozen=True, slots=True)
class DnsSource:
    """Every address that a name has in these families; each instance is at `port`."""

    host: str
    port: int
    families: tuple[socket.AddressFamily, ...]


@dataclass(frozen=True, slots=True)
class KubernetesSource:
    """Every endpoint of a Service. `port`: the name of a port, or its number at the endpoints."""

    namespace: str
    service: str
    port: str


Source = DnsSource | KubernetesSource


def parse_source(entry: str) -> Source:
    """Return what an entry of `instances` says that begins as one of SCHEMES.

    Raises ValueError with words that complete the sentence "agents[0].instances[0]: …".
    """
    scheme, _, rest = entry.partition("://")
    if scheme in _FAMILIES:
        host, port = _split_dns(scheme, rest.rstrip("/"))
        return DnsSource(host, port, _FAMILIES[scheme])
    found = _SERVICE.fullmatch(rest.rstrip("/"))
    if found is None:
        raise ValueError(
            "must name a Service and a port of it, as in kubernetes://default/support:8080, or support:http"
        )
    if found["port"].isdecimal() and not 1 <= int(found["port"]) <= MAX_PORT:
        raise ValueError("must have a port from 1 to 65535, or the name of one")
    return KubernetesSource(found["namespace"], found["service"], found["port"])


def _split_dns(scheme: str, rest: str) -> tuple[str, int]:
    host, _, port = rest.rpartition(":")
    name = host.removesuffix(".")
    if not _NAME.fullmatch(name) or not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise ValueError(f"must name a host and a port, as in {scheme}://support.default.svc:8080")
    if name.replace(".", "").isdecimal():
        raise ValueError(f"must name a host: an address is an instance itself, http://{name}:{port}")
    # A dot at the end says that the search list of the machine does not count (RFC 1034 §3.1).
    return host.lower(), int(port)


def check_instance(value: str) -> str:
    """Check an entry of `instances`, a URL or a source, and return it without a slash at its end."""
    if not value.startswith(SCHEMES):
        return check_instance_url(value)
    parse_source(value)
    return value.rstrip("/")


Instance = Annotated[str, AfterValidator(check_instance)]
