# SPDX-License-Identifier: BSD-2-Clause
"""Looking into the settings model: which keys a table has, what a list holds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.settings import Settings


def plain(annotation: Any) -> Any:
    """The type without its `Annotated` clothes and without `None`."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    if takes_none(annotation):
        return plain(next(each for each in get_args(annotation) if each is not type(None)))
    return annotation


def takes_none(annotation: Any) -> bool:
    """Whether the value may be None."""
    return type(None) in get_args(annotation)


def fields(annotation: Any) -> dict[str, FieldInfo] | None:
    """A table's keys; None where the type is no table."""
    model = plain(annotation)
    return dict(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else None


def item(annotation: Any) -> Any | None:
    """What a list holds; None where the type is no list."""
    bare = plain(annotation)
    return get_args(bare)[0] if get_origin(bare) is list else None


def at(location: Iterable[str | int]) -> Any | None:
    """The type at a path of keys and indexes; None where the model has none."""
    here: Any | None = Settings
    for step in location:
        if isinstance(step, int):
            here = item(here)
        else:
            field = (fields(here) or {}).get(step)
            here = field.annotation if field else None
        if here is None:
            return None
    return here


def suggestion(key: str, known: Iterable[str], prefix: str = "") -> str:
    """Words about a key that is not known: the nearest known one, or all there are.

    `prefix`: what is written before the suggested key.
    """
    names = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(key.lower(), names, n=1)
    if nearest:
        return f"did you mean {prefix}{names[nearest[0]]}?"
    return f"known are {', '.join(prefix + name for name in names.values())}"
