# SPDX-License-Identifier: BSD-2-Clause
"""Looks at what the settings need of this machine: files, addresses, the store. Nothing is changed.

`patchbay check` prints what it finds; `patchbay serve` logs it, and does not start with what cannot work.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog

from gateway.agents.stored_agents import DOCUMENT_KIND
from gateway.config.consistency import Location
from gateway.config.loading import Loaded
from gateway.config.settings import Settings
from gateway.config.workability import NODE_URL, Concern, Severity, find_concerns
from gateway.model.addresses import host_in_region
from gateway.nodes.node_listener import NodeAddressUnusable, bind_node
from gateway.observability.log import logging_as
from gateway.pool.command_check import find_command_concerns
from gateway.server.exit_status import STARTUP_FAILED
from gateway.server.port import bind
from gateway.server.source_check import missing_libraries
from gateway.server.tls import RENEWAL, CertificateUnusable, load_context, read_chain
from gateway.store.connect import inspect_redis
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.file_inspection import count_values, inspect_file

if TYPE_CHECKING:
    from cryptography import x509

log = structlog.get_logger(__name__)

_CERTIFICATE: Final = ("server", "tls_certificate")
_KEY: Final = ("server", "tls_key")
_STORE: Final = ("store", "url")
_AGENTS: Final = ("agents",)


def find_all_concerns(loaded: Loaded, config: Path | None) -> list[Concern]:
    """Return all that does not work or may not, by the settings and by what is on this machine.

    `config`: the configuration's file, None if there is none.
    """
    settings = loaded.settings
    return [
        *find_concerns(settings),
        *_host(settings),
        *_node_address(settings),
        *_certificate(settings),
        *_store(settings),
        *missing_libraries(settings),
        *find_command_concerns(settings, os.environ),
        *_readable_secrets(loaded, config),
    ]


def find_concerns_of_running(loaded: Loaded, config: Path | None) -> list[Concern]:
    """Return the same for settings that a gateway takes while it runs: port, certificate and store stay."""
    settings = loaded.settings
    concerns = [
        *find_concerns(settings),
        *missing_libraries(settings),
        *find_command_concerns(settings, os.environ),
        *_readable_secrets(loaded, config),
    ]
    with contextlib.suppress(StoreFailed):  # it is reported by those who need it
        concerns += _agents(settings)
    return concerns


def report(concerns: Sequence[Concern], loaded: Loaded) -> int:
    """Log each concern in one line. Return 0, or the exit status if the gateway must not start.

    The status is STARTUP_FAILED if the store is the only cause, else 1.
    """
    if not concerns:
        return 0
    refused: set[Location] = set()
    server = loaded.settings.server
    with logging_as(server.log_format, server.log_level):
        for concern in concerns:
            problem = loaded.locate(concern.location, concern.message)
            place = f"{problem.place} ({problem.where})" if problem.where else problem.place
            if concern.severity is Severity.REFUSED:
                refused.add(concern.location)
                log.error("cannot start", setting=place, error=concern.message)
            else:
                log.warning("doubtful setting", setting=place, error=concern.message)
    if not refused:
        return 0
    return STARTUP_FAILED if refused == {_STORE} else 1


def _host(settings: Settings) -> Iterator[Concern]:
    host = settings.server.host
    try:
        bind(host, 0, reuse_port=False).close()
    except socket.gaierror as error:
        yield Concern(("server", "host"), f"{host} is not known: {error.strerror}")
    except OSError as error:
        yield Concern(("server", "host"), f"{host} cannot be listened on here: {error.strerror}")


def _node_address(settings: Settings) -> Iterator[Concern]:
    """Find that this machine cannot listen at its node's address; a gateway that it replaces may."""
    if settings.server.node_url is not None:
        try:
            bind_node(settings.server.node_url).close()
        except NodeAddressUnusable as error:
            yield Concern(NODE_URL, str(error))


# The certificate


