# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay daily setup`: points a number at Daily to this gateway (docs/reference/carriers.md §6.2).

    read Daily's configuration → find the number → compare → write, if requested → verify

Only `room_creation_api` and `hmac` of this number are changed. The domain's array can only be written as a
whole, so all other entries are sent back unchanged; if that is not possible, nothing is written.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from gateway.carriers.daily.numbers import DailyNumbers
from gateway.carriers.daily.rest import DailyFailed
from gateway.config import DailySettings, Settings
from gateway.config.values import check_agent_name, check_phone_number
from gateway.model.addresses import split_service_host

SECRET_BYTES: Final = 32
ARRAY: Final = "pinless_dialin of the domain"
OBJECT: Final = "/domain-dialin-config"

URL: Final = "room_creation_api"
HMAC: Final = "hmac"
NUMBER: Final = "phone_number"
READ_ONLY: Final = frozenset({"sip_uri"})
"""Fields that Daily adds to an entry and does not accept in one."""

Print = Callable[[str], None]
"""Prints one line for the operator."""

Entry = Mapping[str, Any]


class SetupFailed(Exception):  # noqa: N818 - read as a sentence
    """The number cannot be set up. `str()` says why, without a secret."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The configuration that the number is to have.

    `secret`: base64. `is_new_secret`: whether the secret was made for this set-up. `configured_secrets`: the
    secrets in the gateway's configuration; Daily may have any of them.
    """

    number: str
    url: str
    secret: str
    is_new_secret: bool
    configured_secrets: frozenset[str]


@dataclass(frozen=True, slots=True)
class Current:
    """The configuration that Daily has for the number.

    `entries`: the domain's array. `has_objects`: whether the domain has objects at all. `config_id`: of the
    number's object; None if the number is in the array, or nowhere. `fields`: of the number's entry or
    object; None if the number is nowhere.
    """

    entries: Sequence[Entry]
    has_objects: bool
    config_id: str | None
    fields: Entry | None

    @property
    def location(self) -> str:
        """The place where the number is configured, or will be: ARRAY or OBJECT."""
        is_object = self.config_id is not None if self.fields is not None else self.has_objects
        return OBJECT if is_object else ARRAY

    @property
    def other_entries(self) -> list[Entry]:
        """The entries of the array that belong to other numbers."""
        return [entry for entry in self.entries if entry is not self.fields]


def plan_of(settings: Settings, service_host: str, number: str) -> tuple[Plan, DailySettings]:
    """Return the configuration that the settings require for the number. Raises SetupFailed."""
    agent, organization = split_service_host(service_host)
    daily = _daily_settings(settings, organization)
    base = settings.server.public_url
    if base is None:
        raise SetupFailed("[server] public_url is not set: Daily must know where this gateway is")
    url = f"{base.rstrip('/')}/v1/public/webhooks/{organization}/{agent}/dialin"
    configured = [secret.get_secret_value() for secret in daily.webhook_secrets]
    new_secret = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    secret = configured[0] if configured else new_secret
    return Plan(number, url, secret, not configured, frozenset(configured)), daily


def _check_agent(settings: Settings, service_host: str, say: Print) -> None:
    try:
        check_agent_name(split_service_host(service_host)[0])
    except ValueError as error:
        raise SetupFailed(f"The agent is named AGENT.ORG, and its name {error}") from None
    if settings.find_agent(service_host) is None:
        say(f"No agent {service_host} is configured here: it must be made through the API.")


def _daily_settings(settings: Settings, name: str) -> DailySettings:
    organization = settings.find_organization(name)
    if organization is not None and organization.daily is not None:
        return organization.daily
    raise SetupFailed(f"There is no organisation {name!r} with [organizations.daily]")


def run(settings: Settings, service_host: str, number: str, *, write: bool, say: Print) -> None:
    """Run `set_up` in an event loop of its own. Raises SetupFailed, also if `number` is not a number."""
    try:
        check_phone_number(number)
    except ValueError as error:
        raise SetupFailed(f"--number {error}") from None
    asyncio.run(set_up(settings, service_host, number, write=write, say=say))


async def set_up(settings: Settings, service_host: str, number: str, *, write: bool, say: Print) -> None:
    """Show the number's configuration at Daily and, with `write`, change it to send calls to this gateway.

    Raises SetupFailed. Unless the message says otherwise, nothing was written then.
    """
    _check_agent(settings, service_host, say)
    plan, daily_settings = plan_of(settings, service_host, number)
    async with aiohttp.ClientSession() as http:
        key = daily_settings.api_key.get_secret_value()
        daily = DailyNumbers(http, key, daily_settings.api_url)
        try:
            current = await find(daily, number)
            target = target_fields(current.fields, plan)
            _show_changes(current, target, plan, say)
            if target == current.fields:
                say("Nothing is to be changed.")
            elif not write:
                say("Nothing was written. With --write it is.")
            else:
                if current.location is ARRAY:
                    _check_secrets(current.other_entries)
                try:
                    await _write(daily, current, target, plan)
                finally:  # even if Daily reports an error, it may have stored the secret
                    _show_new_secret(target, plan, say)
                say("Written. Daily has now tried the URL, which answers while this gateway runs.")
        except DailyFailed as failure:
            raise SetupFailed(failure.detail) from None


