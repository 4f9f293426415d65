# SPDX-License-Identifier: BSD-2-Clause
"""One call of each carrier, for the tests of the dialects."""

from __future__ import annotations

import pytest

from serializers.events import Start
from tests.carriers.cases import CASES


@pytest.fixture
def calls() -> dict[str, Start]:
    """A call of each carrier, with all that the carrier's own `start` contains."""
    return {name: case.media.start for name, case in CASES.items()}
