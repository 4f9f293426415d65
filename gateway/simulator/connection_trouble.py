# SPDX-License-Identifier: BSD-2-Clause
"""Why a connection came to nothing, in words that say what to do."""

from __future__ import annotations

import os
import socket
import ssl

# The results of OpenSSL's verification (X509_STORE_CTX_get_error(3)).
_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED, _SELF_SIGNED_ROOT, _NO_ISSUER, _NO_CHAIN = 18, 19, 20, 21
_WRONG_HOST, _WRONG_EMAIL, _WRONG_ADDRESS = 62, 63, 64

_CERTIFICATE = {
    _NOT_YET_VALID: "is not valid yet: is the clock right, here and where it was made?",
    _EXPIRED: "has expired: renew it",
    _SELF_SIGNED: "is signed by itself, which no carrier accepts; --ca FILE trusts it here",
    _SELF_SIGNED_ROOT: "is of an authority that is not known here: unless it is a public one, no carrier "
    "knows it either; --ca FILE trusts it here",
    _NO_ISSUER: "is of an authority that is not known here, or certificates between the two are missing: "
    "tls_certificate must hold them, too; --ca FILE trusts another authority here",
}
_CERTIFICATE[_NO_CHAIN] = _CERTIFICATE[_NO_ISSUER]
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE"})


_SPEAKS_NO_TLS = "it speaks no TLS: ws:// or http:// instead, or the port of the proxy that does"


def trouble(error: OSError | EOFError, host: str) -> str:
    """Return why no connection to `host` was made."""
    if isinstance(error, ssl.SSLError):
        return _tls_trouble(error, host)
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, ConnectionError):  # in the TLS handshake asyncio raises it without a number
        return f"it closed the connection at once; perhaps {_SPEAKS_NO_TLS}"
    return str(error) or type(error).__name__


def _tls_trouble(error: ssl.SSLError, host: str) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        if error.reason in _NO_TLS:
            return _SPEAKS_NO_TLS
        return f"no TLS with it: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if error.verify_code in (_WRONG_HOST, _WRONG_EMAIL, _WRONG_ADDRESS):
        return f"its certificate is not for {host}: it must name every host that carriers dial, regions' too"
    return f"its certificate {_CERTIFICATE.get(error.verify_code, f'is no good: {error.verify_message}')}"
