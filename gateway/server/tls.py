# SPDX-License-Identifier: BSD-2-Clause
"""The TLS certificate of the port: loaded from files, and reloaded when they change.

New handshakes get the newest certificate; an open connection keeps its own. If a changed file cannot be used,
the previous certificate stays in use, and a log line says why.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from gateway.config import Server

if TYPE_CHECKING:
    from cryptography import x509

log = structlog.get_logger(__name__)

RELOAD_CHECK_S: Final = 5.0
"""How often the files are checked for a change."""

RENEWAL: Final = timedelta(days=7)
"""A certificate that is still not renewed so shortly before its end is probably forgotten."""

EXPIRED: Final = "the certificate has expired"
EXPIRES_SOON: Final = "the certificate expires soon"

Stamp = tuple[int, int, int]
"""Modification time in nanoseconds, size in bytes, and inode of a file: if they differ, it has changed."""


class CertificateUnusable(Exception):  # noqa: N818 - read as a sentence
    """Raised if a certificate or its key cannot be used.

    Its text is the cause, without any part of the key.
    """


def load_certificate(server: Server) -> Certificate | None:
    """Load the configured certificate. None if the port speaks no TLS. Raises CertificateUnusable."""
    return Certificate(server.tls_certificate, server.tls_key) if server.tls_certificate else None


class Certificate:
    """A certificate with its key, and the TLS context that serves the newest version of both."""

    def __init__(self, certificate: str, key: str | None = None) -> None:
        """`certificate`, `key`: names of PEM files; `key` is None if it is in the certificate's file.

        Raises CertificateUnusable.
        """
        self._certificate = certificate
        self._key = key
        self._stamps = self._read_stamps()
        self._reported = ""
        """The event of the certificate's end that was logged last."""
        self._newest = self.context = self._load()
        """The server is created with `context` and keeps it; each handshake is switched to the newest one."""
        self.context.sni_callback = self._use_newest

    def reload_if_changed(self) -> None:
        """Load the files again if they have changed. Log once that the certificate's end is near, or past."""
        if self._read_stamps() != self._stamps:
            self.reload()
        self._report_end()

    def reload(self) -> None:
        """Load the files again. If they cannot be used, log why and keep the certificate."""
        self._stamps = self._read_stamps()
        try:
            self._newest = self._load()
        except CertificateUnusable as error:
            log.error("the certificate stays as it was", error=str(error))

    def _read_stamps(self) -> tuple[Stamp | None, ...]:
        return tuple(_stamp_of(name) for name in (self._certificate, self._key) if name)

    def _load(self) -> ssl.SSLContext:
        until = read_chain(self._certificate)[0].not_valid_after_utc
        context = load_context(self._certificate, self._key)
        log.info("certificate", valid_until=until.isoformat())
        self._valid_until, self._reported = until, ""
        self._report_end()
        return context

    def _report_end(self) -> None:
        left = self._valid_until - datetime.now(UTC)
        event = EXPIRED if left <= timedelta(0) else EXPIRES_SOON if left <= RENEWAL else ""
        if event and event != self._reported:
            self._reported = event
            log.warning(event, valid_until=self._valid_until.isoformat())

    def _use_newest(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._newest


def read_chain(certificate: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, the server's own first. Raises CertificateUnusable."""
    from cryptography import x509  # noqa: PLC0415 - slow to import, and only a port with TLS needs it

    try:
        return x509.load_pem_x509_certificates(Path(certificate).read_bytes())
    except OSError as error:
        raise CertificateUnusable(f"{certificate}: {error.strerror}") from None
    except ValueError:
        raise CertificateUnusable(f"{certificate}: holds no certificate in PEM form") from None


def load_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return the TLS context of a server with this certificate and key. Raises CertificateUnusable."""
    key_file = key or certificate

    def no_passphrase() -> str:
        raise CertificateUnusable(f"{key_file}: the key has a passphrase")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 and newer
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=no_passphrase)
    except ssl.SSLError as error:
        detail = (error.reason or "unreadable").lower().replace("_", " ")
        raise CertificateUnusable(f"{key_file}: {detail}") from None
    except OSError as error:
        raise CertificateUnusable(f"{key_file}: {error.strerror}") from None
    return context


def _stamp_of(name: str) -> Stamp | None:
    """Return a file's modification time, size and inode. None if it cannot be read."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
