# SPDX-License-Identifier: BSD-2-Clause
"""The values of `[[agents]]` that say how the gateway starts an agent's instances (docs/agents.md)."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

PORT_PLACEHOLDER: Final = "{port}"
HOST_PLACEHOLDER: Final = "{host}"
"""Both stand in a command and in its environment, for where an instance is to listen."""

DEFAULT_PORTS: Final = "20000-29999"
"""Below the ports that Linux gives to clients (net.ipv4.ip_local_port_range, from 32768)."""

MAX_PORT: Final = 65535

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORTS: Final = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")


def check_command(value: list[str]) -> list[str]:
    """Check a program and its arguments; empty for none."""
    if any("\0" in each for each in value):
        raise ValueError("must hold no NUL characters")
    if value and not value[0].strip():
        raise ValueError("must begin with the name of a program")
    return value


def check_environment(value: dict[str, str]) -> dict[str, str]:
    """Check variables for a program. No message repeats a value, which may be a secret."""
    for name, text in value.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"has {name!r}, which is no name of a variable")
        if "\0" in text:
            raise ValueError(f"has a NUL character in {name}")
    return value


def check_directory(value: str) -> str:
    """Check the name of a directory, which need not exist yet; "" for none."""
    if "\0" in value:
        raise ValueError("must name a directory")
    return value


def check_user(value: str) -> str:
    """Check the name of a user of the system; "" for none."""
    if value and not _USER.fullmatch(value):
        raise ValueError("must be the name of a user of this machine")
    return value


def check_ports(value: str) -> str:
    """Check a range of ports, written as FIRST-LAST."""
    match = _PORTS.fullmatch(value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MAX_PORT:
        raise ValueError(f"must be two ports from 1 to {MAX_PORT}, the smaller first, as in {DEFAULT_PORTS}")
    return value


def port_range(ports: str) -> range:
    """Return the ports of a checked range, which may be empty if it was not checked."""
    match = _PORTS.fullmatch(ports)
    return range(int(match[1]), int(match[2]) + 1) if match else range(0)


Command = Annotated[list[str], AfterValidator(check_command)]
Environment = Annotated[dict[str, str], AfterValidator(check_environment)]
Directory = Annotated[str, AfterValidator(check_directory)]
SystemUser = Annotated[str, AfterValidator(check_user)]
Ports = Annotated[str, AfterValidator(check_ports)]
