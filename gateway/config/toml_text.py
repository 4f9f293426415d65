# SPDX-License-Identifier: BSD-2-Clause
"""The output of `patchbay check`: settings as TOML text, with every secret hidden."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from gateway.config.settings import Settings
from gateway.store.redis.redis_address import url_password

HIDDEN = "**********"

VARIABLES = "agents.environment"


def render(settings: Settings) -> str:
    """Return the settings, defaults included, as a TOML document with secrets replaced by asterisks."""
    tables = settings.model_dump()
    url = settings.store.url
    if password := url_password(url):
        tables["store"]["url"] = url.replace(f":{password}@", f":{HIDDEN}@", 1)
    return "\n\n".join(_tables(tables)) + "\n"


def _tables(tables: Mapping[str, Any]) -> Iterator[str]:
    for name, content in tables.items():
        if isinstance(content, list):
            for row in content:
                yield from _table(name, row, f"[[{name}]]")
        else:
            yield from _table(name, content, f"[{name}]")


def _table(name: str, row: Mapping[str, Any], header: str) -> Iterator[str]:
    """Yield a table, then the tables inside it: in TOML a key belongs to the header before it."""
    if name == VARIABLES:  # a program's variables, many of which are secrets
        row = dict.fromkeys(row, HIDDEN)
    nested = {key: value for key, value in row.items() if _has_header(value)}
    yield "\n".join([header, *(_entry(key, value) for key, value in row.items() if key not in nested)])
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _table(f"{name}.{key}", value, f"[{name}.{key}]")
        else:
            for each in value:
                yield from _table(f"{name}.{key}", each, f"[[{name}.{key}]]")


def _has_header(value: Any) -> bool:
    """Return True if a value is written under a header of its own: a table, or a list of tables."""
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Mapping) and bool(value)


def _entry(key: str, value: Any) -> str:
    return f"# {key} is not set" if value is None else f"{key} = {literal(value)}"


def literal(value: Any) -> str:
    """Return a value as it is written in TOML."""
    match value:
        case SecretStr():
            return literal(HIDDEN)
        case bool():
            return "true" if value else "false"
        case list():
            return f"[{', '.join(literal(each) for each in value)}]"
        case float():
            return f"{value:g}" if value.is_integer() and value < 1e6 else repr(value)
        case str():
            # A JSON string is a TOML string, but for the one control character that JSON does not escape.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value)
