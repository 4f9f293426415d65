# SPDX-License-Identifier: BSD-2-Clause
"""Whether the relay's fast case runs in C or in Python, decided once, at import.

The C file is built where there is a compiler; everything works without it. `PATCHBAY_ACCELERATOR=off`
in the environment leaves it out, for comparison.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final


class PlainCounters:
    """What the fast case and the walker share (see _accelerator.c)."""

    __slots__ = ("bytes", "frames", "left", "look_below", "masked", "max_payload", "simple")

    left: int
    frames: int
    bytes: int
    max_payload: int
    look_below: int
    masked: bool
    simple: bool


if TYPE_CHECKING:
    from gateway.media._accelerator import Counters, Pump, Sources
else:
    Pump = Sources = None
    Counters = PlainCounters
    if os.environ.get("PATCHBAY_ACCELERATOR", "on") != "off":
        with contextlib.suppress(ImportError):
            from gateway.media._accelerator import Counters, Pump, Sources

ACTIVE: Final[bool] = Pump is not None
"""Whether plain frames skip Python."""

__all__ = ["ACTIVE", "Counters", "Pump", "Sources"]
