# SPDX-License-Identifier: BSD-2-Clause
"""Reading the configuration: a TOML file, the environment over it, and every problem with its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.config import env_references
from gateway.config.consistency import CROSS_CHECK, Location, findings, show
from gateway.config.environment import EnvironmentSource
from gateway.config.problems import ConfigError, Problem, words
from gateway.config.settings import Settings
from gateway.config.toml_lines import line_of, lines

_TOML_PLACE = re.compile(r" \(at (?:(line \d+, column \d+)|end of document)\)$")


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a TOML file, if any, with `PATCHBAY_…` variables of `environ` laid over it.

    Raises ConfigError with everything that is wrong. Neither file nor variables is fine: the defaults.
    """
    text = "" if path is None else _read(path)
    environment = EnvironmentSource(Settings, environ, _parse(text, path))
    tables, missing = env_references.resolve(environment(), environ)
    places = _Places(path, lines(text), environment.origins)
    try:
        settings = Settings(**tables)
    except ValidationError as error:
        unresolved = {location for location, _ in missing}
        found = missing + [
            (at["loc"], words(at["loc"], at)) for at in error.errors() if at["loc"] not in unresolved
        ]
        if all(each["type"] != CROSS_CHECK for each in error.errors()):
            found += findings(_with_defaults(tables))
        problems = [places.problem(location, message) for location, message in found]
        raise ConfigError(environment.problems + problems) from None
    problems = environment.problems + [places.problem(location, message) for location, message in missing]
    if problems:
        raise ConfigError(problems)
    return settings


def _with_defaults(tables: dict[str, Any]) -> dict[str, Any]:
    """The tables as the checks between them expect it: with what stands where nothing is given."""
    defaults = Settings().model_dump()
    server = tables.get("server")
    return {
        **tables,
        "server": {**defaults["server"], **(server if isinstance(server, dict) else {})},
        "regions": tables.get("regions") or defaults["regions"],
    }


class _Places:
    """Where a value came from: the variable that set it, or the line of the file."""

    def __init__(self, path: Path | None, found: dict[Location, int], origins: dict[Location, str]) -> None:
        self._path, self._lines, self._origins = path, found, origins

    def problem(self, location: Location, message: str) -> Problem:
        for length in range(len(location), 0, -1):
            if name := self._origins.get(location[:length]):
                inner = show(location) if length < len(location) else ""
                return Problem(name, message, inner)
        line = line_of(location, self._lines)
        return Problem(show(location), message, f"{self._path}, line {line}" if line else "")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([Problem(str(path), "is not UTF-8 text", f"line {line}")]) from None
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror or error}")]) from None
    except ValueError:
        raise ConfigError([Problem(repr(str(path)), "is no file name")]) from None


def _parse(text: str, path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError([Problem(str(path), "is nested too deeply")]) from None
    except ValueError as error:  # tomllib.TOMLDecodeError, or an integer of more digits than Python takes
        message = str(error)
        place = _TOML_PLACE.search(message)
        reason = message[: place.start()] if place else message
        where = (place[1] or "at its end") if place else ""
        raise ConfigError([Problem(str(path), f"is not TOML: {reason}", where)]) from None
