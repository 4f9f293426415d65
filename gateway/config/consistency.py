# SPDX-License-Identifier: BSD-2-Clause
"""What must hold between the tables of a configuration: everything named exists, and only once.

The checks work on plain tables and pass over what is missing or of a wrong type, so that they can also run
on a file whose single values have errors, and the operator sees all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from gateway.model.addresses import service_host, split_service_host

Location = tuple[str | int, ...]
Finding = tuple[Location, str]
Named = tuple[Location, str]

CROSS_CHECK = "cross_check"
"""The type under which pydantic carries a finding."""


def findings(tables: Mapping[str, Any]) -> Iterator[Finding]:
    """Every contradiction: its place as a path of keys and indexes, and words that repeat no key."""
    yield from _once(_texts(tables, "regions", "code"), "region {!r}")
    yield from _once(_texts(tables, "organizations", "name"), "organisation {!r}")
    yield from _once(_service_hosts(tables), "agent {!r}")
    yield from _once(_texts(tables, "numbers", "number"), "number {!r}")
    yield from _once(_keys(tables), "this key")
    yield from _regions_exist(tables)
    yield from _organizations_exist(tables)
    yield from _numbers_lead_somewhere(tables)
    yield from _agents_fit(tables)
    yield from _places_are_left(tables)
    yield from _overflows_lead_somewhere(tables)
    yield from _key_has_certificate(tables)


def _rows(tables: Mapping[str, Any], table: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = tables.get(table)
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, Mapping):
            yield index, row


def _texts(tables: Mapping[str, Any], table: str, key: str) -> Iterator[Named]:
    for index, row in _rows(tables, table):
        if isinstance(text := row.get(key), str) and text:
            yield (table, index, key), text


def _service_hosts(tables: Mapping[str, Any]) -> Iterator[Named]:
    for index, row in _rows(tables, "agents"):
        name, organization = row.get("name"), row.get("organization")
        if isinstance(name, str) and isinstance(organization, str):
            yield ("agents", index, "name"), service_host(name, organization)


def _keys(tables: Mapping[str, Any]) -> Iterator[Named]:
    for index, row in _rows(tables, "organizations"):
        for kind in ("public_keys", "private_keys"):
            keys = row.get(kind)
            for place, key in enumerate(keys if isinstance(keys, list) else []):
                text = key.get_secret_value() if isinstance(key, SecretStr) else key
                if isinstance(text, str):
                    yield ("organizations", index, kind, place), text


def _once(named: Iterable[Named], words: str) -> Iterator[Finding]:
    first: dict[str, Location] = {}
    for location, name in named:
        if name in first:
            yield location, f"{words.format(name)} is already at {show(first[name])}"
        first.setdefault(name, location)


def _regions_exist(tables: Mapping[str, Any]) -> Iterator[Finding]:
    known = {code for _, code in _texts(tables, "regions", "code")}
    server = tables.get("server")
    home = server.get("region") if isinstance(server, Mapping) else None
    if isinstance(home, str) and home not in known:
        yield ("server", "region"), f"there is no region {home!r}; there is {_list(known)}"
    for location, code in _texts(tables, "agents", "region"):
        # An agent that names no region has been given the server's, which is complained of already.
        if code not in known and code != home:
            yield location, f"there is no region {code!r}; there is {_list(known)}"


def _organizations_exist(tables: Mapping[str, Any]) -> Iterator[Finding]:
    known = {name for _, name in _texts(tables, "organizations", "name")}
    for location, name in _texts(tables, "agents", "organization"):
        if known and name not in known:
            yield location, f"there is no organisation {name!r}; there is {_list(known)}"


def _numbers_lead_somewhere(tables: Mapping[str, Any]) -> Iterator[Finding]:
    known = {host for _, host in _service_hosts(tables)}
    for location, host in _texts(tables, "numbers", "agent"):
        if host not in known:
            yield location, f"there is no agent {host!r}; there is {_list(known)}"


def _agents_fit(tables: Mapping[str, Any]) -> Iterator[Finding]:
    for index, row in _rows(tables, "agents"):
        fewest, most = row.get("min_agents"), row.get("max_agents")
        if isinstance(fewest, int) and isinstance(most, int) and fewest > most:
            yield ("agents", index, "min_agents"), f"must be at most max_agents, which is {most}"
        instances = row.get("instances")
        urls: list[Named] = [
            (("agents", index, "instances", place), url.rstrip("/"))
            for place, url in enumerate(instances if isinstance(instances, list) else [])
            if isinstance(url, str)
        ]
        yield from _once(urls, "this instance")


def _key_has_certificate(tables: Mapping[str, Any]) -> Iterator[Finding]:
    server = tables.get("server")
    if isinstance(server, Mapping) and server.get("tls_key") and not server.get("tls_certificate"):
        yield ("server", "tls_key"), "goes with tls_certificate, which is not set"


def _places_are_left(tables: Mapping[str, Any]) -> Iterator[Finding]:
    for index, row in _rows(tables, "agents"):
        instances, most = row.get("instances"), row.get("max_agents")
        each = row.get("sessions_per_instance")
        if not (isinstance(instances, list) and isinstance(most, int) and isinstance(each, int)):
            continue
        places = min(len(instances), most) * each
        for key in ("reserve_inbound", "reserve_outbound"):
            if isinstance(reserved := row.get(key), int) and reserved and reserved >= places:
                yield ("agents", index, key), f"must be less than the agent's places, which are {places}"


def _overflows_lead_somewhere(tables: Mapping[str, Any]) -> Iterator[Finding]:
    known = {host for _, host in _service_hosts(tables)}
    for index, row in _rows(tables, "agents"):
        host, name, organization = (row.get(key) for key in ("overflow", "name", "organization"))
        if not isinstance(host, str) or "." not in host or host.startswith("+") or host.endswith(".wav"):
            continue  # no agent is meant
        if host not in known:
            yield ("agents", index, "overflow"), f"there is no agent {host!r}; there is {_list(known)}"
        elif (
            host == service_host(str(name), str(organization)) or split_service_host(host)[1] != organization
        ):
            yield ("agents", index, "overflow"), "must be another agent of the same organisation"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def show(location: Location) -> str:
    """A path of keys and indexes as people write it: `agents[1].max_agents`."""
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = step if step.isidentifier() else repr(step)
            text += f".{key}" if text else key
    return text
