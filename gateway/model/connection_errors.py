# SPDX-License-Identifier: BSD-2-Clause
"""Why a connection failed, in words for whoever has caused it to be opened.

An error's own text names what was connected to: a certificate's host, or an address that did not answer.
"""

from __future__ import annotations

import os
import socket
import ssl


def cause_without_address(error: OSError) -> str:
    """Return why a connection failed, in small letters and without any name or address."""
    if isinstance(error, ssl.SSLError):
        return "no TLS with a good certificate"
    if isinstance(error, socket.gaierror):
        return (error.strerror or "its name was not found").lower()
    return os.strerror(error.errno).lower() if error.errno else "no connection"


def cause_of_failed_request(error: Exception) -> str:
    """Return why an HTTP request got no answer, without its text, which may contain what was sent.

    Of an error that is not the system's, nor has one as its `os_error`, only the class is told.
    """
    if not isinstance(error, ssl.SSLError):
        error = getattr(error, "os_error", error)
    return cause_without_address(error) if isinstance(error, OSError) else type(error).__name__
