# SPDX-License-Identifier: BSD-2-Clause
"""Requests of web pages from other origins to the public API (Fetch standard, "CORS protocol").

A browser sends such a request and shows its answer to the page only if the answer allows the page's origin.
Before most requests it sends another one, the preflight, without the page's key. The pages that are allowed
are those of `[server] allowed_origins`. Cookies and other credentials of the browser are never allowed: a
client of this API sends its key in a header.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

from gateway.config import Server

PUBLIC: Final = "/v1/public/"
"""Pages may send requests to paths below this one, and to no other path."""

WEBHOOKS: Final = "/v1/public/webhooks/"
"""Except for these: their senders are no browsers."""

METHODS: Final = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

MAX_AGE_S: Final = 600
"""How long a browser may remember the answer to a preflight. Some remember it for less."""

_RESERVED: Final = "access-control-"
_NAMES: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z, \t]{1,2000}")
"""A list of header names, as a preflight sends it."""


class CrossOrigin:
    """The rules for pages of other origins. Without `allowed_origins` it changes no answer."""

    def __init__(self, server: Server) -> None:
        """`server`: has the `allowed_origins`."""
        self._server = server

    def is_preflight(self, scope: Scope) -> bool:
        """Return True for a preflight from an allowed page: its answer is 204, without a key.

        A request with a key is none, because browsers send a preflight without one.
        """
        headers = Headers(scope=scope)
        return (
            scope["method"] == "OPTIONS"
            and "Access-Control-Request-Method" in headers
            and "Authorization" not in headers
            and self._allowed_origin(scope, headers) is not None
        )

    def complete(self, scope: Scope, answer: MutableHeaders) -> None:
        """Add the headers that let the request's page read the answer, whatever its status.

        If an agent's answer has such headers, they are replaced: the operator says which pages are allowed.
        """
        if not self._applies_to(scope):
            return
        for name in {name for name in answer if name.lower().startswith(_RESERVED)}:
            del answer[name]
        headers = Headers(scope=scope)
        answer.append("Vary", "Origin")
        origin = self._allowed_origin(scope, headers)
        if origin is None:
            return
        answer["Access-Control-Allow-Origin"] = origin
        answer["Access-Control-Expose-Headers"] = "*"
        if self.is_preflight(scope):
            answer["Access-Control-Allow-Methods"] = METHODS
            answer["Access-Control-Max-Age"] = str(MAX_AGE_S)
            requested = headers.get("Access-Control-Request-Headers", "")
            if _NAMES.fullmatch(requested):
                answer["Access-Control-Allow-Headers"] = requested

    def _applies_to(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return (
            bool(self._server.allowed_origins) and path.startswith(PUBLIC) and not path.startswith(WEBHOOKS)
        )

    def _allowed_origin(self, scope: Scope, headers: Headers) -> str | None:
        """Return the allowed origin, `*` for any; None if the request has none, several, or another one."""
        origins = headers.getlist("Origin")
        if len(origins) != 1 or not self._applies_to(scope) or not self._server.allows_origin(origins[0]):
            return None
        return "*" if "*" in self._server.allowed_origins else origins[0]
