# SPDX-License-Identifier: BSD-2-Clause
"""Names that a client chooses reach the log: neither their length nor their characters harm who reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from gateway.observability.log import MAX_TEXT_CHARACTERS, logging_as

log = structlog.get_logger(__name__)


def logged(capfd: pytest.CaptureFixture[str], log_format: str, **fields: Any) -> str:
    """Return what one line about `fields` looks like on standard error."""
    with structlog.contextvars.bound_contextvars():
        try:
            with logging_as(log_format, "info"):
                log.info("request", **fields)
        finally:
            structlog.reset_defaults()
    return capfd.readouterr().err


def test_a_very_long_name_is_cut_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    line = json.loads(logged(capfd, "json", agent="a" * 60_000, call_id="b" * MAX_TEXT_CHARACTERS))
    assert line["agent"] == "a" * MAX_TEXT_CHARACTERS + "… (60000 characters)"
    assert line["call_id"] == "b" * MAX_TEXT_CHARACTERS


def test_a_queued_line_holds_no_very_long_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the log: what waits to be written is bounded in bytes, not in lines alone."""
    queued: list[Any] = []
    monkeypatch.setattr("queue.Queue.put_nowait", lambda _, record: queued.append(record))
    try:
        with logging_as("json", "info"):
            log.info("request", agent="a" * 60_000)
    finally:
        structlog.reset_defaults()
    texts = [record.msg["agent"] for record in queued if isinstance(record.msg, dict)]
    assert texts == ["a" * MAX_TEXT_CHARACTERS + "… (60000 characters)"]


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x9b", "\u2028", "\u202e"])
def test_no_character_of_a_name_moves_the_cursor_or_breaks_the_line(
    capfd: pytest.CaptureFixture[str], log_format: str, character: str
) -> None:
    text = logged(capfd, log_format, session=f"one{character}two", words="Grüße")
    assert f"one{character}two" not in text
    assert text.count("\n") == 1
    assert "Grüße" in text


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("character", ["\r", "\x1b", "\x9b", "\u2028", "\u202e"])
def test_no_character_in_a_traceback_moves_the_cursor(
    capfd: pytest.CaptureFixture[str], log_format: str, character: str
) -> None:
    def fails() -> None:
        raise ValueError(f"one{character}two")

    try:
        fails()
    except ValueError as error:
        text = logged(capfd, log_format, exc_info=error)
    assert f"one{character}" not in text  # the console's own colours are escapes, too
    assert "one" in text
    assert "in fails" in text
    if log_format == "console":
        assert text.count("\n") > 3  # still a traceback with a line for each frame


def test_a_traceback_stays_whole_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    cause = "c" * (2 * MAX_TEXT_CHARACTERS)
    line = json.loads(logged(capfd, "json", exc_info=ValueError(cause)))
    assert cause in line["exception"]
