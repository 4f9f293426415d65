# SPDX-License-Identifier: BSD-2-Clause
"""docs/configuration.md is what the settings model generates, and its example works."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

from gateway.config import Settings
from gateway.config.reference_page import EXAMPLE, document

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), (
        "run: python -m gateway.config.reference_page > " + str(PAGE)
    )


def test_every_key_is_described() -> None:
    page = document()
    for name, inner in Settings.model_json_schema()["$defs"].items():
        for key, field in inner["properties"].items():
            assert field.get("description"), f"{name}.{key}"
            assert f"| `{key}` |" in page


def test_the_example_works(read: Callable[..., Settings]) -> None:
    named = re.findall(r'"env:(\w+)"', EXAMPLE)
    special = {"ACME_PRIVATE_KEY": "sk_a", "TELNYX_PUBLIC_KEY": base64.b64encode(bytes(32)).decode()}
    settings = read(EXAMPLE, dict.fromkeys(named, "a-key") | special)
    assert [agent.service_host for agent in settings.agents] == ["support.acme", "reception.acme"]
