# SPDX-License-Identifier: BSD-2-Clause
"""One target under atheris, in a process of its own: `python -m fuzz.one TARGET [libFuzzer's arguments]`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

INSTRUMENTED = ["gateway", "serializers", "websockets", "uvicorn"]
"""Packages whose branches guide the fuzzer."""

FRAMES = ("scanner", "accelerator")


def find(name: str) -> Callable[[bytes], None]:
    """The function that is given inputs."""
    found: Callable[[bytes], None]
    if name == "upgrade":
        found = importlib.import_module("fuzz.upgrade").ask
    elif name == "handshake":
        found = importlib.import_module("fuzz.handshake").judge
    elif name in FRAMES:
        module = importlib.import_module("fuzz.frame_scanner")
        found = module.scan if name == "scanner" else module.accelerate
    else:
        found = importlib.import_module("fuzz.dialects").target(name)
    return found


def main() -> None:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = find(sys.argv[1])
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
