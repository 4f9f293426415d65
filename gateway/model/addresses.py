# SPDX-License-Identifier: BSD-2-Clause
"""How agents, regions and telephones are addressed: `AGENT.ORG`, `REGION.HOST` and E.164 numbers.

An agent's service host is its name and its organisation's with a dot between them, as in "support.acme". The
region of a request is the first label of the host that it was sent to, as in "eu-central.api.example.com"
(docs/reference/public-api.md, "Media sockets"). All of it is pure text; nothing here is looked up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote

LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""A DNS label (RFC 1035 §2.3.1), as a regular expression: the name of an organisation, region or agent."""

PHONE_NUMBER: Final = r"\+[1-9][0-9]{6,14}"
"""A telephone number in E.164 form, as a regular expression: + and 7 to 15 digits, as in +15559876543."""

_LABEL: Final = re.compile(LABEL)
_PHONE_NUMBER: Final = re.compile(PHONE_NUMBER)
_SERVICE_HOST: Final = re.compile(rf"{LABEL}\.{LABEL}")
_MIN_AGENT_NAME_CHARACTERS: Final = 2
_MAX_SERVICE_HOST_CHARACTERS: Final = 2 * 63 + 1
"""Two labels and a dot. Longer names are not looked up, and so not logged either."""
_ADDRESS_IN_BRACKETS: Final = re.compile(r"[^<]*<([^<>]*)>.*", re.DOTALL)
_SCHEME: Final = re.compile(r"\s*(?:sips?|tel):", re.IGNORECASE)
_WRITTEN_NUMBER: Final = re.compile(r"\+?[0-9\s().\-/]*")
_NOT_A_DIGIT: Final = re.compile(r"[^0-9]")


def is_label(text: str) -> bool:
    """Return True if the text can name an organisation or a region."""
    return _LABEL.fullmatch(text) is not None


def is_agent_name(text: str) -> bool:
    """Return True if the text can name an agent (docs/reference/public-api.md, "Management")."""
    return len(text) >= _MIN_AGENT_NAME_CHARACTERS and is_label(text)


def service_host(agent: str, organization: str) -> str:
    """Return `AGENT.ORG` for the names of an agent and its organisation."""
    return f"{agent}.{organization}"


def split_service_host(host: str) -> tuple[str, str]:
    """Return the names of the agent and of its organisation; the second is "" if there is no dot."""
    agent, _, organization = host.partition(".")
    return agent, organization


def is_service_host(text: str) -> bool:
    """Return True if the text has the form `AGENT.ORG`; the agent need not exist."""
    return len(text) <= _MAX_SERVICE_HOST_CHARACTERS and _SERVICE_HOST.fullmatch(text) is not None


def is_phone_number(text: str) -> bool:
    """Return True if the text is a telephone number in E.164 form."""
    return _PHONE_NUMBER.fullmatch(text) is not None


def digits_of(number: str) -> str:
    """Return a telephone number's digits, without plus sign and punctuation; "" if it is no such number.

    Numbers are compared by their digits, because Plivo leaves the plus sign out (docs/reference/carriers.md
    §4.4). Carriers also send a number as a URI, with or without a name in front of it: then its digits are
    those of the user of a `sip:` URI (RFC 3261 §19.1.1, §19.1.6) or of the subscriber of a `tel:` URI
    (RFC 3966 §3). Host, port, password and parameters such as `;ext=` and `;phone-context=` are not part of
    the number.
    """
    in_brackets = _ADDRESS_IN_BRACKETS.fullmatch(number)
    address = in_brackets[1] if in_brackets is not None else number
    scheme = _SCHEME.match(address)
    rest = address[scheme.end() :] if scheme is not None else address
    user, at, _ = rest.rpartition("@")
    if at:
        user = user.partition(":")[0]  # a password may follow the user
    elif scheme is not None and "sip" in scheme[0].lower():
        return ""  # a host without a user
    else:
        user = rest
    written = unquote(user.partition(";")[0]).strip()
    return _NOT_A_DIGIT.sub("", written) if _WRITTEN_NUMBER.fullmatch(written) else ""


def is_loopback(host: str) -> bool:
    """Return True if a host, a name or an IP address, can be reached from this machine alone.

    Of names only `localhost` (RFC 6761 §6.3) is one: another name is not looked up.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def region_of_host(host: str, regions: Collection[str]) -> str | None:
    """Return the region that is the first label of a host name; None if that label is none of `regions`."""
    label, dot, _ = host.lower().partition(".")
    return label if dot and label in regions else None


def host_in_region(netloc: str, region: str, regions: Collection[str]) -> str:
    """Return host and port with the region's label in front; it replaces the label of another region.

    An IP address is returned unchanged, because no label can stand in front of it.
    """
    host = netloc[1:].partition("]")[0] if netloc.startswith("[") else netloc.partition(":")[0]
    try:
        ipaddress.ip_address(host)
    except ValueError:
        label, _, rest = netloc.partition(".")
        return f"{region}.{rest if rest and label.lower() in regions else netloc}"
    return netloc
