# SPDX-License-Identifier: BSD-2-Clause
"""Whether the relay's fast case runs in C or in Python, decided once, at import.

The C file is built where there is a compiler; everything works without it. `PATCHBAY_ACCELERATOR=off`
in the environment leaves it out, for comparison.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.fastpath.pump import Counters, EpollSet, Pump
else:
    from gateway.fastpath.pump import Counters, EpollSet, Pump

    if os.environ.get("PATCHBAY_ACCELERATOR", "on") != "off":
        with contextlib.suppress(ImportError):
            from gateway.fastpath._accelerator import Counters, EpollSet, Pump

ACTIVE: Final[bool] = Pump.__module__.endswith("_accelerator")
"""Whether plain frames skip Python."""

__all__ = ["ACTIVE", "Counters", "EpollSet", "Pump"]
