# SPDX-License-Identifier: BSD-2-Clause
"""The rules for single values of the configuration: names, numbers, keys and URLs.

Each takes a value, gives it back in its one form, and raises ValueError with words that complete the
sentence "agents[0].name: …". No message repeats a key, nor a URL, which may hold a password.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from gateway.audio.prompt import read_prompt
from gateway.model.addresses import is_agent_name, is_label, is_phone_number, split_service_host
from texml.document import parse_after_stream, parse_busy

SQLITE = "sqlite:///"
RECORDING = ".wav"
AGENT_NAME_LENGTH = 54
LABEL_LENGTH = 63  # a region is a DNS label in front of the public host (RFC 1035 §2.3.4)

_PREFIX = re.compile(r"\+([1-9][0-9]{0,14})?")
_KEY = re.compile(r"[!-~]+")
_CARRIER_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
ED25519_KEY_BYTES = 32
_URL = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


def no_boolean(value: object) -> object:
    """Refuses true and false, which would otherwise pass as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def empty_for_none(value: object) -> object:
    """A null, which JSON can say and TOML cannot, means the same as a key left out."""
    return "" if value is None else value


def agent_name(value: str) -> str:
    """An agent's name (docs/reference/public-api.md, "Management")."""
    if len(value) > AGENT_NAME_LENGTH or not is_agent_name(value):
        raise ValueError(
            f"must be 2 to {AGENT_NAME_LENGTH} small letters, digits and hyphens, no hyphen first or last"
        )
    return value


def label(value: str) -> str:
    """The name of an organisation or a region: no dots, because a dot parts AGENT.ORG and REGION.HOST."""
    if len(value) > LABEL_LENGTH or not is_label(value):
        raise ValueError(
            f"must be 1 to {LABEL_LENGTH} small letters, digits and hyphens, no hyphen first or last"
        )
    return value


def phone_number(value: str) -> str:
    """A telephone number in E.164 form."""
    if not is_phone_number(value):
        raise ValueError("must be a number in E.164 form: + and 7 to 15 digits, as in +15559876543")
    return value


def public_key(value: str) -> str:
    """A key that starts with pk_ (docs/reference/public-api.md, "Keys")."""
    return _key(value, ("pk_",), "pk_")


def private_key(value: SecretStr) -> SecretStr:
    """A key that starts with sk_, or a personal token, pcc_pat_ (docs/reference/public-api.md, "Keys")."""
    _key(value.get_secret_value(), ("sk_", "pcc_pat_"), "sk_ or pcc_pat_")
    return value


def carrier_key(value: SecretStr) -> SecretStr:
    """A carrier's API key: it goes into a header, so it is printable and has no spaces."""
    if not _KEY.fullmatch(value.get_secret_value()):
        raise ValueError("must be a key, and hold no spaces")
    return value


def carrier_id(value: str) -> str:
    """An account, application or user as a carrier names it: it may become a part of a path."""
    if not _CARRIER_ID.fullmatch(value) or not value.strip("."):
        raise ValueError("must be 1 to 128 letters, digits, dots, hyphens and underscores")
    return value


def ed25519_key(value: str) -> str:
    """Telnyx's public key: base64 of 32 bytes (docs/reference/carriers.md §9.2)."""
    if len(_base64(value)) != ED25519_KEY_BYTES:
        raise ValueError(f"must be base64 of {ED25519_KEY_BYTES} bytes")
    return value


def base64_secret(value: SecretStr) -> SecretStr:
    """Daily's hmac, which is base64 (docs/reference/carriers.md §6.2)."""
    if not _base64(value.get_secret_value()):
        raise ValueError("must be base64, and not empty")
    return value


def _base64(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None


def network(value: str) -> str:
    """An address or a network."""
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("must be an address, or a network as in 203.0.113.0/24") from None


def file_name(value: str) -> str:
    """The name of a file, which need not be there yet."""
    if not value or value.endswith("/") or "\0" in value:
        raise ValueError("must name a file")
    return value


def number_prefix(value: str) -> str:
    """The beginning of numbers in E.164 form."""
    if not _PREFIX.fullmatch(value):
        raise ValueError("must be + and the digits that numbers begin with, as in +1 or +4930")
    return value


def tail(value: str) -> str:
    """What a document says after the stream (texml/plan.py)."""
    parse_after_stream(value)
    return value


def busy(value: str) -> str:
    """What a document says where no call can be taken (texml/plan.py)."""
    parse_busy(value)
    return value


def hold(value: str) -> str:
    """What a waiting caller hears: a word, or a recording, which is read to see that it can be played."""
    if value in ("ringback", "none"):
        return value
    if not value.endswith(RECORDING):
        raise ValueError(f"must be ringback, none, or a file whose name ends in {RECORDING}")
    read_prompt(Path(value))
    return value


def overflow(value: str) -> str:
    """What becomes of a call that found no place."""
    if value == "refuse":
        return value
    if value.endswith(RECORDING):
        read_prompt(Path(value))
    elif value.startswith("+"):
        phone_number(value)
    else:
        agent, organization = split_service_host(value)
        if not (is_agent_name(agent) and is_label(organization)):
            raise ValueError(
                f"must be refuse, the service host AGENT.ORG of an agent, a number in E.164 form, or a file "
                f"whose name ends in {RECORDING}"
            )
    return value


def fallback(value: str) -> str:
    """What becomes of a caller whose agent is lost."""
    if value.endswith(RECORDING):
        read_prompt(Path(value))
    elif value != "hangup" and not is_phone_number(value):
        raise ValueError(f"must be hangup, a number in E.164 form, or a file whose name ends in {RECORDING}")
    return value


def _key(value: str, prefixes: tuple[str, ...], words: str) -> str:
    if value in prefixes or not value.startswith(prefixes) or not _KEY.fullmatch(value):
        raise ValueError(f"must start with {words}, go on, and hold no spaces")
    return value


def public_url(value: str) -> str:
    """The URL under which carriers reach the gateway, without a slash at its end."""
    _http_url(value)
    return value.rstrip("/")


def base_url(value: str) -> str:
    """A URL that paths are put behind, without a slash at its end."""
    _http_url(value)
    return value.rstrip("/")


def instance_url(value: str) -> str:
    """An instance's scheme, host and port, without a slash at its end."""
    if _http_url(value).path not in ("", "/"):
        raise ValueError("must end after the host and port: the gateway adds the path")
    return value.rstrip("/")


def _http_url(value: str) -> SplitResult:
    if not _URL.fullmatch(value):
        raise ValueError("must be a URL without spaces, as in http://127.0.0.1:8080")
    if any(mark in value for mark in "?#@\\"):
        raise ValueError("must be a URL without a query, a fragment, or a user name")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URL with a valid host, and a port from 1 to 65535 if any") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("must be a URL that starts with http:// or https://")
    if not host or not _HOST.fullmatch(host) or port == 0 or parts.netloc.endswith(":"):
        raise ValueError("must be a URL with a valid host, and a port from 1 to 65535 if any")
    return parts


def store_url(value: str) -> str:
    """A URL of the one kind of store there is: sqlite:///FILE."""
    if not value.startswith(SQLITE):
        raise ValueError("must start with sqlite:/// (SQLite is the only store so far)")
    file = value.removeprefix(SQLITE)
    if file == ":memory:":
        raise ValueError("must name a file: a database in memory cannot be shared by workers")
    if not file or file.endswith("/") or "\0" in file:
        raise ValueError("must name a file, as in sqlite:///patchbay.db")
    if "?" in file or "#" in file:
        raise ValueError("must be a file name alone, without ? or #")
    return value
