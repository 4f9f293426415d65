# SPDX-License-Identifier: BSD-2-Clause
"""The kinds of single values in the configuration: names, numbers, keys, URLs; and the base of its tables.

Each `check_…` function returns the value in its one form, and raises ValueError with words that complete the
sentence "agents[0].name: …". No message repeats a key, nor a URL, which may contain a password.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from gateway.model.addresses import is_agent_name, is_label, is_phone_number
from gateway.store.redis.redis_address import is_redis, parse_redis_url

SQLITE: Final = "sqlite:///"
MAX_AGENT_NAME_CHARACTERS: Final = 54
MAX_LABEL_CHARACTERS: Final = 63  # a region is a DNS label in front of the public host (RFC 1035 §2.3.4)
ED25519_KEY_BYTES: Final = 32
MIN_NODE_SECRET_CHARACTERS: Final = 32
MAX_PORT: Final = 65535

_PREFIX: Final = re.compile(r"\+([1-9][0-9]{0,14})?")
_PRINTABLE: Final = re.compile(r"[!-~]+")
_CARRIER_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_DAILY_PROPERTY: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LISTEN_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?")
_ICE_HOST: Final = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_ICE_URL: Final = re.compile(rf"stuns?:{_ICE_HOST}|turns?:{_ICE_HOST}(?:\?transport=(?:udp|tcp))?")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORTS: Final = (("https://", ":443"), ("http://", ":80"))


class Table(BaseModel):
    """The base of every table of the configuration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def check_no_boolean(value: object) -> object:
    """Refuse true and false for a number; pydantic would take them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def empty_for_none(value: object) -> object:
    """Return "" for null, which JSON can say and TOML cannot: it means the same as a key left out."""
    return "" if value is None else value


def check_agent_name(value: str) -> str:
    """Check an agent's name (docs/reference/public-api.md, "Management")."""
    if len(value) > MAX_AGENT_NAME_CHARACTERS or not is_agent_name(value):
        raise ValueError(
            f"must be 2 to {MAX_AGENT_NAME_CHARACTERS} small letters, digits and hyphens, "
            "no hyphen first or last"
        )
    return value


def check_label(value: str) -> str:
    """Check the name of an organisation or region.

    It has no dot: a dot separates AGENT.ORG and REGION.HOST.
    """
    if len(value) > MAX_LABEL_CHARACTERS or not is_label(value):
        raise ValueError(
            f"must be 1 to {MAX_LABEL_CHARACTERS} small letters, digits and hyphens, no hyphen first or last"
        )
    return value


def check_phone_number(value: str) -> str:
    """Check a telephone number in E.164 form."""
    if not is_phone_number(value):
        raise ValueError("must be a number in E.164 form: + and 7 to 15 digits, as in +15559876543")
    return value


def check_number_prefix(value: str) -> str:
    """Check the beginning of telephone numbers in E.164 form."""
    if not _PREFIX.fullmatch(value):
        raise ValueError("must be + and the digits that numbers begin with, as in +1 or +4930")
    return value


def check_public_key(value: str) -> str:
    """Check a public API key, which starts with pk_ (docs/reference/public-api.md, "Keys")."""
    return _check_key(value, ("pk_",), "pk_")


def check_private_key(value: SecretStr) -> SecretStr:
    """Check a private API key: it starts with sk_ or pcc_pat_ (docs/reference/public-api.md, "Keys")."""
    _check_key(value.get_secret_value(), ("sk_", "pcc_pat_"), "sk_ or pcc_pat_")
    return value


def _check_key(value: str, prefixes: tuple[str, ...], words: str) -> str:
    if value in prefixes or not value.startswith(prefixes) or not _PRINTABLE.fullmatch(value):
        raise ValueError(f"must start with {words}, go on, and hold no spaces")
    return value


def check_carrier_key(value: SecretStr) -> SecretStr:
    """Check a carrier's API key: it is sent in a header, so it is printable ASCII without spaces."""
    if not _PRINTABLE.fullmatch(value.get_secret_value()):
        raise ValueError("must be a key, and hold no spaces")
    return value


