# SPDX-License-Identifier: BSD-2-Clause
"""docs/configuration.md, generated from the settings model.

Run `python -m gateway.config.reference_page > docs/configuration.md` after a change of the model.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from gateway.config.call_handling import CallHandling, text_of
from gateway.config.environment import PREFIX, SEPARATOR
from gateway.config.model_fields import fields, is_table_of_texts, item, plain
from gateway.config.settings import Settings
from gateway.config.toml_text import literal

INTRODUCTION = """\
# Configuration

<!-- Made by `python -m gateway.config.reference_page`; edit the settings model instead. -->

`patchbay serve --config patchbay.toml` reads one TOML file; `PATCHBAY_CONFIG` names it as well. Without a
file, the defaults stand. `patchbay check --config patchbay.toml` prints the resolved configuration with
secrets hidden, or every error with its place, and then exits with 1. It looks at the certificate, the store
and the address as well, and tells what is doubtful without failing for it.

Environment variables go over the file. A variable is `PATCHBAY_` and the path of the value in capitals,
joined by two underscores. `N` below is the number of an item in its list, from 0; the number after the last
adds an item. A variable for a whole table or list is JSON. One that names no setting is an error, but for
those that Kubernetes sets where a Service's name begins with `patchbay` (`PATCHBAY_SERVICE_HOST`).

```sh
PATCHBAY_SERVER__PORT=8000
PATCHBAY_AGENTS__0__MAX_AGENTS=5
PATCHBAY_AGENTS__0__INSTANCES='["http://10.0.0.5:8080", "http://10.0.0.6:8080"]'
PATCHBAY_AGENTS='[{"name": "support", "organization": "acme"}]'
```

A text `env:NAME` stands for the value of the environment variable `NAME`, which must then be set. So no
secret needs to be in the file.

`[[organizations]]`, `[[agents]]` and `[[numbers]]` are read again on SIGHUP, while calls run; the other
tables stay as they were at the start
([operations.md](operations.md#changing-agents-keys-and-accounts-while-calls-run)).

A key that no table knows is an error, so a misspelt one does not pass unnoticed. Organisations, agents and
numbers refer to each other by name, and each name stands once.
"""

EXAMPLE = """\
[server]
host = "0.0.0.0"
port = 7860
public_url = "https://voice.example.com"
region = "eu-central"
workers = 2
log_format = "json"

[store]
url = "sqlite:////var/lib/patchbay/patchbay.db"

[[regions]]
code = "eu-central"
display_name = "Europe (Frankfurt)"

[[regions]]
code = "us-west"
display_name = "US West (Oregon)"

[[organizations]]
name = "acme"
public_keys = ["pk_an_example"]
private_keys = ["env:ACME_PRIVATE_KEY"]
dial_prefixes = ["+1", "+49"]

[organizations.daily]
api_key = "env:DAILY_API_KEY"

[[organizations.carriers]]
carrier = "twilio"
account = "env:TWILIO_ACCOUNT_SID"
auth_tokens = ["env:TWILIO_AUTH_TOKEN"]

[[organizations.carriers]]
carrier = "telnyx"
public_keys = ["env:TELNYX_PUBLIC_KEY"]
api_key = "env:TELNYX_API_KEY"
connection_id = "1494404757140276705"

[[agents]]
name = "support"
organization = "acme"
instances = ["http://10.0.0.5:8080", "http://10.0.0.6:8080"]
max_agents = 2
max_session_duration = 3600

[[agents]]
name = "reception"
organization = "acme"
region = "us-west"
instances = ["http://10.1.0.5:7860"]
sessions_per_instance = 10         # Pipecat's development runner serves many sessions
websocket_auth = "token"

[[numbers]]
number = "+15559876543"
agent = "support.acme"

[limits]
start_timeout = 5
"""

COLUMNS = ("Name", "Type", "Default", "Environment variable", "What it is")


def document() -> str:
    """Return the whole page, in Markdown."""
    tables = (_section(name, field) for name, field in Settings.model_fields.items())
    return "\n".join([INTRODUCTION, *tables, f"## A complete example\n\n```toml\n{EXAMPLE}```\n"])


def _section(name: str, field: FieldInfo) -> str:
    row = item(field.annotation)
    header, variable = (f"[{name}]", name.upper()) if row is None else (f"[[{name}]]", f"{name.upper()}__N")
    return _table(header, variable, plain(field.annotation if row is None else row), _defaults(field))


def _table(header: str, variable: str, table: Any, defaults: Iterable[str] = ()) -> str:
    """Return the section of a table, followed by those of the tables inside it."""
    about = (inspect.getdoc(table) or "").partition(": ")[2]
    lines = [f"## `{header}`", "", about[0].upper() + about[1:], *defaults, ""]
    lines += [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
    nested: list[str] = []
    for key, inner in (fields(table) or {}).items():
        variable_name = f"`{PREFIX}{variable}{SEPARATOR}{key.upper()}`"
        kind = _kind(inner.annotation) + _bounds(inner)
        lines.append(_row([f"`{key}`", kind, _default(inner), variable_name, inner.description or ""]))
        if fields(inner.annotation) is not None:
            name = f"{header.strip('[]')}.{key}"
            nested.append(_table(f"[{name}]", f"{variable}{SEPARATOR}{key.upper()}", plain(inner.annotation)))
        elif fields(rows := item(inner.annotation)) is not None:
            name = f"{header.strip('[]')}.{key}"
            nested.append(_table(f"[[{name}]]", f"{variable}{SEPARATOR}{key.upper()}__N", plain(rows)))
    return "\n".join([*lines, "", *nested])


def _defaults(field: FieldInfo) -> Iterator[str]:
    rows = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(rows, list) and rows:
        examples = (", ".join(literal(value) for value in row.model_dump().values()) for row in rows)
        yield f"\nIf none is given, these apply: {'; '.join(f'`{each}`' for each in examples)}."


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _kind(annotation: Any) -> str:
    bare = plain(annotation)
    if get_origin(bare) is Literal:
        return " or ".join(f"`{literal(choice)}`" for choice in get_args(bare))
    if fields(bare) is not None:
        return "table"
    if (inner := item(bare)) is not None:
        return f"list of {_kind(inner)}s"
    if is_table_of_texts(bare):
        return "table of strings"
    names = {
        bool: "`true` or `false`",
        int: "integer",
        float: "number",
        str: "string",
        SecretStr: "secret string",
    }
    is_parsed_text = get_origin(bare) is UnionType  # call_handling.py
    return "string" if is_parsed_text else names[bare]


def _bounds(field: FieldInfo) -> str:
    words = {"ge": "at least {:g}", "gt": "above {:g}", "le": "at most {:g}"}
    bounds = [
        words[name].format(limit)
        for rule in field.metadata
        for name in words
        if (limit := getattr(rule, name, None)) is not None
    ]
    return f", {', '.join(bounds)}" if bounds else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, CallHandling):
        value = text_of(value)
    return "not set" if value is None or value == "" else f"`{literal(value)}`"


if __name__ == "__main__":
    sys.stdout.write(document())