def _certificate(settings: Settings) -> Iterator[Concern]:
    server = settings.server
    if server.tls_certificate is None:
        return
    try:
        chain = read_chain(server.tls_certificate)
        load_context(server.tls_certificate, server.tls_key)
    except CertificateUnusable as error:
        concerns_key = server.tls_key is not None and str(error).startswith(server.tls_key)
        yield Concern(_KEY if concerns_key else _CERTIFICATE, str(error))
        return
    certificate, now = chain[0], datetime.now(UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end <= now:
        yield Concern(_CERTIFICATE, f"expired on {end:%Y-%m-%d %H:%M} UTC", Severity.REPAIRABLE)
    elif begin > now:
        yield Concern(_CERTIFICATE, f"is not valid before {begin:%Y-%m-%d %H:%M} UTC", Severity.REPAIRABLE)
    elif end <= now + RENEWAL:
        yield Concern(_CERTIFICATE, f"expires on {end:%Y-%m-%d %H:%M} UTC", Severity.DOUBTFUL)
    if certificate.issuer == certificate.subject:
        message = "is signed by itself: carriers take certificates of public authorities"
        yield Concern(_CERTIFICATE, message, Severity.DOUBTFUL)
    elif len(chain) == 1:
        message = "holds one certificate, and none between it and the root: many clients cannot verify it"
        yield Concern(_CERTIFICATE, message, Severity.DOUBTFUL)
    yield from _names_of_certificate(settings, certificate)
    node = urlsplit(server.node_url or "")
    if node.scheme == "https" and not _is_for(certificate, node.hostname or ""):
        message = f"is not for {node.hostname}, which node_url leads the other machines to"
        yield Concern(_CERTIFICATE, message, Severity.DOUBTFUL)


def _names_of_certificate(settings: Settings, certificate: x509.Certificate) -> Iterator[Concern]:
    public_url = settings.server.public_url
    if public_url is None or not public_url.startswith("https:"):
        return
    netloc = urlsplit(public_url).netloc
    regions = {region.code for region in settings.regions}
    foreign = sorted({agent.region for agent in settings.agents} - {settings.server.region})
    hosts = [netloc, *(host_in_region(netloc, region, regions) for region in foreign)]
    names = [urlsplit(f"//{host}").hostname or "" for host in hosts]
    missing = [name for name in dict.fromkeys(names) if not _is_for(certificate, name)]
    if missing:
        message = f"is not for {', '.join(missing)}, which public_url leads carriers to"
        yield Concern(_CERTIFICATE, message, Severity.DOUBTFUL)


def _is_for(certificate: x509.Certificate, host: str) -> bool:
    """Return True if the certificate names a host (RFC 9525 §6.3: a wildcard is for one whole label)."""
    from cryptography import x509  # noqa: PLC0415 - slow to import, and only a port with TLS needs it

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    known = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    known |= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return host in known or f"*.{host.partition('.')[2]}" in known


# The store


def _store(settings: Settings) -> Iterator[Concern]:
    try:
        if settings.store.is_redis:
            for doubt in inspect_redis(settings.store.url, settings.store.passwords, DOCUMENT_KIND)[1]:
                yield Concern(_STORE, doubt, Severity.DOUBTFUL)
        else:
            inspect_file(settings.store.path.absolute())
        yield from _agents(settings)
    except StoreFailed as error:
        yield Concern(_STORE, str(error))  # with whatever agents are in it


def _agents(settings: Settings) -> Iterator[Concern]:
    """Find that there is nobody to answer a call. Raises StoreFailed."""
    if settings.agents or _stored_agents(settings):
        return
    if any(organization.private_keys for organization in settings.organizations):
        message = "there are none: every call is refused until one is made through the API"
        yield Concern(_AGENTS, message, Severity.DOUBTFUL)
    else:
        message = (
            "there are none, and no organisation has a private key to make one with: every call would be "
        )
        yield Concern(_AGENTS, message + "refused")


def _stored_agents(settings: Settings) -> int:
    if settings.store.is_redis:
        return inspect_redis(settings.store.url, settings.store.passwords, DOCUMENT_KIND)[0]
    return count_values(settings.store.path.absolute(), DOCUMENT_KIND)


# Secrets


def _readable_secrets(loaded: Loaded, config: Path | None) -> Iterator[Concern]:
    server = loaded.settings.server
    key = server.tls_key or server.tls_certificate
    if key is not None and _is_readable_by_all(key):
        location = _KEY if server.tls_key else _CERTIFICATE
        message = f"{key} is readable by every user of this machine, and holds a private key"
        yield Concern(location, message, Severity.DOUBTFUL)
    if config is not None and loaded.has_secrets and _is_readable_by_all(config):
        message = "is readable by every user of this machine, and holds secrets"
        yield Concern((), message, Severity.DOUBTFUL)


def _is_readable_by_all(file: str | Path) -> bool:
    try:
        return bool(os.stat(file).st_mode & stat.S_IROTH)
    except OSError:
        return False