def check_carrier_id(value: str) -> str:
    """Check a carrier's identifier of an account, application or user, which may become part of a path."""
    if not _CARRIER_ID.fullmatch(value) or not value.strip("."):
        raise ValueError("must be 1 to 128 letters, digits, dots, hyphens and underscores")
    return value


def check_ed25519_key(value: str) -> str:
    """Check Telnyx's public key: base64 of 32 bytes (docs/reference/carriers.md §9.2)."""
    if len(_decode_base64(value)) != ED25519_KEY_BYTES:
        raise ValueError(f"must be base64 of {ED25519_KEY_BYTES} bytes")
    return value


def check_base64_secret(value: SecretStr) -> SecretStr:
    """Check Daily's HMAC secret, which is base64 (docs/reference/carriers.md §6.2)."""
    if not _decode_base64(value.get_secret_value()):
        raise ValueError("must be base64, and not empty")
    return value


def _decode_base64(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None


def check_daily_property(value: str) -> str:
    """Check the name of a property of rooms or meeting tokens at Daily."""
    if not _DAILY_PROPERTY.fullmatch(value):
        raise ValueError("must be the name of a property at Daily: small letters, digits and underscores")
    if value == "is_owner":
        raise ValueError("is_owner cannot be allowed: an owner may call, record, and make others owners")
    return value


def check_ice_url(value: str) -> str:
    """Check the URL of a STUN or TURN server (RFC 7064 §3.1, RFC 7065 §3.1)."""
    if not _ICE_URL.fullmatch(value):
        raise ValueError(
            "must be the URL of a STUN or TURN server, as in stun:stun.example.com:3478 or "
            "turn:turn.example.com:3478?transport=udp"
        )
    return value


def check_network(value: str) -> str:
    """Check an IP address, or a network in CIDR notation."""
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("must be an address, or a network as in 203.0.113.0/24") from None


def check_listen_host(value: str) -> str:
    """Check an address to listen on, or a name of one. The port is a setting of its own."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        return value
    if "/" in value:
        raise ValueError("must be an address or a name, not a URL")
    if value == "*":
        raise ValueError("must be an address: 0.0.0.0 stands for all of IPv4, :: for all of IPv6 and IPv4")
    if value.startswith("["):
        raise ValueError("must stand without brackets, as in ::1, and without a port: that is server.port")
    if ":" in value:
        raise ValueError("must be an address or a name without a port: that is server.port")
    if not _LISTEN_HOST.fullmatch(value) or value.replace(".", "").isdecimal():
        raise ValueError("must be an address of this machine, or a name of one")
    return value


def check_file_name(value: str) -> str:
    """Check the name of a file, which need not exist yet."""
    if not value or value.endswith("/") or "\0" in value:
        raise ValueError("must name a file")
    return value


def check_base_url(value: str) -> str:
    """Check an http(s) URL that paths are appended to, and return it without a slash at its end."""
    _parse_http_url(value)
    return value.rstrip("/")


def check_instance_url(value: str) -> str:
    """Check an instance's scheme, host and port, and return them without a slash at their end."""
    if _parse_http_url(value).path not in ("", "/"):
        raise ValueError("must end after the host and port: the gateway adds the path")
    return value.rstrip("/")


def check_node_url(value: str) -> str:
    """Check the internal address of a node: scheme, host and port. Return it without a slash at its end."""
    parts = _parse_http_url(value)
    if parts.path not in ("", "/"):
        raise ValueError("must end after the host and port")
    if parts.hostname in ("0.0.0.0", "::"):  # noqa: S104 - refused here
        raise ValueError("must be the one address at which the other machines reach this one")
    return value.rstrip("/")


def check_node_secret(value: SecretStr) -> SecretStr:
    """Check the secret that nodes sign with."""
    if len(value.get_secret_value()) < MIN_NODE_SECRET_CHARACTERS:
        raise ValueError(
            f"must have at least {MIN_NODE_SECRET_CHARACTERS} characters: "
            "`openssl rand -hex 32` makes a good one"
        )
    return value


def check_name_server(value: str) -> str:
    """Check the address of a name server, with a port if it is not 53."""
    host, _, port = (
        value.rpartition(":") if value.startswith("[") or value.count(":") == 1 else (value, "", "53")
    )
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        is_port = port.isascii() and port.isdecimal() and 1 <= int(port) <= MAX_PORT
    except ValueError:
        is_port = False
    if not is_port or "%" in value:
        raise ValueError("must be an address with or without a port, as in 127.0.0.1:8600 or [::1]:8600")
    return value


def check_origin(value: str) -> str:
    """Check an origin (RFC 6454 §6.2) or `*`, and return it as browsers write it in `Origin`.

    They write it in small letters, and leave the port out if it is the scheme's own.
    """
    origin = value.lower()
    for scheme, port in _DEFAULT_PORTS:
        if origin.startswith(scheme):
            origin = origin.removesuffix(port)
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise ValueError(
            "must be scheme, host and port of a web page and nothing after them, "
            "as in https://app.example.com, or * for any page"
        )
    return origin


def _parse_http_url(value: str) -> SplitResult:
    if not _PRINTABLE.fullmatch(value):
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


def check_store_url(value: str) -> str:
    """Check the URL of a store: sqlite:///FILE, or one of Redis (gateway/store/redis/redis_address.py)."""
    if is_redis(value):
        parse_redis_url(value)
        return value
    if not value.startswith(SQLITE):
        raise ValueError("must start with sqlite:///, redis:// or rediss://, or redis+sentinel://")
    file = value.removeprefix(SQLITE)
    if file == ":memory:":
        raise ValueError("must name a file: a database in memory cannot be shared by workers")
    if not file or file.endswith("/") or "\0" in file:
        raise ValueError("must name a file, as in sqlite:///patchbay.db")
    if "?" in file or "#" in file:
        raise ValueError("must be a file name alone, without ? or #")
    return value


# The types of the settings' fields. A text that is parsed into a value has its type in call_handling.py.

Whole = Annotated[int, BeforeValidator(check_no_boolean)]
Seconds = Annotated[float, BeforeValidator(check_no_boolean), Field(allow_inf_nan=False)]
Wait = Annotated[Seconds, Field(gt=0, le=3600)]
Rate = Annotated[float, BeforeValidator(check_no_boolean), Field(gt=0, le=100_000, allow_inf_nan=False)]
AgentName = Annotated[str, AfterValidator(check_agent_name)]
Label = Annotated[str, AfterValidator(check_label)]
PhoneNumber = Annotated[str, AfterValidator(check_phone_number)]
NumberPrefix = Annotated[str, AfterValidator(check_number_prefix)]
PublicKey = Annotated[str, AfterValidator(check_public_key)]
PrivateKey = Annotated[SecretStr, AfterValidator(check_private_key)]
CarrierKey = Annotated[SecretStr, AfterValidator(check_carrier_key)]
CarrierId = Annotated[str, AfterValidator(check_carrier_id)]
Ed25519Key = Annotated[str, AfterValidator(check_ed25519_key)]
Base64Secret = Annotated[SecretStr, AfterValidator(check_base64_secret)]
DailyProperty = Annotated[str, AfterValidator(check_daily_property)]
IceUrl = Annotated[str, AfterValidator(check_ice_url)]
Network = Annotated[str, AfterValidator(check_network)]
ListenHost = Annotated[str, AfterValidator(check_listen_host)]
FileName = Annotated[str, AfterValidator(check_file_name)]
BaseUrl = Annotated[str, AfterValidator(check_base_url)]
NodeUrl = Annotated[str, AfterValidator(check_node_url)]
NodeSecret = Annotated[SecretStr, AfterValidator(check_node_secret)]
NameServer = Annotated[str, AfterValidator(check_name_server)]
Origin = Annotated[str, AfterValidator(check_origin)]
StoreUrl = Annotated[str, AfterValidator(check_store_url)]
WebsocketAuth = Literal["none", "token", "required"]
