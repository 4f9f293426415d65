# SPDX-License-Identifier: BSD-2-Clause
"""The certificate that the port shows: read from files, and read again when they change.

New handshakes get the newest; a connection keeps what it began with. A file that cannot be used changes
nothing: the certificate before it stays, and a log line says why.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

log = structlog.get_logger(__name__)

WATCH_S: Final = 5.0
"""How often the files are looked at."""

Stamp = tuple[tuple[int, int, int] | None, ...]


class CertificateUnusable(Exception):  # noqa: N818 - read as a sentence
    """A certificate or its key cannot be used. `str()` says why, in words, and holds nothing of the key."""


class Certificate:
    """What the port shows to who connects."""

    def __init__(self, certificate: str, key: str | None = None) -> None:
        """`key`: None where it stands in the certificate's file. Raises CertificateUnusable."""
        self._certificate = certificate
        self._key = key
        self._stamp = self._look()
        self._newest = self.context = self._read()
        """`context` is the server's, for good; each handshake is moved on to the newest."""
        self.context.sni_callback = self._move_on

    def follow(self) -> None:
        """Reads the files again if they have changed."""
        if self._look() != self._stamp:
            self.reload()

    def reload(self) -> None:
        """Reads the files again, whether or not they have changed."""
        self._stamp = self._look()
        try:
            self._newest = self._read()
        except CertificateUnusable as error:
            log.error("the certificate stays as it was", error=str(error))

    def _look(self) -> Stamp:
        return tuple(_stamp(name) for name in (self._certificate, self._key) if name)

    def _read(self) -> ssl.SSLContext:
        until = self._valid_until()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 and newer
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=self._no_passphrase)
        except ssl.SSLError as error:
            detail = (error.reason or "unreadable").lower().replace("_", " ")
            raise CertificateUnusable(f"{self._key or self._certificate}: {detail}") from None
        except OSError as error:
            raise CertificateUnusable(f"{self._key or self._certificate}: {error.strerror}") from None
        log.info("certificate", valid_until=until.isoformat())
        if until <= datetime.now(UTC):
            log.warning("the certificate has expired", valid_until=until.isoformat())
        return context

    def _valid_until(self) -> datetime:
        try:
            chain = x509.load_pem_x509_certificates(Path(self._certificate).read_bytes())
        except OSError as error:
            raise CertificateUnusable(f"{self._certificate}: {error.strerror}") from None
        except ValueError:
            raise CertificateUnusable(f"{self._certificate}: holds no certificate in PEM form") from None
        return chain[0].not_valid_after_utc

    def _no_passphrase(self) -> str:
        raise CertificateUnusable(f"{self._key or self._certificate}: the key has a passphrase")

    def _move_on(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._newest


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
