# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay health`: a health check for containers that have no curl.

It knows the address from its argument or from the environment alone. A check that read the configuration's
file would fail, and have the container ended with its calls, because somebody makes a mistake in that file.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

TIMEOUT_S: Final = 3.0
"""For the connection, and for each wait for bytes of the answer."""

_PORT: Final = "PATCHBAY_SERVER__PORT"
_CERTIFICATE: Final = "PATCHBAY_SERVER__TLS_CERTIFICATE"
_SCHEMES: Final = ("http", "https")


class UnhealthyError(Exception):
    """The gateway does not answer, or says that it is not well; the message is a clause for the operator."""


def address_in(environ: Mapping[str, str]) -> str:
    """Return the URL of the gateway on this machine, as far as the environment has its settings."""
    scheme = "https" if environ.get(_CERTIFICATE) else "http"
    return f"{scheme}://127.0.0.1:{environ.get(_PORT) or 7860}"


def ask(url: str) -> str:
    """Return what the gateway at `url` answers, one line. Without a path its `/livez` is asked.

    Its certificate is not looked at: it is for the public name, and nothing secret is said.
    Raises UnhealthyError.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UnhealthyError(f"{url} is no URL: {error}") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise UnhealthyError(f"{url} is no http:// or https:// URL")
    connection = _connection(parts, port)
    try:
        connection.request("GET", parts.path or "/livez", headers={"Connection": "close"})
        response = connection.getresponse()
        answer = response.read(1024).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise UnhealthyError(f"{url} does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise UnhealthyError(f"{url} answered {response.status} {answer}")
    return answer


def _connection(parts: SplitResult, port: int | None) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=unchecked)
