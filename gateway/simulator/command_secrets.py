# SPDX-License-Identifier: BSD-2-Clause
"""Arguments of commands that name a secret instead of containing it: every user of a machine sees the
arguments of every process (ps(1)).
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

FORMS = "env:NAME, file:PATH or - (standard input)"

MAX_CHARACTERS = 8192


def is_reference(argument: str) -> bool:
    """Return True if the argument is in one of the forms, and not the text itself."""
    return argument == "-" or argument.startswith(("env:", "file:"))


def read_reference(argument: str, what: str) -> str:
    """Return the text that an argument stands for. `what`: names it in messages. Raises ValueError."""
    if argument == "-":
        text = getpass.getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline()
    elif name := argument.removeprefix("env:") if argument.startswith("env:") else "":
        if name not in os.environ:
            raise ValueError(f"{what}: the environment variable {name} is not set")
        text = os.environ[name]
    else:
        path = Path(argument.removeprefix("file:"))
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{what}: {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{what}: {path} is no text") from None
    text = text.strip()
    if not text or len(text) > MAX_CHARACTERS:
        raise ValueError(f"{what}: {'nothing' if not text else 'more than a secret'} is there")
    return text


def read_secret(argument: str, what: str) -> str:
    """Return a secret. The argument must not be the secret itself. Raises ValueError."""
    if not is_reference(argument):
        raise ValueError(f"{what} is given as {FORMS}: the arguments of a process are no secret")
    return read_reference(argument, what)
