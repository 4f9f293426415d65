# SPDX-License-Identifier: BSD-2-Clause
"""The exit statuses of `patchbay serve`, for the processes that serve and for the one that watches them."""

from __future__ import annotations

from typing import Final

CANNOT_START: Final = 1
"""The certificate or the port cannot be used, or the gateway to replace is none."""

NOT_TAKEN_OVER: Final = 1
"""The gateway could not take the port over, and has left it again."""

STARTUP_FAILED: Final = 3
"""The worker cannot start for a cause that a restart would not remove, such as the store."""
