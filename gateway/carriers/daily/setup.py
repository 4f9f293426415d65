# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay daily setup`: a number at Daily, pointed at this gateway (docs/reference/carriers.md §6.2).

    read what Daily has → find the number → compare → write, if asked → look whether it is so

Only `room_creation_api` and `hmac` of the one number are changed. The domain's array is written as a whole,
so all other entries go back as they came; where that cannot be, nothing is written.
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
"""What Daily adds to an entry and does not take back."""

Say = Callable[[str], None]


class SetupFailed(Exception):  # noqa: N818 - read as a sentence
    """The number cannot be set up. `str()` says why, without a secret."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be set up. `secret`: ours, base64; `made`: whether it was made just now."""

    number: str
    url: str
    secret: str
    made: bool
    known: frozenset[str]
    """The secrets that are configured; any of them may stand at Daily."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where Daily has the number. `config_id`: of its object; None with `fields`: an entry of the array.

    `fields`: what stands there, None where the number is nowhere.
    """

    entries: Sequence[Mapping[str, Any]]
    has_objects: bool
    config_id: str | None
    fields: Mapping[str, Any] | None

    @property
    def place(self) -> str:
        """Where it stands, or will."""
        objects = self.config_id is not None if self.fields is not None else self.has_objects
        return OBJECT if objects else ARRAY


def plan_of(settings: Settings, service_host: str, number: str) -> tuple[Plan, DailySettings]:
    """What the settings want of the number. Raises SetupFailed."""
    agent, organization = split_service_host(service_host)
    daily = _daily(settings, organization)
    base = settings.server.public_url
    if base is None:
        raise SetupFailed("[server] public_url is not set: Daily must know where this gateway is")
    url = f"{base.rstrip('/')}/v1/public/webhooks/{organization}/{agent}/dialin"
    known = [secret.get_secret_value() for secret in daily.webhook_secrets]
    made = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    return Plan(number, url, known[0] if known else made, not known, frozenset(known)), daily


def _check_agent(settings: Settings, service_host: str, say: Say) -> None:
    try:
        check_agent_name(split_service_host(service_host)[0])
    except ValueError as error:
        raise SetupFailed(f"The agent is named AGENT.ORG, and its name {error}") from None
    if settings.find_agent(service_host) is None:
        say(f"No agent {service_host} is configured here: it must be made through the API.")


def _daily(settings: Settings, name: str) -> DailySettings:
    organization = settings.find_organization(name)
    if organization is not None and organization.daily is not None:
        return organization.daily
    raise SetupFailed(f"There is no organisation {name!r} with [organizations.daily]")


def run(settings: Settings, service_host: str, number: str, *, write: bool, say: Say) -> None:
    """`set_up`, for the command line. Raises SetupFailed, also where the number is none."""
    try:
        check_phone_number(number)
    except ValueError as error:
        raise SetupFailed(f"--number {error}") from None
    asyncio.run(set_up(settings, service_host, number, write=write, say=say))


async def set_up(settings: Settings, service_host: str, number: str, *, write: bool, say: Say) -> None:
    """Shows what Daily does with calls to the number, and, with `write`, has it ask this gateway.

    `say` is given the lines. Raises SetupFailed; then nothing was written, or the words say what was.
    """
    _check_agent(settings, service_host, say)
    plan, settings_of_daily = plan_of(settings, service_host, number)
    async with aiohttp.ClientSession() as http:
        key = settings_of_daily.api_key.get_secret_value()
        daily = DailyNumbers(http, key, settings_of_daily.api_url)
        try:
            found = await find(daily, number)
            wanted = changed(found.fields, plan)
            _show(found, wanted, plan, say)
            if wanted == found.fields:
                say("Nothing is to be changed.")
            elif not write:
                say("Nothing was written. With --write it is.")
            else:
                if found.place is ARRAY:
                    _check_secrets([entry for entry in found.entries if entry is not found.fields])
                try:
                    await _write(daily, found, wanted, plan)
                finally:  # whatever Daily says, the secret may stand there now
                    _show_secret(wanted, plan, say)
                say("Written. Daily has now tried the URL, which answers while this gateway runs.")
        except DailyFailed as failure:
            raise SetupFailed(failure.detail) from None


async def find(daily: DailyNumbers, number: str) -> Found:
    """Where Daily has the number. Raises DailyFailed, SetupFailed."""
    entries = await daily.pinless_entries()
    try:
        configs = await daily.dialin_configs()
    except DailyFailed as failure:
        if failure.reason != "refused":  # the key was just good: this domain has no such thing
            raise
        return Found(entries, False, None, _one(entries, number))
    mine = [config for config in configs if config.fields.get(NUMBER) == number]
    if any(config.type != "pinless_dialin" for config in mine):
        raise SetupFailed(f"{number} is used for dial-in with a PIN; that must be deleted at Daily first")
    if mine:  # also where the array has it too: an object is written without touching any other
        whole = await daily.dialin_config(mine[0].id)  # the list may leave fields out
        return Found(entries, True, whole.id, whole.fields)
    return Found(entries, True, None, _one(entries, number))


