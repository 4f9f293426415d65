# SPDX-License-Identifier: BSD-2-Clause
"""Settings as TOML text, every secret hidden: what `patchbay check` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from gateway.config.settings import Settings

HIDDEN = "**********"


def render(settings: Settings) -> str:
    """The resolved settings, defaults included, as a TOML document with secrets replaced by stars."""
    return "\n\n".join(_tables(settings.model_dump())) + "\n"


def _tables(tables: Mapping[str, Any]) -> Iterator[str]:
    for name, content in tables.items():
        if isinstance(content, list):
            for row in content:
                yield from _table(name, row, f"[[{name}]]")
        else:
            yield from _table(name, content, f"[{name}]")


def _table(name: str, row: Mapping[str, Any], header: str) -> Iterator[str]:
    """A table, and then those inside it: TOML counts a key to the header before it."""
    inside = {key: value for key, value in row.items() if _is_table(value)}
    yield "\n".join([header, *(_entry(key, value) for key, value in row.items() if key not in inside)])
    for key, value in inside.items():
        if isinstance(value, Mapping):
            yield from _table(f"{name}.{key}", value, f"[{name}.{key}]")
        else:
            for each in value:
                yield from _table(f"{name}.{key}", each, f"[[{name}.{key}]]")


def _is_table(value: Any) -> bool:
    """Whether it stands under a header of its own: a table, or a list of tables."""
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Mapping)


def _entry(key: str, value: Any) -> str:
    return f"# {key} is not set" if value is None else f"{key} = {literal(value)}"


def literal(value: Any) -> str:
    """A value as TOML writes it."""
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
            # JSON's strings are TOML's, but for the one control character that JSON leaves bare.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value)
