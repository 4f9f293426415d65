# SPDX-License-Identifier: BSD-2-Clause
"""What reads and checks the files that Patchbay is shipped with: programs, linters, schemas."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv-interop" / "shipping"


def tool(name: str) -> Path:
    """Return the path of a program in the environment that `make interop` makes for this."""
    path = TOOLS / "bin" / name
    if not path.exists():
        pytest.fail(f"there is no {path.relative_to(ROOT)}: `make interop` makes it and runs these tests")
    return path