def _one(entries: Sequence[Mapping[str, Any]], number: str) -> Mapping[str, Any] | None:
    mine = [entry for entry in entries if entry.get(NUMBER) == number]
    if len(mine) > 1:
        raise SetupFailed(f"Daily has {len(mine)} entries for {number}; leave one of them there")
    return mine[0] if mine else None


def changed(fields: Mapping[str, Any] | None, plan: Plan) -> dict[str, Any]:
    """The entry as it is to be. A secret that is configured stays, whichever it is."""
    now = dict(fields or {NUMBER: plan.number})
    keeps = now.get(HMAC) in plan.known
    return {**now, URL: plan.url, HMAC: now[HMAC] if keeps else plan.secret}


async def _write(daily: DailyNumbers, found: Found, wanted: Mapping[str, Any], plan: Plan) -> None:
    if found.place is OBJECT:
        written: Mapping[str, Any] | None
        written = (await daily.write_dialin_config(_sent(wanted), found.config_id)).fields
        others: list[Mapping[str, Any]] = []
        now: list[dict[str, Any]] = []
    else:
        others = [entry for entry in found.entries if entry is not found.fields]
        sent = [_sent(wanted if entry is found.fields else entry) for entry in found.entries]
        if found.fields is None:
            sent.append(_sent(wanted))
        now = await daily.set_pinless_entries(sent)
        written = _one(now, plan.number)
    if written is None or written.get(URL) != wanted[URL] or written.get(HMAC, wanted[HMAC]) != wanted[HMAC]:
        raise SetupFailed("Daily took it, and says now that the number is set up otherwise: look there")
    lost = [entry for entry in others if _sent(entry) not in [_sent(each) for each in now]]
    if lost:
        numbers = ", ".join(_name(entry) for entry in lost)
        raise SetupFailed(f"Daily took it, and says now that other entries are not as they were: {numbers}")


def _check_secrets(others: Sequence[Mapping[str, Any]]) -> None:
    """An entry that goes back without its secret gets a new one, and its webhook is refused from then on."""
    bare = [_name(entry) for entry in others if not entry.get(HMAC)]
    if bare:
        raise SetupFailed(
            f"Nothing was written: Daily does not show the hmac of {', '.join(bare)}, and would make a new "
            "one as the array is written. Give it an hmac of yours at Daily first"
        )


def _sent(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in READ_ONLY}


def _name(entry: Mapping[str, Any]) -> str:
    number = entry.get(NUMBER)
    return str(number) if number else "the SIP interconnect"


# What is shown


def _show(found: Found, wanted: Mapping[str, Any], plan: Plan, say: Say) -> None:
    others = sum(entry is not found.fields for entry in found.entries)
    state = "" if found.fields is not None else ", where it is not yet"
    rest = "1 other entry stays as it is" if others == 1 else f"{others} other entries stay as they are"
    say(f"{plan.number} at Daily, {found.place}{state}" + (f" ({rest})" if found.place is ARRAY else ""))
    before = found.fields or {}
    for name in sorted({*before, *wanted} - {URL, HMAC}):
        say(f"    {name}: {_shown(wanted.get(name))}")
    for name, shown in ((URL, _shown), (HMAC, plan_words(plan))):
        if before.get(name) == wanted[name]:
            say(f"    {name}: {shown(wanted[name])}")
        else:
            say(f"  - {name}: {shown(before.get(name))}")
            say(f"  + {name}: {shown(wanted[name])}")


def plan_words(plan: Plan) -> Callable[[object], str]:
    """What is shown of a secret: whose it is."""

    def detail(value: object) -> str:
        if value is None:
            return "none is shown"
        if value in plan.known:
            return "one of webhook_secrets"
        return "a new one, to be made here" if value == plan.secret else "another, not of webhook_secrets"

    return detail


def _shown(value: object) -> str:
    """A value for a terminal. A URL is shown without what may be a secret in it."""
    if value is None:
        return "not set"
    text = str(value)
    if text.startswith(("http://", "https://")):
        text = _without_secrets(text)
    return "".join(each if each.isprintable() else "?" for each in text)


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that is none)"
    host = parts.netloc.rpartition("@")[2]
    user = "…@" if "@" in parts.netloc else ""
    return urlunsplit((parts.scheme, user + host, parts.path, "…" if parts.query else "", ""))


def _show_secret(wanted: Mapping[str, Any], plan: Plan, say: Say) -> None:
    if not plan.made or wanted[HMAC] != plan.secret:
        return
    say("The number's secret was made just now and is not shown again. Put it where this gateway reads it,")
    say("below [organizations.daily], and restart:")
    say(f'    webhook_secrets = ["{plan.secret}"]')
    say("Until then its webhooks are not checked.")
