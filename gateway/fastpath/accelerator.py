# SPDX-License-Identifier: BSD-2-Clause
"""Selects the C or the Python implementation of the relay's fast case, once, at import.

The C module is built if there is a compiler; everything works without it. It is not used if the environment
has `PATCHBAY_ACCELERATOR=off`, for comparison, or if it was built from another version of this code.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

INTERFACE: Final = 3
"""The version of the C module's interface; a change of its names or arguments increases it in both files."""

if TYPE_CHECKING:
    from gateway.fastpath.pump import Counters, EpollSet, Pump
else:
    from gateway.fastpath.pump import Counters, EpollSet, Pump

    if os.environ.get("PATCHBAY_ACCELERATOR", "on") != "off":
        with contextlib.suppress(ImportError):
            from gateway.fastpath import _accelerator

            if getattr(_accelerator, "INTERFACE", None) == INTERFACE:
                from gateway.fastpath._accelerator import Counters, EpollSet, Pump

ACTIVE: Final[bool] = Pump.__module__.endswith("_accelerator")
"""Whether the C implementation is in use."""

__all__ = ["ACTIVE", "Counters", "EpollSet", "Pump"]
