# SPDX-License-Identifier: BSD-2-Clause
"""The dial-in configuration of a domain at Daily: where calls to each number go (docs/reference/carriers.md
§6.2).

Daily stores it in two places: in the domain's property `pinless_dialin`, an array that can only be written as
a whole, and in `/domain-dialin-config`, with one object for each number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from gateway.carriers.daily.rest import Daily, DailyFailed

PAGE_CONFIGS: Final = 100
MAX_CONFIGS: Final = 10_000
"""A longer list is treated as endless."""


@dataclass(frozen=True, slots=True)
class DialinConfig:
    """One object of `/domain-dialin-config`. `fields`: its `config`, as Daily sent it."""

    id: str
    type: str
    fields: Mapping[str, Any]


class DailyNumbers(Daily):
    """The dial-in configuration of one organisation's domain at Daily."""

    async def pinless_entries(self) -> list[dict[str, Any]]:
        """Return the entries of the domain's `pinless_dialin` (`GET /`), as Daily sent them.

        Raises DailyFailed.
        """
        return _entries(await self._send("GET", "/", None))

    async def set_pinless_entries(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Replace the domain's `pinless_dialin` (`POST /`) and return its new value. Raises DailyFailed.

        Daily makes a new secret for an entry without `hmac` (docs/reference/carriers.md §6.2).
        """
        body = {"properties": {"pinless_dialin": list(entries)}}
        return _entries(await self._send("POST", "/", body))

    async def dialin_configs(self) -> list[DialinConfig]:
        """Return all objects of `/domain-dialin-config`. Some may lack fields. Raises DailyFailed."""
        configs: dict[str, DialinConfig] = {}
        after = ""
        while len(configs) < MAX_CONFIGS:
            page = await self._send("GET", f"/domain-dialin-config?limit={PAGE_CONFIGS}{after}", None)
            data = page.get("data")
            if not isinstance(data, list):
                raise DailyFailed("unreadable", "Daily answered without a list of dial-in configurations")
            new = {config.id: config for config in map(_dialin_config, data) if config.id not in configs}
            configs |= new
            if len(data) < PAGE_CONFIGS or not new:
                return list(configs.values())
            after = f"&starting_after={quote(list(new)[-1], safe='')}"
        raise DailyFailed("unreadable", f"Daily has more than {MAX_CONFIGS} dial-in configurations")

    async def dialin_config(self, config_id: str) -> DialinConfig:
        """Return one object with all its fields (`GET /domain-dialin-config/{id}`). Raises DailyFailed."""
        path = f"/domain-dialin-config/{quote(config_id, safe='')}"
        return _dialin_config(await self._send("GET", path, None))

    async def write_dialin_config(self, fields: Mapping[str, Any], config_id: str | None) -> DialinConfig:
        """Update an object (`PUT`), or create one (`POST`) if `config_id` is None. Raises DailyFailed."""
        if config_id is None:
            body = {"type": "pinless_dialin", **fields}
            return _dialin_config(await self._send("POST", "/domain-dialin-config", body))
        path = f"/domain-dialin-config/{quote(config_id, safe='')}"
        return _dialin_config(await self._send("PUT", path, fields))


def _entries(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `pinless_dialin` of a domain, empty if the domain has never had any. Raises DailyFailed."""
    config = answer.get("config")
    entries = config.get("pinless_dialin") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(entries, list | None):
        raise DailyFailed("unreadable", "Daily answered without a usable configuration of the domain")
    entries = entries or []
    if not all(isinstance(entry, dict) for entry in entries):
        raise DailyFailed("unreadable", "Daily answered with dial-in entries that are no objects")
    return entries


def _dialin_config(answer: Any) -> DialinConfig:
    fields_of = answer if isinstance(answer, Mapping) else {}
    config_id, kind, fields = fields_of.get("id"), fields_of.get("type"), fields_of.get("config")
    if not (isinstance(config_id, str) and isinstance(kind, str) and isinstance(fields, Mapping)):
        raise DailyFailed("unreadable", "Daily answered without a usable dial-in configuration")
    return DialinConfig(config_id, kind, fields)
