# SPDX-License-Identifier: BSD-2-Clause
"""Retired words stay out of the code's names, and docstrings begin with a subject or a verb.

The words of the house are in docs/architecture.md, "Words". A retired word is one that an earlier version of
the code used for a thing that has a name in the field.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "serializers", "texml")

# The field's term instead, behind each word.
RETIRED = {
    "switchboard": "call services, active calls, dispatcher",
    "coupled": "bridge",
    "couple": "bridge",
    "couples": "bridge",
    "uncoupling": "teardown",
    "fate": "termination",
    "wish": "command, request",
    "wishes": "commands",
    "passage": "session socket",
    "doorman": "connection limits",
    "door": "HTTP protocol",
    "walker": "frame scanner",
    "farewell": "hang-up after playback",
    "lane": "route",
    "alarm": "timer",
    "trust": "circuit breaker",
    "standing": "circuit state",
    "habits": "profile",
    "prove": "authenticate",
    "proves": "authenticates",
    "proven": "authenticated",
    "proof": "authentication",
    "proofs": "authentication",
    "callbook": "call log",
    "standin": "failover store",
    "owe": "deferred, durable",
    "owed": "pending writes",
    "adopt": "attach",
    "adopted": "attached",
    "abandon": "end if unattached",
    "abandoned": "ended",
    "facts": "call details",
    "extras": "session options",
    "outcome": "session result",
    "kernel": "dispatch",
    "refusal": "error",
    "refusals": "errors",
    "stranger": "client without a valid key",
    "strangers": "clients without a valid key",
    "told": "sent, reported",
    "said": "sent, reported",
    "heard": "received",
    "asked": "request",
    "wanted": "requested",
    "shown": "credentials",
    "uncouple": "tear down",
    "handover": "remote call",
    "reconnection": "carrier reconnect",
    "resumption": "agent failover",
    "happening": "handler",
    "board": "call services",
    "kept": "stored, buffered",
    "mine": "a noun",
    "begun": "started",
    "lend": "detach",
    "mend": "complete, repair",
    "hear": "receive",
    "tell": "send",
    "owes": "pending writes",
}

BEGINNINGS = re.compile(r"(What|Who|Whoever|Nobody|So many|Whether that|That)\b(?!ever)")
"""How no docstring begins: none of these is a subject that a reader knows."""


NOT_IMPERATIVE = re.compile(
    r"(The|A|An|One|All|Every|How|From|Has|Is|As|Only|When|Where|There|To|In|On|Of|Its?|This|Same"
    r"|[A-Z][a-z]+(?<![sux])s(?<!Process)(?<!Pass)(?<!Compress)(?<!Express)(?<!Address))\b"
)
"""How no function's docstring begins: a noun phrase, or a verb in the third person."""


def files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


PUBLIC_NAMES = frozenset({"heard_ms"})
"""Fields of the API and of the store with a retired word."""


def words_of(name: str) -> list[str]:
    """Return the words of an identifier: split at underscores and before capitals, in lower case."""
    if name in PUBLIC_NAMES:
        return []
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def retired_names(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (word, "FILE:LINE NAME") for each identifier with a retired word."""
    with path.open("rb") as source:
        tokens = list(tokenize.tokenize(source.readline))
        for token, following in pairwise(tokens):
            is_log_field = following.string == "=" and following.start == token.end  # fields are public names
            if token.type == tokenize.NAME and not is_log_field:
                for word in words_of(token.string):
                    if word in RETIRED:
                        yield word, f"{path.relative_to(ROOT)}:{token.start[0]} {token.string}"


@cache
def all_retired_names() -> tuple[tuple[str, str], ...]:
    """Return what `retired_names` yields for every file; read by the tests, not by every collection."""
    return tuple(found for path in files() for found in retired_names(path))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, those behind an attribute included."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


@pytest.mark.parametrize("word", sorted(RETIRED))
def test_a_retired_word_does_not_return(word: str) -> None:
    places = [place for found, place in all_retired_names() if found == word]
    assert not places, f"say {RETIRED[word]!r} instead of {word!r}: {places}"


def test_docstrings_begin_with_a_verb_or_a_subject() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{line} {text.strip().splitlines()[0]}"
        for path in files()
        for line, text in docstrings(path)
        if BEGINNINGS.match(text)
    ]
    assert not bad, "\n".join(bad)


def test_docstrings_of_functions_begin_in_the_imperative() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{node.lineno} {text.splitlines()[0]}"
        for path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "__init__"
        if not any("property" in ast.dump(decorator) for decorator in node.decorator_list)
        if (text := ast.get_docstring(node)) and NOT_IMPERATIVE.match(text)
    ]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("_assert_toldYou", ["assert", "told", "you"]),
        ("HTTPDoorman", ["http", "doorman"]),
        ("MOST_OWED", ["most", "owed"]),
        ("retold", ["retold"]),
    ],
)
def test_words_of_a_name(name: str, words: list[str]) -> None:
    assert words_of(name) == words
