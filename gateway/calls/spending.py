# SPDX-License-Identifier: BSD-2-Clause
"""The one guard of everything that costs the operator money at a carrier: docs/security.md, "Money".

    a number          begins with one of `dial_prefixes`, however it is written: E.164, `tel:`, user of `sip:`
    each call out     takes one of `dial_per_minute`: dialled, transferred, or from a room at Daily
    each forwarding   takes one of `forward_per_minute`: a number that the operator wrote into the agent's
                      `overflow`, `fallback` or `busy`, which is therefore compared with no prefix

What a room at Daily may cost is in gateway/carriers/daily/room_properties.py. The rates hold over all
workers: they are counted with stored values that are written only if they are absent, because exactly one of
many workers that try succeeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

from gateway.config import Organization
from gateway.model.addresses import is_phone_number
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import KeyValueStore, StoreFailed

MINUTE_S: Final = 60.0

MAX_EXTENSION_DIGITS: Final = 6
"""Digits of a user of a SIP address that no telephone network takes for a number: an extension."""

_DIAL_KIND: Final = "dial_ticket"
_FORWARD_KIND: Final = "forward_ticket"
_MAX_DECODINGS: Final = 3
_SCHEME: Final = re.compile(r"(sips?|tel):(.+)", re.IGNORECASE | re.DOTALL)
_VISIBLE: Final = re.compile(r"[!-~]+")
_NOT_IN_ADDRESSES: Final = re.compile(r"[<>\"\\^`{|}]")  # RFC 3261 §25.1, RFC 2396 §2.4.3
_LIKE_A_NUMBER: Final = re.compile(r"[+0-9*#\-.()/]*[0-9][+0-9*#\-.()/]*")
_SEPARATORS: Final = re.compile(r"[*#\-.()/]")  # RFC 3966 §5.1.1, and what service codes have
_ADDRESS: Final = re.compile(r"[0-9.]*\.[0-9.]*")
_DESTINATIONS: Final = frozenset({"phonenumber", "sipuri", "number", "to", "tonumber", "toendpoint", "uri"})
"""Members of `dialout_settings`, in small letters and without underscores, whose value is called."""
_NO_DESTINATIONS: Final = frozenset({"callerid", "displayname"})


def check_destination(to: str, organization: Organization | None) -> None:
    """Raise CallEnded unless the organisation may send a call to a number, or a `tel:` or `sip:` address.

    The user of a SIP address is a number if it is written like one: it is called at the operator's cost as
    soon as the host is a carrier's. A name, or an extension of up to MAX_EXTENSION_DIGITS, is not.

    bad_request: it is no such address, or one that could be read in two ways. number_refused: the
    organisation's `dial_prefixes` do not allow it.
    """
    match = _SCHEME.fullmatch(to)
    if match is None:
        check_number(to, organization)
    elif match[1].lower() == "tel":
        check_number(_SEPARATORS.sub("", match[2].partition(";")[0]), organization)
    elif (number := _number_of_user(match[2])) is not None:
        if number.startswith("+"):
            check_number(number, organization)
        elif "+" not in _prefixes(organization):  # which number it is depends on who reads it
            detail = "a number in a SIP address is written in E.164 form, as in sip:+15559876543@host"
            raise CallEnded(Reasons.number_refused, detail)
    elif organization is None:
        raise CallEnded(Reasons.number_refused, "the organisation is not in the configuration")


def is_sip_address(to: str) -> bool:
    """Return True if a destination is a SIP address, with its scheme."""
    match = _SCHEME.fullmatch(to)
    return match is not None and match[1].lower() != "tel"


def check_callee(to: str, organization: Organization | None) -> None:
    """Raise CallEnded unless the organisation may call a number, or a `sip:` address, out by itself.

    Raises as `check_destination`; carriers take no `tel:` address as the one to dial.
    """
    if is_sip_address(to):
        check_destination(to, organization)
    else:
        check_number(to, organization)


def check_number(number: str, organization: Organization | None) -> None:
    """Raise CallEnded unless the organisation may call the number.

    bad_request: it is not in E.164 form. number_refused: the organisation's `dial_prefixes` do not allow it.
    """
    if not is_phone_number(number):
        raise CallEnded(Reasons.bad_request, "the number is not in E.164 form: + and 7 to 15 digits")
    prefixes = _prefixes(organization)
    if not prefixes:
        raise CallEnded(Reasons.number_refused, "the organisation calls nobody: it has no dial_prefixes")
    if not number.startswith(tuple(prefixes)):
        raise CallEnded(Reasons.number_refused, "the organisation's dial_prefixes do not allow this number")


def _prefixes(organization: Organization | None) -> list[str]:
    return organization.dial_prefixes if organization is not None else []


def _number_of_user(address: str) -> str | None:
    """Return the number that the user of a SIP address is, without separators; None for any other user.

    `address`: without its scheme (RFC 3261 §19.1.1). Raises CallEnded(bad_request) where software might
    disagree about what the user is.
    """
    user, at, host = address.partition("@")
    if (
        not _VISIBLE.fullmatch(address)
        or _NOT_IN_ADDRESSES.search(address)  # some carriers read several callees of one text with a `<`
        or "@" in host
        or "?" in address
        or (at and not (user and host))
    ):
        raise CallEnded(Reasons.bad_request, "the SIP address is not of the form sip:USER@HOST")
    written = unquote(user)
    for _ in range(_MAX_DECODINGS):
        written = unquote(written)
    if not at:
        written = written.partition(":")[0]  # a port
    # A colon would be a password or another scheme, which software reads in more than one way.
    if not _VISIBLE.fullmatch(written) or any(mark in written for mark in "%@:"):
        raise CallEnded(Reasons.bad_request, "the user of the SIP address has characters that no user has")
    written = written.partition(";")[0]
    if not _LIKE_A_NUMBER.fullmatch(written) or (not at and _ADDRESS.fullmatch(written)):
        return None
    number = _SEPARATORS.sub("", written)
    return None if number.isdigit() and len(number) <= MAX_EXTENSION_DIGITS else number


def destinations(settings: object) -> list[str]:
    """Return whom a room's agent is to call: every number and address in `dialout_settings`.

    Raises CallEnded(bad_request) if there is none: then it is not known what would be allowed.
    """
    found = list(_destinations("", settings))
    if not found:
        raise CallEnded(Reasons.bad_request, "dialout_settings names no number and no SIP address")
    return found


def _destinations(name: str, value: object) -> Iterator[str]:
    """Yield what is called, of a value that stands under `name`."""
    folded = name.lower().replace("_", "")
    if isinstance(value, Mapping):
        for inner, each in value.items():
            yield from _destinations(str(inner), each)
    elif isinstance(value, list):
        for each in value:
            yield from _destinations(name, each)
    elif folded in _DESTINATIONS and value is not None:
        yield str(value)
    elif isinstance(value, str) and folded not in _NO_DESTINATIONS and _is_address(value.lstrip()):
        yield value


def _is_address(text: str) -> bool:
    return text.startswith("+") or _SCHEME.fullmatch(text) is not None


class CallRateLimiter:
    """The calls that an organisation may spend in any minute: `dial_per_minute`, `forward_per_minute`.

    There are as many tokens as calls are allowed, and a token that is taken is free again after a minute.
    """

    def __init__(self, values: KeyValueStore, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._values = values
        self._now = now

    async def acquire(self, organization: Organization) -> str:
        """Take a token for a call out and return it. Raises CallEnded(rate_limited), StoreFailed."""
        limit = organization.dial_per_minute
        token = await self._take(_DIAL_KIND, organization.name, limit)
        if token is None:
            detail = f"the organisation has asked for {limit} calls out within a minute"
            raise CallEnded(Reasons.rate_limited, detail)
        return token

    async def acquire_forwarding(self, organization: Organization | None) -> None:
        """Take a token for a call that goes to a number of the configuration.

        Without an organisation in the configuration there is no limit. Raises CallEnded(rate_limited),
        StoreFailed.
        """
        if organization is None:
            return
        limit = organization.forward_per_minute
        if await self._take(_FORWARD_KIND, organization.name, limit) is None:
            raise CallEnded(Reasons.rate_limited, f"{limit} calls were forwarded within a minute")

    async def acquire_all(self, organization: Organization, count: int) -> list[str]:
        """Take a token for each of several calls out, or none. Raises as `acquire`."""
        tokens: list[str] = []
        try:
            for _ in range(count):
                tokens.append(await self.acquire(organization))
        except BaseException:
            await self.release(*tokens)
            raise
        return tokens

    async def release(self, *tokens: str) -> None:
        """Give back tokens of `acquire` with which no number was called."""
        with suppress(StoreFailed):  # they are free again in a minute
            for token in tokens:
                await self._values.delete(_DIAL_KIND, token)

    async def _take(self, kind: str, organization: str, limit: int) -> str | None:
        prefix = f"{organization}/"
        now = self._now()
        used = {value.key for value in await self._values.list(kind, now, prefix)}
        for number in range(limit):
            token = f"{prefix}{number}"
            if token not in used and await self._values.put_if_absent(
                kind, token, "true", now=now, expires_at=now + MINUTE_S
            ):
                return token
        return None


def check_destinations(every: Iterable[str], organization: Organization | None) -> None:
    """Raise as `check_destination` for the first that the organisation may not call."""
    for destination in every:
        check_destination(destination, organization)
