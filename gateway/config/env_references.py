# SPDX-License-Identifier: BSD-2-Clause
"""`env:NAME` in a configuration: a text that stands in an environment variable, so that no file holds it.

It works wherever a text does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.config.consistency import Finding, Location

PREFIX = "env:"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def resolve(tables: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Finding]]:
    """The tables with every reference replaced, and what is wrong with those that stay as they are."""
    found: list[Finding] = []

    def walk(value: Any, location: Location) -> Any:
        if isinstance(value, dict):
            return {key: walk(each, (*location, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [walk(each, (*location, index)) for index, each in enumerate(value)]
        if not isinstance(value, str) or not value.startswith(PREFIX):
            return value
        name = value.removeprefix(PREFIX)
        if wrong := _wrong(name, environ):
            found.append((location, wrong))
            return value
        return environ[name]

    return {key: walk(value, (key,)) for key, value in tables.items()}, found


def _wrong(name: str, environ: Mapping[str, str]) -> str:
    if not _NAME.fullmatch(name):
        return "must name an environment variable after env:, as in env:DAILY_API_KEY"
    if name not in environ:
        return f"names the environment variable {name}, which is not set"
    return "" if environ[name] else f"names the environment variable {name}, which is empty"
