# SPDX-License-Identifier: BSD-2-Clause
"""The two ways in which the environment sets a value of the configuration.

A variable such as `PATCHBAY_AGENTS__0__MAX_AGENTS=5` overrides the file; it reaches any value, also inside
lists (`Overrides`). A text `env:NAME`, in the file or in such a variable, stands for the value of the
variable NAME, so that no file contains a secret (`resolve_references`).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.config import model_fields
from gateway.config.consistency import Finding, Location, format_path
from gateway.config.problems import Problem
from gateway.config.settings import Settings

PREFIX: Final = "PATCHBAY_"
SEPARATOR: Final = "__"
NO_SETTINGS: Final = ("PATCHBAY_CONFIG", "PATCHBAY_ACCELERATOR")
"""Variables with the prefix that set no value: the name of the file, and gateway/fastpath/accelerator.py."""

_SERVICE_LINK: Final = re.compile(
    r"PATCHBAY_(?:[A-Z0-9]+_)*(?:"
    r"SERVICE_HOST=.*|SERVICE_PORT(?:_[A-Z0-9]+)*=\d+|PORT(?:_\d+_(?:TCP|UDP|SCTP))?=(?:tcp|udp|sctp)://.*|"
    r"PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)=.*)"
)
"""NAME=VALUE as Kubernetes sets it in every container for a Service whose name begins with `patchbay`."""

MAX_INDEX_DIGITS: Final = 4

REFERENCE: Final = "env:"
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Overrides:
    """The `PATCHBAY_…` variables of an environment, applied to the tables of a file.

    `tables`: the result. `origins`: which variable set the value at a location. `problems`: what is wrong
    with the variables themselves; those are not applied.
    """

    def __init__(self, tables: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """Apply the variables to a copy of `tables`, a whole list or table before the values inside it."""
        self.tables: dict[str, Any] = copy.deepcopy(dict(tables))
        self.origins: dict[Location, str] = {}
        self.problems: list[Problem] = []
        names = sorted(
            name
            for name, text in environ.items()
            if name.startswith(PREFIX)
            and not name.startswith(NO_SETTINGS)
            and not _SERVICE_LINK.fullmatch(f"{name}={text}")
        )
        located = ((self._locate(name), name) for name in names)
        for location, name in sorted((location, name) for location, name in located if location):
            self._set(location, name, environ[name])

    def _locate(self, name: str) -> Location:
        """Return the location that a variable's name means. Empty, with a problem, if there is none."""
        location: Location = ()
        kind: Any = Settings
        before = PREFIX
        for step in name.removeprefix(PREFIX).split(SEPARATOR):
            keys = {key.upper(): field.annotation for key, field in (model_fields.fields(kind) or {}).items()}
            item = model_fields.item(kind)
            if keys and step in keys:
                location, kind = (*location, step.lower()), keys[step]
            elif item is not None and step.isascii() and step.isdecimal() and len(step) <= MAX_INDEX_DIGITS:
                location, kind = (*location, int(step)), item
            else:
                hint = (
                    model_fields.suggestion(step, keys, before)
                    if keys
                    else f"after {before} comes the number of an item, from 0"
                    if item is not None
                    else f"{before.removesuffix(SEPARATOR)} is a single value"
                )
                self.problems.append(Problem(name, f"is not a setting; {hint}"))
                return ()
            before += step + SEPARATOR
        return location

    def _set(self, location: Location, name: str, text: str) -> None:
        kind = model_fields.at(location)
        value: Any = text
        is_table = model_fields.fields(kind) is not None or model_fields.is_table_of_texts(kind)
        if is_table or model_fields.item(kind) is not None:
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                what = "table" if model_fields.item(kind) is None else "list"
                self.problems.append(Problem(name, f"must be JSON, because it stands for a whole {what}"))
                return
        elif model_fields.takes_none(kind) and not text:
            value = None
        self._put(location, name, value)

    def _put(self, location: Location, name: str, value: Any) -> None:
        holder: Any = self.tables
        for depth, step in enumerate(location):
            if isinstance(step, int):
                if not isinstance(holder, list):
                    return  # the file has another type here, which validation reports
                if step > len(holder):
                    list_name = format_path(location[:depth])
                    message = f"skips an item: {list_name} has {len(holder)}, counted from 0"
                    self.problems.append(Problem(name, message))
                    return
                if step == len(holder):
                    holder.append(None)
            elif not isinstance(holder, dict):
                return
            if depth == len(location) - 1:
                holder[step] = value
                self.origins[location] = name
                return
            if isinstance(step, int) or step not in holder:
                below: Any = [] if isinstance(location[depth + 1], int) else {}
                if isinstance(step, str) or holder[step] is None:
                    holder[step] = below
            holder = holder[step]


def resolve_references(
    tables: dict[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[Finding]]:
    """Return the tables with every `env:NAME` replaced, and the problems of those that cannot be."""
    problems: list[Finding] = []

    def resolve(value: Any, location: Location) -> Any:
        if isinstance(value, dict):
            return {key: resolve(each, (*location, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [resolve(each, (*location, index)) for index, each in enumerate(value)]
        if not isinstance(value, str) or not value.startswith(REFERENCE):
            return value
        name = value.removeprefix(REFERENCE)
        if problem := _reference_problem(name, environ):
            problems.append((location, problem))
            return value
        return environ[name]

    return {key: resolve(value, (key,)) for key, value in tables.items()}, problems


def _reference_problem(name: str, environ: Mapping[str, str]) -> str:
    if not _VARIABLE_NAME.fullmatch(name):
        return "must name an environment variable after env:, as in env:DAILY_API_KEY"
    if name not in environ:
        return f"names the environment variable {name}, which is not set"
    return "" if environ[name] else f"names the environment variable {name}, which is empty"
