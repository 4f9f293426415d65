# SPDX-License-Identifier: BSD-2-Clause
"""Prints the rooms of the code and what is wrong between them: `python docs/rooms.py`.

Per room of docs/architecture.md its files and lines; then every circle of imports between modules, and every
import from a room into one above or beside it, by the layers of pyproject.toml. Imports count wherever they
stand: at the top, in a function, under `TYPE_CHECKING`. The exit status is 1 if there is a circle or such an
import, and no exception of pyproject.toml is granted.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "serializers", "texml")

Imports = Mapping[str, set[str]]
"""The modules that each module imports; both named with dots."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of all modules by their dotted names; a package is named without `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(source: str, known: Mapping[str, object]) -> set[str]:
    """Return the modules of `known` that a source text imports."""
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                imported.add(submodule if submodule in known else node.module)
    return imported & known.keys()


def import_graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return what each module imports of the others."""
    return {name: imports_of(path.read_text(), files) - {name} for name, path in files.items()}


def circles(graph: Imports) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan 1972), each sorted."""
    found: list[list[str]] = []
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for imported in graph[module]:
            if imported not in index:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], index[imported])
        if lowest[module] == index[module]:
            component = stack[stack.index(module) :]
            del stack[-len(component) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in graph:
        if module not in index:
            visit(module)
    return sorted(found)


def layers(root: Path = ROOT) -> dict[str, int]:
    """Return the rooms of pyproject.toml with their heights; rooms beside each other share one."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {
        room.strip(): height
        for height, row in enumerate(reversed(rows))
        for room in row.replace(":", "|").split("|")
    }


def room_of(module: str, heights: Mapping[str, int]) -> str | None:
    """Return the innermost room that holds the module; None if it is in none."""
    rooms = [room for room in heights if f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def upward_imports(graph: Imports, heights: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield each import, as (importing, imported), whose target is not in the same or a lower room."""
    for module, imported in sorted(graph.items()):
        room = room_of(module, heights)
        for target in sorted(imported):
            other = room_of(target, heights)
            if room and other and room != other and heights[other] >= heights[room]:
                yield module, target


def main() -> int:
    """Print the report; return the exit status."""
    files, heights = modules(), layers()
    graph = import_graph(files)
    print(f"{'room':34}{'files':>6}{'lines':>8}")
    for room in [*heights, None]:
        inside = [path for name, path in files.items() if room_of(name, heights) == room]
        if inside:
            lines = sum(len(path.read_text().splitlines()) for path in inside)
            print(f"{room or '(in no room)':34}{len(inside):6}{lines:8}")
    found = circles(graph)
    print(f"\n{len(found)} circles of imports, with {sum(map(len, found))} modules")
    for circle in found:
        print("  " + "\n    ".join(circle))
    upward = list(upward_imports(graph, heights))
    print(f"{len(upward)} imports of a room above or beside")
    for module, target in upward:
        print(f"  {module} -> {target}")
    return 1 if found or upward else 0


if __name__ == "__main__":
    sys.exit(main())
