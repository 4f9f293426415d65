# SPDX-License-Identifier: BSD-2-Clause
"""The runbook's page has every event that the gateway logs, and none that it does not log.

Events are read from the code: the texts that are passed to a logger, or to a function that logs what it gets.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from gateway.store.sqlite import file_guard

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LOGGER = re.compile(r"(log|line|getLogger)$")
PASSED_ON = {"log_end": 1, "log_at": 2, "log_unchanged": 0, "_log": 1}
"""Functions that log an event that they are given, and which argument it is."""

CHECKED = {file_guard.MADE_PRIVATE, file_guard.NOT_PRIVATE}
"""Events that a check returns, and its caller logs (gateway/store/sqlite/writer.py)."""


def name_of(node: ast.expr) -> str:
    """The last name in an expression: of `self._log` and `x.bind(…)` the logger's, and the method's."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case ast.Call(func=function):
            return name_of(function)
    return ""


def texts_of(node: ast.expr, named: dict[str, set[str]]) -> set[str]:
    """The texts that an expression can be. `named`: by variable."""
    match node:
        case ast.Constant(value=str(text)) if text:
            return {text.replace("%d", "…")}
        case ast.IfExp(body=body, orelse=orelse):
            return texts_of(body, named) | texts_of(orelse, named)
        case ast.Name(id=name):
            return named.get(name, set())
    return set()


def variables(tree: ast.Module) -> dict[str, set[str]]:
    """The texts that are assigned in a module, by variable."""
    named: dict[str, set[str]] = {}
    for _ in range(2):  # a variable may be assigned from another
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    named.setdefault(name, set()).update(texts_of(value, named))
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    named.setdefault(name, set()).update(texts_of(value, named))
    return named


def logged_by(call: ast.Call) -> ast.expr | None:
    """The event in a call, if it is one that logs."""
    match call.func:
        case ast.Attribute(value=receiver, attr=level) if level in LEVELS and LOGGER.search(
            name_of(receiver)
        ):
            return call.args[0]
    at = PASSED_ON.get(name_of(call.func))
    return call.args[at] if at is not None and len(call.args) > at else None


def events(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    named = variables(tree)
    passing = {
        inner
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name in PASSED_ON
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or node in passing or (event := logged_by(node)) is None:
            continue
        found = texts_of(event, named)
        is_checked = file.name == "writer.py" and name_of(event) == "event"
        assert found or is_checked, f"{file}:{node.lineno}: which event is this?"
        yield from found


def all_events() -> set[str]:
    files = [file for file in (ROOT / "gateway").rglob("*.py") if "simulator" not in file.parts]
    return CHECKED | {event for file in files for event in events(file)}


def documented() -> set[str]:
    """The events of the page: first cells of the tables of lines, the row `event`, the examples."""
    page = PAGE.read_text(encoding="utf-8")
    found = set(re.findall(r'"event": "([^"]+)"', page))
    for row in re.findall(r"^\| `event` \| (.*) \|$", page, re.MULTILINE):
        found |= set(re.findall(r"`([^`]+)`: ", row))
    for table in re.findall(r"^\| Line \|.*\n\| --- .*\n((?:\|.*\n)+)", page, re.MULTILINE):
        for row in table.splitlines():
            found |= set(re.findall(r"`([^`]+)`", row.split(" | ")[0]))
    return found


def test_every_event_is_in_the_runbooks_page() -> None:
    assert sorted(all_events() - documented()) == []


def test_the_runbooks_page_has_no_event_that_is_never_logged() -> None:
    assert sorted(documented() - all_events()) == []
