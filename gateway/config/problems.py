# SPDX-License-Identifier: BSD-2-Clause
"""The problems of a configuration: each with its place, in words that repeat no value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic_core import ErrorDetails

from gateway.config import model_fields
from gateway.config.consistency import Location


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a configuration.

    `place`: a path such as `agents[1].max_agents`, the name of an environment variable, or that of the file.
    `message`: words that complete the sentence "PLACE: …". `where`: more about the place, such as
    "patchbay.toml, line 12"; empty if nothing more is known.
    """

    place: str
    message: str
    where: str = ""

    def __str__(self) -> str:
        return (
            f"{self.place} ({self.where}): {self.message}" if self.where else f"{self.place}: {self.message}"
        )


class ConfigError(Exception):
    """Raised if a configuration cannot be used. `problems`: every problem that was found, at least one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def message_of(location: Location, error: ErrorDetails) -> str:
    """Return the message for one of pydantic's errors. `location`: the value's, from the root of Settings."""
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            known = model_fields.fields(model_fields.at(location[:-1])) or {}
            return f"is not a known key: {model_fields.suggestion(str(location[-1]), known)}"
        case "model_type" | "model_attributes_type":
            return "must be a table of keys and values"
        case "list_type":
            if model_fields.fields(model_fields.item(model_fields.at(location))) is not None:
                return f"must be a list of tables, each under a header [[{location[-1]}]]"
            return "must be a list"
    return error["msg"].removeprefix("Value error, ").replace("Input should", "must")
