# SPDX-License-Identifier: BSD-2-Clause
"""Loading the configuration: a TOML file, the environment over it, and every problem with its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr, ValidationError

from gateway.config.call_handling import CHECK_RECORDING, RecordingCheck
from gateway.config.consistency import CROSS_CHECK, Location, find_contradictions, format_path
from gateway.config.environment import Overrides, resolve_references
from gateway.config.problems import ConfigError, Problem, message_of
from gateway.config.settings import Settings
from gateway.store.redis.redis_address import url_password

_TOML_PLACE: Final = re.compile(r" \(at (?:(line \d+, column \d+)|end of document)\)$")

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_PATH: Final = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER: Final = re.compile(rf"\s*(\[\[?)\s*({_PATH})\s*\]\]?\s*(?:#.*)?")
_ENTRY: Final = re.compile(rf"\s*({_PATH})\s*=")


FIXED: Final = ("server", "store", "regions", "limits")
"""The tables that a process keeps as they were at its start."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where they are from.

    `locate`: returns a problem with the value at a location, given words for it, with the value's place.
    `has_secrets`: a secret stands in the file itself, not in the environment.
    """

    settings: Settings
    locate: Callable[[Location, str], Problem]
    has_secrets: bool


def load(
    path: Path | None, environ: Mapping[str, str], check_recording: RecordingCheck | None = None
) -> Settings:
    """Load the settings of a TOML file, with the `PATCHBAY_…` variables of `environ` over it.

    `path`: None for no file; the defaults then stand. `check_recording`: called for every recording that is
    named; it raises ValueError if the file cannot be played. Raises ConfigError with every problem there is.
    """
    return load_with_places(path, environ, check_recording).settings


def load_with_places(
    path: Path | None, environ: Mapping[str, str], check_recording: RecordingCheck | None = None
) -> Loaded:
    """Load the settings as `load` does, and return with them where each value is from."""
    return _load(path, environ, check_recording)[0]


def load_beside(
    path: Path | None,
    environ: Mapping[str, str],
    check_recording: RecordingCheck | None,
    running: Settings,
) -> tuple[Loaded, tuple[str, ...]]:
    """Load the settings for a process that runs with `running`, which keeps those of FIXED.

    Returns with them the names of the fixed settings that are others now, as in "server.port". Raises
    ConfigError as `load` does, also if the rest does not fit the fixed settings.
    """
    loaded, tables = _load(path, environ, check_recording)
    left = tuple(_differences(running, loaded.settings))
    if not left:
        return loaded, ()
    fixed = running.model_dump(include=set(FIXED))
    try:
        settings = Settings.model_validate({**tables, **fixed}, context={CHECK_RECORDING: check_recording})
    except ValidationError as error:
        faults = [loaded.locate(at["loc"], message_of(at["loc"], at)) for at in error.errors()]
        raise ConfigError(needing_restart(loaded, left) + faults) from None
    return replace(loaded, settings=settings), left


def needing_restart(loaded: Loaded, left: Iterable[str]) -> list[Problem]:
    """Return words on the fixed settings that differ: without them the faults that they lead to mislead."""
    words = "differs now, which needs a restart: it counts as it was at the start"
    return [loaded.locate(tuple(name.split(".")), words) for name in left]


def _differences(running: Settings, loaded: Settings) -> Iterator[str]:
    """Yield the names of the fixed settings that differ."""
    before, after = running.model_dump(include=set(FIXED)), loaded.model_dump(include=set(FIXED))
    for name in FIXED:
        if isinstance(before[name], dict):
            yield from (f"{name}.{key}" for key in before[name] if before[name][key] != after[name][key])
        elif before[name] != after[name]:
            yield name


def _load(
    path: Path | None, environ: Mapping[str, str], check_recording: RecordingCheck | None
) -> tuple[Loaded, dict[str, Any]]:
    """Do the same as `load_with_places`, and return the tables, too."""
    text = "" if path is None else _read(path)
    overrides = Overrides(_parse(text, path), environ)
    tables, unresolved = resolve_references(overrides.tables, environ)
    places = _Places(path, find_lines(text), overrides.origins)
    try:
        settings = Settings.model_validate(tables, context={CHECK_RECORDING: check_recording})
    except ValidationError as error:
        reported = {location for location, _ in unresolved}
        findings = unresolved + [
            (at["loc"], message_of(at["loc"], at)) for at in error.errors() if at["loc"] not in reported
        ]
        # pydantic checks the model as a whole only if every single value is valid.
        if all(each["type"] != CROSS_CHECK for each in error.errors()):
            findings += find_contradictions(_with_defaults(tables))
        problems = [places.problem(location, message) for location, message in findings]
        raise ConfigError(overrides.problems + problems) from None
    problems = overrides.problems + [places.problem(location, message) for location, message in unresolved]
    if problems:
        raise ConfigError(problems)
    secrets = [*_secrets(settings.model_dump()), url_password(settings.store.url)]
    return Loaded(settings, places.problem, any(secret in text for secret in secrets if secret)), tables


def _secrets(value: Any) -> Iterator[str]:
    """Yield the secrets in a table, or in a list of them."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _secrets(each)


