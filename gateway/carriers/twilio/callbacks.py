# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's status callbacks, for calls and for streams (docs/reference/carriers.md §2.4, §2.6)."""

from __future__ import annotations

from gateway.carriers.callback_event import (
    CallbackEvent,
    CallbackRequest,
    form_or_json_fields,
    read_twilio_form,
)


def read_callback(request: CallbackRequest) -> CallbackEvent:
    """Read a callback, whose body may be JSON. Raises ValueError if that is no object with fields."""
    return read_twilio_form(form_or_json_fields(request), is_for_stream=request.is_for_stream)
