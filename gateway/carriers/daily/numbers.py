# SPDX-License-Identifier: BSD-2-Clause
"""What Daily does with a call to a number: the dial-in configuration of a domain
(docs/reference/carriers.md §6.2).

It is kept in two places: the domain's property `pinless_dialin`, an array that is only ever written as a
whole, and `/domain-dialin-config`, one object a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from gateway.carriers.daily.rest import Daily, DailyFailed

PAGE_CONFIGS: Final = 100
MAX_CONFIGS: Final = 10_000
"""A list that goes on for longer is taken for one that has no end."""


@dataclass(frozen=True, slots=True)
class DialinConfig:
    """One object of `/domain-dialin-config` (docs/reference/carriers.md §6.2). `fields`: its `config`, as
    Daily gave it.
    """

    id: str
    type: str
    fields: Mapping[str, Any]


class DailyNumbers(Daily):
    """The dial-in configuration of one organisation's domain at Daily."""

    async def pinless_entries(self) -> list[dict[str, Any]]:
        """The domain's `pinless_dialin` (`GET /`), entry by entry as Daily gave them. Raises DailyFailed."""
        return _entries(await self._ask("GET", "/", None))

    async def set_pinless_entries(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Writes the domain's `pinless_dialin` (`POST /`); what Daily says it is now. Raises DailyFailed.

        The array is replaced as a whole, and an entry without `hmac` gets a new secret
        (docs/reference/carriers.md §6.2).
        """
        body = {"properties": {"pinless_dialin": list(entries)}}
        return _entries(await self._ask("POST", "/", body))

    async def dialin_configs(self) -> list[DialinConfig]:
        """All of `/domain-dialin-config`, page by page; a config may be told in short. Raises DailyFailed."""
        found: dict[str, DialinConfig] = {}
        after = ""
        while len(found) < MAX_CONFIGS:
            page = await self._ask("GET", f"/domain-dialin-config?limit={PAGE_CONFIGS}{after}", None)
            data = page.get("data")
            if not isinstance(data, list):
                raise DailyFailed("unreadable", "Daily answered without a list of dial-in configurations")
            fresh = {config.id: config for config in map(_dialin_config, data) if config.id not in found}
            found |= fresh
            if len(data) < PAGE_CONFIGS or not fresh:
                return list(found.values())
            after = f"&starting_after={quote(list(fresh)[-1], safe='')}"
        raise DailyFailed("unreadable", f"Daily has more than {MAX_CONFIGS} dial-in configurations")

    async def dialin_config(self, config_id: str) -> DialinConfig:
        """One config, whole (`GET /domain-dialin-config/{id}`). Raises DailyFailed."""
        path = f"/domain-dialin-config/{quote(config_id, safe='')}"
        return _dialin_config(await self._ask("GET", path, None))

    async def write_dialin_config(self, fields: Mapping[str, Any], config_id: str | None) -> DialinConfig:
        """Updates a config (`PUT`), or makes one (`POST`) where `config_id` is None. Raises DailyFailed."""
        if config_id is None:
            made = {"type": "pinless_dialin", **fields}
            return _dialin_config(await self._ask("POST", "/domain-dialin-config", made))
        path = f"/domain-dialin-config/{quote(config_id, safe='')}"
        return _dialin_config(await self._ask("PUT", path, fields))


def _entries(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`pinless_dialin` of a domain; a domain that never had any has none."""
    config = answer.get("config")
    entries = config.get("pinless_dialin") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(entries, list | None):
        raise DailyFailed("unreadable", "Daily answered without a usable configuration of the domain")
    found = entries or []
    if not all(isinstance(entry, dict) for entry in found):
        raise DailyFailed("unreadable", "Daily answered with dial-in entries that are no objects")
    return found


def _dialin_config(answer: Any) -> DialinConfig:
    given = answer if isinstance(answer, Mapping) else {}
    config_id, kind, fields = given.get("id"), given.get("type"), given.get("config")
    if not (isinstance(config_id, str) and isinstance(kind, str) and isinstance(fields, Mapping)):
        raise DailyFailed("unreadable", "Daily answered without a usable dial-in configuration")
    return DialinConfig(config_id, kind, fields)
