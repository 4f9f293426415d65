# SPDX-License-Identifier: BSD-2-Clause
"""Introspection of the settings model: the keys of a table, the items of a list, a type by its path."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.settings import Settings


def plain(annotation: Any) -> Any:
    """Return a type without `Annotated` and without `None`."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    if takes_none(annotation):
        return plain(next(each for each in get_args(annotation) if each is not type(None)))
    return annotation


def takes_none(annotation: Any) -> bool:
    """Return True if a value of this type may be None."""
    return type(None) in get_args(annotation)


def fields(annotation: Any) -> dict[str, FieldInfo] | None:
    """Return the fields of a table by their keys. None if the type is no table."""
    model = plain(annotation)
    return dict(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else None


def item(annotation: Any) -> Any | None:
    """Return the type of a list's items. None if the type is no list."""
    bare = plain(annotation)
    return get_args(bare)[0] if get_origin(bare) is list else None


def is_table_of_texts(annotation: Any) -> bool:
    """Return True if the type is a table whose keys are the operator's own."""
    return get_origin(plain(annotation)) is dict


def at(location: Iterable[str | int]) -> Any | None:
    """Return the type of the value at a path of keys and indexes. None if the model has no such path."""
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
    """Return a hint about an unknown key: the nearest known key, or all of them.

    `prefix`: written in front of every suggested key.
    """
    names = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(key.lower(), names, n=1)
    if nearest:
        return f"did you mean {prefix}{names[nearest[0]]}?"
    return f"known are {', '.join(prefix + name for name in names.values())}"
