# SPDX-License-Identifier: BSD-2-Clause
"""Certificates for localhost, made by the test."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def issue_certificate(
    directory: Path,
    serial: int,
    *,
    passphrase: bytes | None = None,
    host: str = "localhost",
    days: int = 1,
) -> tuple[Path, Path]:
    """Write a certificate with this serial number and its key, over those before; return the two paths.

    `host`: whose it is. `days`: from now until it expires, less than 0 for one that has expired.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=7))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        lock = serialization.BestAvailableEncryption(passphrase)
    files = directory / "certificate.pem", directory / "key.pem"
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    )
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return files


def trust_anything() -> ssl.SSLContext:
    """Return the TLS settings of a client that accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def serial_of(connection: ssl.SSLObject | ssl.SSLSocket) -> int:
    """Return the serial number of the far end's certificate."""
    certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number
