# SPDX-License-Identifier: BSD-2-Clause
"""`env:NAME` in a configuration: a value that stands in an environment variable, so that no file holds it.

It works in `[organizations.daily]`, where accounts with others are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.config.checks import Finding

PREFIX = "env:"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def resolve(tables: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Finding]]:
    """The tables with every reference replaced, and what is wrong with those that stay as they are."""
    organizations = tables.get("organizations")
    if not isinstance(organizations, list):
        return tables, []
    found: list[Finding] = []
    resolved = []
    for index, row in enumerate(organizations):
        account = row.get("daily") if isinstance(row, dict) else None
        if isinstance(account, dict):
            values = dict(account)
            for key, value in account.items():
                if isinstance(value, str) and value.startswith(PREFIX):
                    name = value.removeprefix(PREFIX)
                    if wrong := _wrong(name, environ):
                        found.append((("organizations", index, "daily", key), wrong))
                    else:
                        values[key] = environ[name]
            resolved.append({**row, "daily": values})
        else:
            resolved.append(row)
    return {**tables, "organizations": resolved}, found


def _wrong(name: str, environ: Mapping[str, str]) -> str:
    if not _NAME.fullmatch(name):
        return "must name an environment variable after env:, as in env:DAILY_API_KEY"
    if name not in environ:
        return f"names the environment variable {name}, which is not set"
    return "" if environ[name] else f"names the environment variable {name}, which is empty"
