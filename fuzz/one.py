# SPDX-License-Identifier: BSD-2-Clause
"""One target under atheris, in a process of its own: `python -m fuzz.one TARGET [libFuzzer's arguments]`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

INSTRUMENTED = ["gateway", "serializers", "websockets", "uvicorn"]
"""Packages whose branches guide the fuzzer."""

FRAMES = ("scanner", "accelerator")


def target_function(name: str) -> Callable[[bytes], None]:
    """Return the function that a target gives its inputs to."""
    target: Callable[[bytes], None]
    if name == "upgrade":
        target = importlib.import_module("fuzz.upgrade").send_request
    elif name == "handshake":
        target = importlib.import_module("fuzz.handshake").read
    elif name == "translation":
        target = importlib.import_module("fuzz.translation").translate
    elif name in FRAMES:
        module = importlib.import_module("fuzz.frame_scanner")
        target = module.scan if name == "scanner" else module.accelerate
    else:
        target = importlib.import_module("fuzz.dialects").target(name)
    return target


def main() -> None:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = target_function(sys.argv[1])
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
