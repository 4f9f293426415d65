# SPDX-License-Identifier: BSD-2-Clause
"""The two addresses of a gateway: where it is reached, and the public URL that carriers know. No I/O.

Signatures cover the public URL, also of a call that takes another way, past a proxy or before there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_SECURE = frozenset({"https", "wss"})


@dataclass(frozen=True, slots=True)
class Reached:
    """A URL to request. `host`: the `Host` header, if it is not that of the URL."""

    url: str
    host: str | None = None


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """The gateway of a call. `given`: a URL of it as it is reached. `public_url`: None if it is that one."""

    given: str
    public_url: str | None = None

    def public(self, url: str) -> str:
        """Return a URL of the gateway as its carriers request it."""
        parts = urlsplit(url)
        if self.public_url is None or self._is_public(parts):
            return url
        public = urlsplit(self.public_url)
        path = f"{public.path.rstrip('/')}{parts.path}"
        return parts._replace(scheme=_scheme(parts, public), netloc=public.netloc, path=path).geturl()

    def reach(self, url: str) -> Reached:
        """Return what to request for a URL of the gateway: a public name is reached where `given` says."""
        parts, given = urlsplit(url), urlsplit(self.given)
        if self.public_url is None or self._is_public(given) or not self._is_public(parts):
            return Reached(url)
        prefix = urlsplit(self.public_url).path.rstrip("/")
        path = parts.path.removeprefix(prefix)
        netloc = given.netloc.rpartition("@")[2]
        there = parts._replace(scheme=_scheme(parts, given), netloc=netloc, path=path).geturl()
        return Reached(there, parts.netloc.rpartition("@")[2])

    def _is_public(self, parts: SplitResult) -> bool:
        """Return True for the host of the public URL, or that host behind a region's label."""
        public = urlsplit(self.public_url or "").hostname or ""
        host = parts.hostname or ""
        return host == public or host.endswith(f".{public}")


def _scheme(parts: SplitResult, like: SplitResult) -> str:
    """Return the scheme of `parts`, with TLS if `like` has it."""
    plain = "ws" if parts.scheme in {"ws", "wss"} else "http"
    return f"{plain}s" if like.scheme in _SECURE else plain
