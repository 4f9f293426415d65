# SPDX-License-Identifier: BSD-2-Clause
"""The URL of a store on Redis: which servers, or which Sentinels, and what they want to be told. No I/O.

    redis://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…][/DATABASE]
    redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DATABASE]

and the same as `rediss` over TLS. Several hosts of `redis://` are nodes of one cluster. User and password are
the servers', not the Sentinels'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

SCHEMES: Final = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
SERVER_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

Address = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class StorePasswords:
    """The passwords of a Redis server and its Sentinels, beside the URL; "" for none.

    `server` replaces the password of the URL.
    """

    server: str = field(default="", repr=False)
    sentinel_user: str = ""
    sentinel: str = field(default="", repr=False)


NO_PASSWORDS: Final = StorePasswords()


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a store on Redis is.

    `hosts`: servers, or Sentinels if there is a `service`, the name under which they watch the primary.
    `name`: the URL as it may stand in a log, without user and password.
    """

    name: str
    hosts: tuple[Address, ...]
    service: str
    database: int
    is_tls: bool
    user: str
    passwords: StorePasswords = NO_PASSWORDS


def is_redis(url: str) -> bool:
    """Return whether a store's URL is one of a Redis server."""
    return url.partition("://")[0] in SCHEMES and "://" in url


def parse_redis_url(url: str, passwords: StorePasswords = NO_PASSWORDS) -> RedisAddress:
    """Return the address that a URL names. Raises ValueError, with words that repeat nothing of the URL."""
    scheme, _, rest = url.partition("://")
    assert scheme in SCHEMES, "the caller looks at the scheme"
    if "?" in rest or "#" in rest:
        raise ValueError("must have no ? and no #")
    netloc, _, path = rest.partition("/")
    credentials, _, host_list = netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    has_sentinels = scheme.endswith("+sentinel")
    hosts = _hosts(host_list, SENTINEL_PORT if has_sentinels else SERVER_PORT, has_sentinels)
    service = ""
    if has_sentinels:
        service, _, path = path.partition("/")
        if not service:
            raise ValueError(
                "must name the service that the Sentinels watch, as in redis+sentinel://10.0.0.9:26379/mymaster/0"
            )
    if path and not (path.isascii() and path.isdecimal()):
        raise ValueError("must end with the number of a database, if any, as in redis://127.0.0.1:6379/0")
    if password and passwords.server:
        raise ValueError("has a password, and store.password is there, too: one of them is enough")
    return RedisAddress(
        name=f"{scheme}://{host_list}/{service}{'/' if service and path else ''}{path}",
        hosts=hosts,
        service=unquote(service),
        database=int(path or 0),
        is_tls=scheme.startswith("rediss"),
        user=unquote(user),
        passwords=StorePasswords(
            passwords.server or unquote(password), passwords.sentinel_user, passwords.sentinel
        ),
    )


def url_password(url: str) -> str:
    """Return the password in a URL as it is written there, "" if there is none."""
    netloc = url.partition("://")[2].partition("/")[0]
    return netloc.rpartition("@")[0].partition(":")[2]


def _hosts(text: str, default_port: int, has_sentinels: bool) -> tuple[Address, ...]:
    hosts = tuple(_host(each, default_port) for each in text.split(","))
    if None in hosts:
        example = (
            "redis+sentinel://10.0.0.9:26379/mymaster/0" if has_sentinels else "redis://127.0.0.1:6379/0"
        )
        raise ValueError(f"must name a host, as in {example}, and a port from 1 to 65535 if any")
    return tuple(host for host in hosts if host is not None)


def _host(text: str, default_port: int) -> Address | None:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or port == 0 or text.endswith(":") or "@" in text:
        return None
    return host, port or default_port