def _with_defaults(tables: dict[str, Any]) -> dict[str, Any]:
    """Return the tables with the defaults that the checks between tables need."""
    defaults = Settings().model_dump()
    server = tables.get("server")
    return {
        **tables,
        "server": {**defaults["server"], **(server if isinstance(server, dict) else {})},
        "regions": tables.get("regions") or defaults["regions"],
    }


class _Places:
    """Where the values of a configuration come from: an environment variable, or a line of the file."""

    def __init__(self, path: Path | None, lines: dict[Location, int], origins: dict[Location, str]) -> None:
        self._path, self._lines, self._origins = path, lines, origins

    def problem(self, location: Location, message: str) -> Problem:
        """Return a problem with the value at a location. It names the variable that set it, if one did.

        The empty location is the file.
        """
        if not location:
            return Problem(str(self._path), message)
        for length in range(len(location), 0, -1):
            if name := self._origins.get(location[:length]):
                inner = format_path(location) if length < len(location) else ""
                return Problem(name, message, inner)
        line = nearest_line(location, self._lines)
        return Problem(format_path(location), message, f"{self._path}, line {line}" if line else "")


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


def find_lines(text: str) -> dict[Location, int]:
    """Return the line, from 1, of each table, item of an array of tables, and key in a valid TOML text.

    tomllib does not tell lines. Values inside inline tables and arrays are not found: they are on their key's
    line or below it.
    """
    lines: dict[Location, int] = {}
    counts: dict[Location, int] = {}  # of the items of each array of tables so far
    table: Location = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.fullmatch(line):
            table = _header_location(_split_path(header[2]), counts)
            if header[1] == "[[":
                counts[table] = counts.get(table, 0) + 1
                lines.setdefault(table, number)
                table = (*table, counts[table] - 1)
            lines.setdefault(table, number)
        elif entry := _ENTRY.match(line):
            lines.setdefault((*table, *_split_path(entry[1])), number)
    return lines


def nearest_line(location: Location, lines: dict[Location, int]) -> int | None:
    """Return the line of a value, or of the nearest table around it. None if the file has neither."""
    for length in range(len(location), 0, -1):
        if location[:length] in lines:
            return lines[location[:length]]
    return None


def _split_path(path: str) -> list[str]:
    return [key.strip("\"'") for key in re.findall(_KEY, path)]


def _header_location(keys: list[str], counts: dict[Location, int]) -> Location:
    """Return the location of a header. An array of tables on the way stands for its last item (TOML 1.0)."""
    location: Location = ()
    for depth, key in enumerate(keys):
        location = (*location, key)
        if depth < len(keys) - 1 and location in counts:
            location = (*location, counts[location] - 1)
    return location
