# SPDX-License-Identifier: BSD-2-Clause
"""The environment over the file: `PATCHBAY_AGENTS__0__MAX_AGENTS=5`, any value, also inside lists."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from gateway.config import model_fields
from gateway.config.consistency import Location, show
from gateway.config.problems import Problem

PREFIX = "PATCHBAY_"
NOT_VALUES = ("PATCHBAY_CONFIG", "PATCHBAY_ACCELERATOR")  # the file's name; gateway/fastpath/accelerator.py
SEPARATOR = "__"
INDEX_DIGITS = 4


class EnvironmentSource(PydanticBaseSettingsSource):
    """A settings source that lays variables over tables read before.

    pydantic-settings' own source replaces a list as a whole; this one reaches into it. Calling it gives the
    tables with the variables applied. `origins` then says which variable set which place, and `problems` what
    was wrong with the variables themselves.
    """

    def __init__(
        self, settings_cls: type[BaseSettings], environ: Mapping[str, str], under: Mapping[str, Any]
    ) -> None:
        super().__init__(settings_cls)
        self.origins: dict[Location, str] = {}
        self.problems: list[Problem] = []
        self._tables = copy.deepcopy(dict(under))
        self._variables = {
            name: value
            for name, value in environ.items()
            if name.startswith(PREFIX) and not name.startswith(NOT_VALUES)
        }

    def __call__(self) -> dict[str, Any]:
        """The tables with the variables applied, a whole list or table before the values inside it."""
        located = ((self._locate(name), name) for name in sorted(self._variables))
        for location, name in sorted((place, name) for place, name in located if place):
            self._set(location, name, self._variables[name])
        return self._tables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of a top-level field, as pydantic-settings asks for it."""
        return self._tables.get(field_name), field_name, False

    def _locate(self, name: str) -> Location:
        """The path that a variable's name means; empty, and a problem noted, if there is none."""
        location: Location = ()
        kind: Any = self.settings_cls
        before = PREFIX
        for step in name.removeprefix(PREFIX).split(SEPARATOR):
            keys = {key.upper(): field.annotation for key, field in (model_fields.fields(kind) or {}).items()}
            inside = model_fields.item(kind)
            if keys and step in keys:
                location, kind = (*location, step.lower()), keys[step]
            elif inside is not None and step.isascii() and step.isdecimal() and len(step) <= INDEX_DIGITS:
                location, kind = (*location, int(step)), inside
            else:
                what = (
                    model_fields.suggestion(step, keys, before)
                    if keys
                    else f"after {before} comes the number of an item, from 0"
                    if inside is not None
                    else f"{before.removesuffix(SEPARATOR)} is a single value"
                )
                self.problems.append(Problem(name, f"is not a setting; {what}"))
                return ()
            before += step + SEPARATOR
        return location

    def _set(self, location: Location, name: str, text: str) -> None:
        kind = model_fields.at(location)
        value: Any = text
        if model_fields.fields(kind) is not None or model_fields.item(kind) is not None:
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
        holder: Any = self._tables
        for depth, step in enumerate(location):
            if isinstance(step, int):
                if not isinstance(holder, list):
                    return  # the file has something else there, which validation will say
                if step > len(holder):
                    message = f"skips an item: {show(location[:depth])} has {len(holder)}, counted from 0"
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
