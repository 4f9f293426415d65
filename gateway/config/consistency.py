# SPDX-License-Identifier: BSD-2-Clause
"""Checks between the tables of a configuration: every name that is referred to exists, and is unique.

The checks work on plain tables, and skip values that are missing or of a wrong type. So they also run on a
file in which single values have errors, and the operator sees all problems at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import SecretStr

from gateway.config.agent_command import DEFAULT_PORTS, PORT_PLACEHOLDER, port_range
from gateway.config.call_handling import looks_like_agent
from gateway.config.provider_settings import PROVIDER_URLS
from gateway.model.addresses import service_host, split_service_host

Location = tuple[str | int, ...]
"""The path of a value: keys of tables and indexes of lists, as in ("agents", 1, "max_agents")."""

Finding = tuple[Location, str]
"""A problem: the location of the value, and words that complete the sentence "LOCATION: …"."""

LocatedText = tuple[Location, str]

_PLAIN: Final = ("http://", "https://")

CROSS_CHECK: Final = "cross_check"
"""The type of the pydantic errors that carry a finding."""


def find_contradictions(tables: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield every contradiction between the tables. No message repeats a key."""
    yield from _duplicates(_texts(tables, "regions", "code"), "region {!r}")
    yield from _duplicates(_texts(tables, "organizations", "name"), "organisation {!r}")
    yield from _duplicates(_service_hosts(tables), "agent {!r}")
    yield from _duplicates(_texts(tables, "numbers", "number"), "number {!r}")
    yield from _duplicates(_api_keys(tables), "this key")
    yield from _unknown_regions(tables)
    yield from _unknown_organizations(tables)
    yield from _numbers_of_unknown_agents(tables)
    yield from _bad_agents(tables)
    yield from _too_many_reserved_slots(tables)
    yield from _overflow_to_unknown_agents(tables)
    yield from _key_without_certificate(tables)


def format_path(location: Location) -> str:
    """Return a path as it is written in messages: `agents[1].max_agents`."""
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = step if step.isidentifier() else repr(step)
            text += f".{key}" if text else key
    return text


def _rows(tables: Mapping[str, Any], table: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = tables.get(table)
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, Mapping):
            yield index, row


def _texts(tables: Mapping[str, Any], table: str, key: str) -> Iterator[LocatedText]:
    for index, row in _rows(tables, table):
        if isinstance(text := row.get(key), str) and text:
            yield (table, index, key), text


def _service_hosts(tables: Mapping[str, Any]) -> Iterator[LocatedText]:
    for index, row in _rows(tables, "agents"):
        name, organization = row.get("name"), row.get("organization")
        if isinstance(name, str) and isinstance(organization, str):
            yield ("agents", index, "name"), service_host(name, organization)


def _api_keys(tables: Mapping[str, Any]) -> Iterator[LocatedText]:
    for index, row in _rows(tables, "organizations"):
        for kind in ("public_keys", "private_keys"):
            keys = row.get(kind)
            for position, key in enumerate(keys if isinstance(keys, list) else []):
                text = key.get_secret_value() if isinstance(key, SecretStr) else key
                if isinstance(text, str):
                    yield ("organizations", index, kind, position), text


def _duplicates(texts: Iterable[LocatedText], template: str) -> Iterator[Finding]:
    """Yield a finding for every text that occurs again. `template`: names the text in the message."""
    first: dict[str, Location] = {}
    for location, text in texts:
        if text in first:
            yield location, f"{template.format(text)} is already at {format_path(first[text])}"
        first.setdefault(text, location)


def _unknown_regions(tables: Mapping[str, Any]) -> Iterator[Finding]:
    known = {code for _, code in _texts(tables, "regions", "code")}
    server = tables.get("server")
    default = server.get("region") if isinstance(server, Mapping) else None
    if isinstance(default, str) and default not in known:
        yield ("server", "region"), f"there is no region {default!r}; there is {_join(known)}"
    for location, code in _texts(tables, "agents", "region"):
        # An agent without a region has the server's by now; if that is unknown, it was reported above.
        if code not in known and code != default:
            yield location, f"there is no region {code!r}; there is {_join(known)}"


def _unknown_organizations(tables: Mapping[str, Any]) -> Iterator[Finding]:
    known = {name for _, name in _texts(tables, "organizations", "name")}
    for location, name in _texts(tables, "agents", "organization"):
        if known and name not in known:
            yield location, f"there is no organisation {name!r}; there is {_join(known)}"