async def find(daily: DailyNumbers, number: str) -> Current:
    """Return the configuration that Daily has for the number. Raises DailyFailed, SetupFailed."""
    entries = await daily.pinless_entries()
    try:
        configs = await daily.dialin_configs()
    except DailyFailed as failure:
        # The key was accepted a moment ago, so a refusal means that this domain has no such objects.
        if failure.reason != "refused":
            raise
        return Current(entries, False, None, _entry_of(entries, number))
    matching = [config for config in configs if config.fields.get(NUMBER) == number]
    if any(config.type != "pinless_dialin" for config in matching):
        raise SetupFailed(f"{number} is used for dial-in with a PIN; that must be deleted at Daily first")
    # If the array has the number as well, the object is used: it is written without touching any other.
    if matching:
        config = await daily.dialin_config(matching[0].id)  # the list may leave fields out
        return Current(entries, True, config.id, config.fields)
    return Current(entries, True, None, _entry_of(entries, number))


def _entry_of(entries: Sequence[Entry], number: str) -> Entry | None:
    matching = [entry for entry in entries if entry.get(NUMBER) == number]
    if len(matching) > 1:
        raise SetupFailed(f"Daily has {len(matching)} entries for {number}; leave one of them there")
    return matching[0] if matching else None


def target_fields(fields: Entry | None, plan: Plan) -> dict[str, Any]:
    """Return the fields that the number is to have. A secret that is configured here is not replaced."""
    current = dict(fields or {NUMBER: plan.number})
    keeps_secret = current.get(HMAC) in plan.configured_secrets
    return {**current, URL: plan.url, HMAC: current[HMAC] if keeps_secret else plan.secret}


async def _write(daily: DailyNumbers, current: Current, target: Entry, plan: Plan) -> None:
    """Write the number's configuration and verify Daily's answer."""
    others: list[Entry] = []
    entries: list[dict[str, Any]] = []
    written: Entry | None
    if current.location is OBJECT:
        written = (await daily.write_dialin_config(_writable(target), current.config_id)).fields
    else:
        others = current.other_entries
        new = [_writable(target if entry is current.fields else entry) for entry in current.entries]
        if current.fields is None:
            new.append(_writable(target))
        entries = await daily.set_pinless_entries(new)
        written = _entry_of(entries, plan.number)
    if written is None or written.get(URL) != target[URL] or written.get(HMAC, target[HMAC]) != target[HMAC]:
        raise SetupFailed("Daily took it, and says now that the number is set up otherwise: look there")
    lost = [entry for entry in others if _writable(entry) not in [_writable(each) for each in entries]]
    if lost:
        numbers = ", ".join(_name(entry) for entry in lost)
        raise SetupFailed(f"Daily took it, and says now that other entries are not as they were: {numbers}")


def _check_secrets(others: Sequence[Entry]) -> None:
    """Raise SetupFailed if Daily hides the secret of another entry.

    Daily makes a new secret for an entry that is written without one, and the entry's webhooks would then be
    refused.
    """
    hidden = [_name(entry) for entry in others if not entry.get(HMAC)]
    if hidden:
        raise SetupFailed(
            f"Nothing was written: Daily does not show the hmac of {', '.join(hidden)}, and would make a new "
            "one as the array is written. Give it an hmac of yours at Daily first"
        )


def _writable(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in READ_ONLY}


def _name(entry: Entry) -> str:
    number = entry.get(NUMBER)
    return str(number) if number else "the SIP interconnect"


# Output


def _show_changes(current: Current, target: Entry, plan: Plan, say: Print) -> None:
    count = len(current.other_entries)
    state = "" if current.fields is not None else ", where it is not yet"
    others = "1 other entry stays as it is" if count == 1 else f"{count} other entries stay as they are"
    suffix = f" ({others})" if current.location is ARRAY else ""
    say(f"{plan.number} at Daily, {current.location}{state}{suffix}")
    before = current.fields or {}
    for name in sorted({*before, *target} - {URL, HMAC}):
        say(f"    {name}: {_printable(target.get(name))}")
    for name, describe in ((URL, _printable), (HMAC, secret_describer(plan))):
        if before.get(name) == target[name]:
            say(f"    {name}: {describe(target[name])}")
        else:
            say(f"  - {name}: {describe(before.get(name))}")
            say(f"  + {name}: {describe(target[name])}")


def secret_describer(plan: Plan) -> Callable[[object], str]:
    """Return a function that describes a secret by its origin, without showing it."""

    def describe(value: object) -> str:
        if value is None:
            return "none is shown"
        if value in plan.configured_secrets:
            return "one of webhook_secrets"
        return "a new one, to be made here" if value == plan.secret else "another, not of webhook_secrets"

    return describe


def _printable(value: object) -> str:
    """Return a value for a terminal. A URL is shown without the parts that may be secret."""
    if value is None:
        return "not set"
    text = str(value)
    if text.startswith(("http://", "https://")):
        text = _without_secrets(text)
    return "".join(character if character.isprintable() else "?" for character in text)


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that is none)"
    host = parts.netloc.rpartition("@")[2]
    user = "…@" if "@" in parts.netloc else ""
    return urlunsplit((parts.scheme, user + host, parts.path, "…" if parts.query else "", ""))


def _show_new_secret(target: Entry, plan: Plan, say: Print) -> None:
    if not plan.is_new_secret or target[HMAC] != plan.secret:
        return
    say("The number's secret was made just now and is not shown again. Put it where this gateway reads it,")
    say("below [organizations.daily], and restart:")
    say(f'    webhook_secrets = ["{plan.secret}"]')
    say("Until then its webhooks are not checked.")
