# SPDX-License-Identifier: BSD-2-Clause
"""The pages' commands that need other people's software: Pipecat's CLI and SDK, a bot on Pipecat."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.page_session import PageSession, assert_as_printed
from tests.harness.pages import PAGES, name_of, parts

WITH_INTEROP = [page for page in PAGES if any(part.where == "interop" for part in parts(page))]


@pytest.mark.parametrize("page", WITH_INTEROP, ids=name_of)
def test_the_commands_of_a_page_run_as_printed(page: Path, tmp_path: Path, interop_python: Path) -> None:
    assert_as_printed(PageSession(page, tmp_path, interop=interop_python.parent))