def _numbers_of_unknown_agents(tables: Mapping[str, Any]) -> Iterator[Finding]:
    known = {host for _, host in _service_hosts(tables)}
    for location, host in _texts(tables, "numbers", "agent"):
        if host not in known:
            yield location, f"there is no agent {host!r}; there is {_join(known)}"


def _bad_agents(tables: Mapping[str, Any]) -> Iterator[Finding]:
    for index, row in _rows(tables, "agents"):
        min_agents, max_agents = row.get("min_agents"), row.get("max_agents")
        if isinstance(min_agents, int) and isinstance(max_agents, int) and min_agents > max_agents:
            yield ("agents", index, "min_agents"), f"must be at most max_agents, which is {max_agents}"
        instances = row.get("instances")
        urls: list[LocatedText] = [
            (("agents", index, "instances", position), url.rstrip("/"))
            for position, url in enumerate(instances if isinstance(instances, list) else [])
            if isinstance(url, str)
        ]
        yield from _duplicates(urls, "this instance")
        yield from _bad_command(("agents", index), row)
        yield from _bad_provider(("agents", index), row)


def _bad_provider(agent: Location, row: Mapping[str, Any]) -> Iterator[Finding]:
    """Find why an agent cannot be a provider's API."""
    dialect, provider = row.get("dialect"), row.get("provider")
    if provider and dialect not in PROVIDER_URLS:
        yield (*agent, "provider"), f"goes with a dialect of a provider: {', '.join(PROVIDER_URLS)}"
    if dialect in PROVIDER_URLS and not provider:
        yield (*agent, "dialect"), "needs [agents.provider], with the provider's key"
    if dialect == "elevenlabs" and isinstance(provider, Mapping) and not provider.get("agent"):
        yield (*agent, "provider"), "must name the agent that is configured at ElevenLabs"


def _bad_command(agent: Location, row: Mapping[str, Any]) -> Iterator[Finding]:
    """Find why the instances of an agent with a command could not listen, each on a port of its own."""
    command, variables = row.get("command"), row.get("environment") or {}
    if not isinstance(command, list) or not command or not isinstance(variables, Mapping):
        return
    if not any(PORT_PLACEHOLDER in str(text) for text in (*command, *variables.values())):
        words = f"must say {PORT_PLACEHOLDER}, here or in environment: each instance listens on its own port"
        yield (*agent, "command"), words
    ports, max_agents = row.get("ports", DEFAULT_PORTS), row.get("max_agents")
    if isinstance(ports, str) and isinstance(max_agents, int) and 0 < len(port_range(ports)) < max_agents:
        yield (*agent, "ports"), f"must be at least as many as max_agents, which is {max_agents}"


def _key_without_certificate(tables: Mapping[str, Any]) -> Iterator[Finding]:
    server = tables.get("server")
    if isinstance(server, Mapping) and server.get("tls_key") and not server.get("tls_certificate"):
        yield ("server", "tls_key"), "goes with tls_certificate, which is not set"


def _too_many_reserved_slots(tables: Mapping[str, Any]) -> Iterator[Finding]:
    for index, row in _rows(tables, "agents"):
        instances, max_agents = row.get("instances"), row.get("max_agents")
        per_instance = row.get("sessions_per_instance")
        if not (
            isinstance(instances, list) and isinstance(max_agents, int) and isinstance(per_instance, int)
        ):
            continue
        if not all(isinstance(entry, str) and entry.startswith(_PLAIN) for entry in instances):
            continue  # how many there are is found while the gateway runs
        # Of a started agent there may be as many as its limit; what a source finds nobody knows yet.
        known = max_agents if row.get("command") else min(len(instances), max_agents)
        slots = known * per_instance
        for key in ("reserve_inbound", "reserve_outbound"):
            if isinstance(reserved := row.get(key), int) and reserved and reserved >= slots:
                yield ("agents", index, key), f"must be less than the agent's places, which are {slots}"


def _overflow_to_unknown_agents(tables: Mapping[str, Any]) -> Iterator[Finding]:
    known = {host for _, host in _service_hosts(tables)}
    for index, row in _rows(tables, "agents"):
        host, name, organization = (row.get(key) for key in ("overflow", "name", "organization"))
        if not isinstance(host, str) or not looks_like_agent(host):
            continue
        if host not in known:
            yield ("agents", index, "overflow"), f"there is no agent {host!r}; there is {_join(known)}"
        elif (
            host == service_host(str(name), str(organization)) or split_service_host(host)[1] != organization
        ):
            yield ("agents", index, "overflow"), "must be another agent of the same organisation"


def _join(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
