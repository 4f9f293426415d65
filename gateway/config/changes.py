# SPDX-License-Identifier: BSD-2-Clause
"""The differences of two configurations, by names: without keys, numbers and other values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.config.organization_settings import Organization
from gateway.config.settings import Settings

_PARTS: Final = ("public_keys", "private_keys", "carriers", "daily", "whatsapp")
"""The keys of an organisation that are told one by one."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The names of what was added, changed and removed, as in "agent support.acme"; sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def changes_between(old: Settings, new: Settings) -> Changes:
    """Return what of agents, numbers, organisations, keys and accounts differs."""
    before, after = dict(_named(old)), dict(_named(new))
    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
        removed=tuple(sorted(before.keys() - after.keys())),
    )


def _named(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield everything that can differ, each with its name. What is empty is left out."""
    for agent in settings.agents:
        yield f"agent {agent.service_host}", agent
        if numbers := {route.number for route in settings.numbers if route.agent == agent.service_host}:
            yield f"numbers of {agent.service_host}", numbers
    for organization in settings.organizations:
        yield from _parts_of(organization)


def _parts_of(organization: Organization) -> Iterator[tuple[str, Any]]:
    name = organization.name
    yield f"organization {name}", organization.model_dump(exclude=set(_PARTS))
    lists: Mapping[str, Sequence[Any]] = {
        "public keys": organization.public_keys,
        "private keys": [key.get_secret_value() for key in organization.private_keys],
        **_by_carrier(organization),
    }
    singles = {"daily": organization.daily, "whatsapp": organization.whatsapp}
    yield from ((f"{what} of {name}", values) for what, values in lists.items() if values)
    yield from ((f"{what} of {name}", value) for what, value in singles.items() if value is not None)


def _by_carrier(organization: Organization) -> dict[str, list[Any]]:
    carriers: Iterable[str] = dict.fromkeys(account.carrier for account in organization.carriers)
    return {
        f"{carrier} accounts": [each for each in organization.carriers if each.carrier == carrier]
        for carrier in carriers
    }
