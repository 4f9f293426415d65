# SPDX-License-Identifier: BSD-2-Clause
"""Why a connection failed, for those who may not know where it was to."""

from __future__ import annotations

import errno
import socket
import ssl
from unittest.mock import Mock

import aiohttp
import pytest

from gateway.model.connection_errors import cause_of_failed_request, cause_without_address

PLACE = "10.1.2.3"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ('{PLACE}', 80)"), "refused"),
        (OSError(errno.EHOSTUNREACH, f"Multiple exceptions: ('{PLACE}', 80)"), "no route to host"),
        (ssl.SSLCertVerificationError(1, f"certificate is not valid for '{PLACE}'."), "certificate"),
        (ssl.SSLError(1, f"wrong version number of {PLACE}"), "no tls"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (OSError(f"something about {PLACE}"), "no connection"),
    ],
)
def test_the_cause_is_told_without_the_address(error: OSError, words: str) -> None:
    cause = cause_without_address(error)
    assert words in cause.lower()
    assert PLACE not in cause


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            aiohttp.ClientConnectorError(Mock(), ConnectionRefusedError(errno.ECONNREFUSED, "secret")),
            "connection refused",
        ),
        (
            aiohttp.ClientConnectorSSLError(Mock(), ssl.SSLError(1, "secret")),
            "no TLS with a good certificate",
        ),
        (ConnectionResetError(errno.ECONNRESET, "secret"), "connection reset by peer"),
        (aiohttp.ServerDisconnectedError("secret"), "ServerDisconnectedError"),
    ],
)
def test_a_request_that_got_no_answer_says_why_and_not_what_was_sent(error: Exception, words: str) -> None:
    assert cause_of_failed_request(error) == words
