# SPDX-License-Identifier: BSD-2-Clause
"""Answers with JSON texts of clients in them, which the gateway keeps and returns without parsing them."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from gateway.model.json_text import JsonText, dump_object


def stored_text(text: str | None) -> JsonText | None:
    """Return JSON text of the store; None for None."""
    return None if text is None else JsonText(text.encode())


def with_texts(model: BaseModel, texts: Mapping[str, JsonText | None]) -> JsonText:
    """Return a model as JSON, with the texts, where there are any, as the values of the members so named."""
    members = model.model_dump(mode="json", by_alias=True)
    members.update({name: text for name, text in texts.items() if text is not None})
    return dump_object(members)
