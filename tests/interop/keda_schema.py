# SPDX-License-Identifier: BSD-2-Clause
"""Check KEDA's resources, JSON on standard input, against the models of its release; print what is wrong.

It runs in the environment of tests/interop/shipping.lock.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication  # type: ignore[import-not-found]

MODELS = {"ScaledObject": ScaledObject, "TriggerAuthentication": TriggerAuthentication}


def unknown(given: Any, read: Any, where: str) -> Iterator[str]:
    """Yield the places of what was given and not read: the models ignore what they do not know."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(read, dict) or key not in read:
                yield f"{where}.{key} is not known"
            else:
                yield from unknown(value, read[key], f"{where}.{key}")
    elif isinstance(given, list):
        for number, value in enumerate(given):
            yield from unknown(value, read[number], f"{where}[{number}]")


for resource in json.load(sys.stdin):
    checked = MODELS[resource["kind"]].model_validate(resource)
    as_read = checked.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for line in unknown(resource, as_read, resource["kind"]):
        print(line)
