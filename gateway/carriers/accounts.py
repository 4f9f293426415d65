# SPDX-License-Identifier: BSD-2-Clause
"""Organisations' accounts with carriers: who proves a request, and the URLs that carriers know.

URLs are made of the configuration alone. A Host header is what the sender wants it to be, and a proxy may
have changed it (docs/reference/carriers.md §9, "Common rule").
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal
from urllib.parse import urlsplit

from gateway.carriers.authenticators import AUTHENTICATORS, AuthenticationFailed, SignedRequest
from gateway.config import CarrierAccount, Settings
from gateway.model.addresses import host_in_region

Scheme = Literal["https", "wss"]

_PLAIN: dict[Scheme, str] = {"https": "http", "wss": "ws"}


class CarrierAccounts:
    """All accounts of all organisations, and the gateway's public URLs."""

    def __init__(self, settings: Settings) -> None:
        accounts: dict[tuple[str, str], list[CarrierAccount]] = defaultdict(list)
        for organization in settings.organizations:
            for account in organization.carriers:
                accounts[organization.name, account.carrier].append(account)
        self._accounts = {key: tuple(found) for key, found in accounts.items()}
        self._home = settings.server.region
        self._with_agents = {agent.organization for agent in settings.agents}
        # Whoever has a private key may make agents through the API at any time.
        self._with_agents |= {found.name for found in settings.organizations if found.private_keys}
        public_url = settings.server.public_url
        self._public = public = None if public_url is None else urlsplit(public_url)
        codes = tuple(region.code for region in settings.regions)
        self._hosts = (
            {code: host_in_region(public.netloc, code, codes) for code in codes} if public is not None else {}
        )

    def of(self, organization: str, carrier: str) -> tuple[CarrierAccount, ...]:
        """The organisation's accounts with the carrier, in the order of the configuration."""
        return self._accounts.get((organization, carrier), ())

    def requires_authentication(self, organization: str, carrier: str) -> bool:
        """Whether what comes from the carrier for this organisation must be proven."""
        return any(account.proves for account in self.of(organization, carrier))

    def always_authenticated(self, carrier: str) -> bool:
        """Whether every organisation that has agents, or may make some, wants proof. False where none has."""
        return bool(self._with_agents) and all(
            self.requires_authentication(name, carrier) for name in self._with_agents
        )

    def prove(self, organization: str, carrier: str, signed: SignedRequest) -> CarrierAccount:
        """The first of the organisation's accounts that accepts it.

        Raises AuthenticationFailed: with the reason of the last account, or where there is none that
        proves anything.
        """
        refused = AuthenticationFailed("the organisation has no account that could prove it")
        for account in self.of(organization, carrier):
            if not account.proves:
                continue
            try:
                AUTHENTICATORS[carrier](account, signed)
            except AuthenticationFailed as error:
                refused = error
            else:
                return account
        raise refused

    def proven(self, carrier: str, signed: SignedRequest) -> frozenset[str]:
        """The organisations one of whose accounts accepts it; for requests that do not name theirs yet."""
        found = set()
        for organization, name in self._accounts:
            if name != carrier:
                continue
            try:
                self.prove(organization, carrier, signed)
            except AuthenticationFailed:
                continue
            found.add(organization)
        return frozenset(found)

    def urls(self, path_and_query: str, scheme: Scheme) -> tuple[str, ...]:
        """The URLs that a carrier may have dialled to come here: the public URL, and that of each region.

        `path_and_query`: raw, as they came. Empty where no public URL is configured, or where the request
        has no path: then nothing can be proven by a signature over the URL.
        """
        if self._public is None or not path_and_query.startswith("/"):
            return ()
        hosts = (self._public.netloc, *self._hosts.values())
        return tuple(self._with_host(host, path_and_query, scheme) for host in dict.fromkeys(hosts))

    def url(self, path_and_query: str, scheme: Scheme, region: str) -> str:
        """The URL to hand out for an agent of this region: the public URL itself for the server's own region.

        Raises ValueError where no public URL is configured, or the path does not begin with a slash.
        """
        if self._public is None:
            raise ValueError("server.public_url is not set")
        if not path_and_query.startswith("/"):
            raise ValueError("a path begins with a slash")
        host = (
            self._public.netloc
            if region == self._home
            else self._hosts.get(region) or host_in_region(self._public.netloc, region, self._hosts)
        )
        return self._with_host(host, path_and_query, scheme)

    def _with_host(self, netloc: str, path_and_query: str, scheme: Scheme) -> str:
        assert self._public is not None
        spoken = scheme if self._public.scheme == "https" else _PLAIN[scheme]
        return f"{spoken}://{netloc}{self._public.path}{path_and_query}"
