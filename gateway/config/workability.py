# SPDX-License-Identifier: BSD-2-Clause
"""Settings that are valid one by one, and with which callers are refused all the same.

These checks need the settings alone; those that look at files and sockets are in gateway/server/preflight.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.config.call_handling import OtherAgent
from gateway.config.consistency import Location
from gateway.config.exposure import is_exposed
from gateway.config.organization_settings import CarrierAccount, Organization
from gateway.config.settings import Settings
from gateway.model.addresses import host_in_region, region_of_host

HTTPS_PORT: Final = 443
MIN_KEY_CHARACTERS: Final = 16
"""Of an API key, behind its prefix: what is shorter can be guessed. `POST …/api-keys` makes 48."""

PUBLIC_URL: Final = ("server", "public_url")
NODE_URL: Final = ("server", "node_url")
_OF_COMMAND: Final = (
    "cwd",
    "environment",
    "user",
    "log_folder",
    "ports",
    "buffer",
    "cooldown",
    "start_limit",
    "stop_grace",
    "recycle_after_sessions",
    "recycle_above_mb",
)
_RATED: Final = ("pcm16", "pipecat", "vonage", "openai-realtime")
NODE_SECRET: Final = ("server", "node_secret")
TRUSTED_PROXIES: Final = ("server", "trusted_proxies")

_LOCAL_NAME: Final = "localhost"
_ALL_ADDRESSES: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
_KEY_PREFIX: Final = re.compile("^(?:pk_|sk_|pcc_pat_)")


class Severity(Enum):
    """Severity of a concern: the treatment of a configuration that has it.

    REFUSED: `patchbay check` fails and `patchbay serve` does not start. REPAIRABLE: `check` fails, and
    `serve` starts with a warning, because the fault may be repaired, or go, while it runs. DOUBTFUL: both
    warn.
    """

    REFUSED = auto()
    REPAIRABLE = auto()
    DOUBTFUL = auto()


@dataclass(frozen=True, slots=True)
class Concern:
    """A setting that does not work, or may not. `message`: words that complete "LOCATION: …", no secrets."""

    location: Location
    message: str
    severity: Severity = Severity.REFUSED


def find_concerns(settings: Settings) -> Iterator[Concern]:
    """Yield what the settings alone tell."""
    if settings.server.public_url is None:
        yield from _without_public_url(settings)
    else:
        public = urlsplit(settings.server.public_url)
        yield from _plain_public_url(settings, public)
        yield from _unreachable_public_url(settings, public)
        yield from _regions_of_public_url(settings, public)
        yield from _unknown_proxies(settings, public)
    yield from _exotel_behind_a_proxy(settings)
    yield from _unsigned_upgrades(settings)
    yield from _closed_to_carriers(settings)
    yield from _closed_to_whatsapp(settings)
    yield from _instances_that_are_the_gateway(settings)
    yield from _other_regions(settings)
    yield from _short_keys(settings)
    yield from _node(settings)
    yield from _without_effect(settings)


def _accounts(settings: Settings) -> Iterator[tuple[Location, Organization, CarrierAccount]]:
    for index, organization in enumerate(settings.organizations):
        for position, account in enumerate(organization.carriers):
            yield ("organizations", index, "carriers", position), organization, account


def _carriers(settings: Settings, *, authenticating: bool = False) -> list[str]:
    """Return the carriers that have accounts. `authenticating`: those alone whose requests authenticate."""
    return sorted(
        {
            account.carrier
            for _, _, account in _accounts(settings)
            if account.can_authenticate or not authenticating
        }
    )


def _without_public_url(settings: Settings) -> Iterator[Concern]:
    # Exotel signs nothing, and its sockets need no document.
    signing = [carrier for carrier in _carriers(settings, authenticating=True) if carrier != "exotel"]
    if signing:
        yield Concern(
            PUBLIC_URL,
            f"is not set, and no request of {_join(signing)} authenticates without it: signatures are over "
            "it, and the documents with the tokens of media sockets are made from it",
        )
    elif _carriers(settings):
        message = "is not set: there are no documents and no callbacks for carriers, and no outbound calls"
        yield Concern(PUBLIC_URL, message, Severity.DOUBTFUL)


def _plain_public_url(settings: Settings, public: SplitResult) -> Iterator[Concern]:
    if public.scheme == "https":
        return
    carriers = _carriers(settings)
    if settings.server.tls_certificate is not None:
        yield Concern(PUBLIC_URL, "begins with http://, and the port speaks TLS: tls_certificate is set")
    elif _is_local(public):
        return
    elif "twilio" in carriers:
        message = "begins with http://: documents would lead to ws://, and Twilio opens wss:// alone"
        yield Concern(PUBLIC_URL, message)
    else:
        message = "begins with http://: documents lead carriers to ws://, where anyone between can listen"
        yield Concern(PUBLIC_URL, message, Severity.DOUBTFUL)


def _unreachable_public_url(settings: Settings, public: SplitResult) -> Iterator[Concern]:
    carriers = _carriers(settings)
    if not carriers:
        return
    if _is_local(public):
        message = f"is an address that {_join(carriers)} cannot reach"
        yield Concern(PUBLIC_URL, message, Severity.DOUBTFUL)
    elif "twilio" in carriers and public.port not in (None, HTTPS_PORT):
        message = f"has the port {public.port}: Twilio documents 443 alone for media streams"
        yield Concern(PUBLIC_URL, message, Severity.DOUBTFUL)


def _regions_of_public_url(settings: Settings, public: SplitResult) -> Iterator[Concern]:
    """Find agents that the host names made from the public URL do not lead to (carriers/accounts.py)."""
    home, codes = settings.server.region, {region.code for region in settings.regions}
    named = region_of_host(public.hostname or "", codes)
    if named not in (None, home) and any(agent.region == home for agent in settings.agents):
        yield Concern(
            PUBLIC_URL,
            f"names the region {named}, and the server's is {home}: calls to the agents of {home} would "
            f"come to {named} and be refused",
        )
    for index, agent in enumerate(settings.agents):
        if agent.region != home and host_in_region(public.netloc, agent.region, codes) == public.netloc:
            message = f"has no host name to be reached by: no label {agent.region} fits before an IP address"
            yield Concern(("agents", index, "region"), message)


def _unknown_proxies(settings: Settings, public: SplitResult) -> Iterator[Concern]:
    server = settings.server
    if public.scheme != "https" or server.tls_certificate is not None or server.trusted_proxies:
        return
    message = "is empty, and public_url is https:// where the port speaks no TLS: to the gateway all clients "
    message += "have the address of the proxy between"
    if settings.limits.connections_per_address:
        message += ", and connections_per_address is for all of them together"
    yield Concern(TRUSTED_PROXIES, message, Severity.DOUBTFUL)


def _exotel_behind_a_proxy(settings: Settings) -> Iterator[Concern]:
    """Find accounts that know Exotel by its address alone, where no request has that address."""
    server = settings.server
    if server.trusted_proxies or not _is_loopback(server.host):
        return
    peer = ipaddress.ip_address("127.0.0.1" if server.host == _LOCAL_NAME else server.host)
    for location, _, account in _accounts(settings):
        allowed = [ipaddress.ip_network(network) for network in account.allow]
        if allowed and not account.auth_tokens and not any(peer in network for network in allowed):
            message = f"allows no request: all come from {peer} while server.trusted_proxies is empty"
            yield Concern((*location, "allow"), message)


def _unsigned_upgrades(settings: Settings) -> Iterator[Concern]:
    for location, organization, account in _accounts(settings):
        if not account.signs_upgrades:
            message = "is false: nobody signs the media sockets of these calls. Whoever reads the URL in a "
            message += "document, in the sender's log or a proxy's, can open the socket in place of the call "
            message += f"for five minutes, if that has not come yet, and talk to {organization.name}'s agent"
            yield Concern((*location, "signs_upgrades"), message, Severity.DOUBTFUL)


def _closed_to_carriers(settings: Settings) -> Iterator[Concern]:
    """Find agents that carriers should reach, of organisations without an account that authenticates."""
    called = {route.agent for route in settings.numbers}
    for index, agent in enumerate(settings.agents):
        owner = settings.find_organization(agent.organization)
        authenticates = owner is not None and any(account.can_authenticate for account in owner.carriers)
        has_keys = owner is not None and bool(owner.public_keys or owner.private_keys)
        # With a key, calls may come with the tokens of the start API alone.
        if (
            agent.websocket_auth == "required"
            and not authenticates
            and (agent.service_host in called or not has_keys)
        ):
            message = f"is required, and {agent.organization} has no account that authenticates a carrier's "
            message += 'calls: they are refused. "none" lets in whoever reaches the port'
            yield Concern(("agents", index, "websocket_auth"), message, Severity.DOUBTFUL)


def _closed_to_whatsapp(settings: Settings) -> Iterator[Concern]:
    for index, organization in enumerate(settings.organizations):
        app = organization.whatsapp
        if app is not None and not app.app_secrets and not app.allow_unsigned:
            message = "is empty: every event is refused, unless allow_unsigned is true"
            yield Concern(("organizations", index, "whatsapp", "app_secrets"), message, Severity.DOUBTFUL)


def _instances_that_are_the_gateway(settings: Settings) -> Iterator[Concern]:
    server = settings.server
    public = None if server.public_url is None else urlsplit(server.public_url)
    for index, agent in enumerate(settings.agents):
        for position, instance in enumerate(agent.instances):
            if not instance.startswith(("http://", "https://")):
                continue
            url = urlsplit(instance)
            host = url.hostname or ""
            is_own_port = server.port != 0 and _port(url) == server.port
            is_here = _is_loopback(host) or host == server.host
            is_public = public is not None and (url.hostname, _port(url)) == (public.hostname, _port(public))
            if (is_own_port and is_here) or is_public:
                message = "is this gateway itself, which is no agent"
                yield Concern(("agents", index, "instances", position), message)


def _other_regions(settings: Settings) -> Iterator[Concern]:
    """Find regions whose gateway would be this one, and overflow to agents that another one has."""
    home, public = settings.server.region, settings.server.public_url
    elsewhere = {region.code for region in settings.regions if region.url and region.code != home}
    for index, region in enumerate(settings.regions):
        if region.code in elsewhere and public is not None and region.url == public:
            message = "is this gateway itself: requests would come back to it"
            yield Concern(("regions", index, "url"), message)
    regions = {agent.service_host: agent.region for agent in settings.agents}
    for index, agent in enumerate(settings.agents):
        overflow = agent.overflow
        if isinstance(overflow, OtherAgent) and regions.get(overflow.service_host) in elsewhere:
            message = "is an agent of another region, which another gateway has: calls cannot go there"
            yield Concern(("agents", index, "overflow"), message)


def _short_keys(settings: Settings) -> Iterator[Concern]:
    """Yield the keys that a stranger could guess. A gateway that no other machine reaches may have such keys.

    They are repairable: a key does not become worse by an update of the gateway, which must not end by it.
    """
    if not is_exposed(settings):
        return
    for index, organization in enumerate(settings.organizations):
        private = [key.get_secret_value() for key in organization.private_keys]
        for kind, keys in (("public_keys", organization.public_keys), ("private_keys", private)):
            for position, key in enumerate(keys):
                if len(_KEY_PREFIX.sub("", key)) < MIN_KEY_CHARACTERS:
                    message = f"can be guessed: it has less than {MIN_KEY_CHARACTERS} characters behind its "
                    message += "prefix. `openssl rand -hex 24` makes a good one"
                    yield Concern(("organizations", index, kind, position), message, Severity.REPAIRABLE)


def _without_effect(settings: Settings) -> Iterator[Concern]:
    """Find settings of agents that were written, and do nothing beside the others."""
    for index, agent in enumerate(settings.agents):
        for names, is_used, words in (
            (_OF_COMMAND, bool(agent.command), "has no effect without command"),
            (("audio_rate",), agent.dialect in _RATED, f"has no effect with the dialect {agent.dialect}"),
            (("start_message",), agent.dialect == "pcm16", "has an effect with the dialect pcm16 alone"),
        ):
            for name in names:
                if name in agent.model_fields_set and not is_used:
                    yield Concern(("agents", index, name), words, Severity.DOUBTFUL)


def _node(settings: Settings) -> Iterator[Concern]:
    """Find what is wrong with this machine's internal address, and who could read what goes through it."""
    server = settings.server
    if server.node_url is None:
        if server.node_secret is not None:
            yield Concern(NODE_SECRET, "has no use without node_url", Severity.DOUBTFUL)
        return
    node = urlsplit(server.node_url)
    host = node.hostname or ""
    if node.scheme == "https" and server.tls_certificate is None:
        yield Concern(NODE_URL, "begins with https://, and there is no tls_certificate for it")
    if _port(node) == server.port and (host == server.host or server.host in _ALL_ADDRESSES):
        yield Concern(NODE_URL, "is the port for carriers and clients itself: take another one")
    if not settings.store.is_redis:
        message = "has no use: a store in a file is shared by the workers of one machine, who need none"
        yield Concern(NODE_URL, message, Severity.DOUBTFUL)
    elif _is_loopback(host) and not _is_loopback(urlsplit(settings.store.url).hostname or ""):
        message = "is this machine's loopback address, which the other machines cannot reach"
        yield Concern(NODE_URL, message, Severity.DOUBTFUL)
    if node.scheme == "http" and not _is_local(node) and _is_address(host):
        message = "begins with http://, and is a public address: callers' sound passes there in clear text"
        yield Concern(NODE_URL, message, Severity.DOUBTFUL)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _port(url: SplitResult) -> int:
    return url.port or (HTTPS_PORT if url.scheme == "https" else 80)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOCAL_NAME


def _is_local(url: SplitResult) -> bool:
    """Return True if no carrier reaches this host: an address of this machine or of a private network."""
    host = url.hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == _LOCAL_NAME or host.endswith(f".{_LOCAL_NAME}")


def _join(names: list[str]) -> str:
    return " and ".join(name.capitalize() for name in names)
