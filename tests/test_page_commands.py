# SPDX-License-Identifier: BSD-2-Clause
"""The commands of README.md and of every page run as they are printed, and say what is shown below them.

tests/harness/pages.py has the marks that pages carry for this, tests/harness/page_session.py what no test
runs. What needs other people's software is run by `make interop` (tests/interop/test_page_commands.py).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.core
import typer.main

from gateway.cli import app
from tests.harness.page_session import NOT_RUN, PageSession, assert_as_printed, commands
from tests.harness.pages import PAGES, name_of, parts, read

WITH_COMMANDS = [
    page for page in PAGES if any(part.language == "sh" and not part.file for part in parts(page))
]

CODE = re.compile(r"`((?:\.venv/bin/)?patchbay [^`]+)`")

VALUES = {"PID": "1", "CARRIER": "twilio"}
"""What placeholders stand for, where a command reads more than a text."""

UsageError = typer.BadParameter.__bases__[0]  # typer does not export it
NEEDS_SETTINGS = {"xml", "setup"}
"""Commands of `patchbay` that do nothing without a configuration."""


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_the_commands_of_a_page_run_as_printed(page: Path, tmp_path: Path) -> None:
    assert_as_printed(PageSession(page, tmp_path))


def test_no_reason_is_given_for_a_command_that_no_page_has() -> None:
    printed = [
        " ".join(text.split())
        for page in PAGES
        for part in parts(page)
        if part.language == "sh"
        for _, text in commands(part.text)
    ]
    printed += [code for page in PAGES for code in CODE.findall(read(page))]
    unused = [left_out for left_out in NOT_RUN if not any(text.startswith(left_out) for text in printed)]
    assert not unused


def patchbay_lines(page: Path) -> list[str]:
    """The uses of `patchbay` on a page, in blocks and in the text, that say more than a command's name."""
    in_blocks = [
        re.sub(r"\\\n", " ", text)
        for part in parts(page)
        if part.language == "sh"
        for _, text in commands(part.text)
    ]
    lines = [*CODE.findall(read(page)), *(line for line in in_blocks if re.match(r"(\S*/)?patchbay ", line))]
    return [line.strip() for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_patchbay_command_has_the_options_that_it_needs(page: Path) -> None:
    for line in patchbay_lines(page):
        words = shlex.split(line.replace("…", ""), comments=True)[1:]
        try:
            parse(words)
        except UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


def parse(words: list[str]) -> None:
    """Parse a use of `patchbay` as its command line does, without running it. Raises UsageError."""
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="patchbay")
    while isinstance(command, typer.core.TyperGroup) and words:
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, found.context_class(found, parent=context, info_name=name)
    if not words:  # a command's name alone, as a sentence has it
        return
    assert "--config" in words or context.info_name not in NEEDS_SETTINGS, f"{words}: without --config"
    values = [VALUES.get(word, word) for word in words]
    command.make_context(context.info_name, values, parent=context.parent)
