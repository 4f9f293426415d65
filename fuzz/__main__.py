# SPDX-License-Identifier: BSD-2-Clause
"""Fuzz every target for a share of FUZZ_SECONDS: `python -m fuzz [TARGET …]`.

It begins with the committed corpus, which stays unchanged. An input that breaks something is saved in
fuzz/found/ and the exit status is 1; `python -m fuzz.one TARGET FILE` repeats it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.one import FRAMES
from fuzz.seeds import CARRIERS, CORPUS
from gateway.fastpath import accelerator

FOUND = CORPUS.parent / "found"
SECONDS = 60.0
"""For all targets together, unless FUZZ_SECONDS is set."""

MAX_INPUT_BYTES = 4096
SLOW_INPUT_S = 10
"""An input that takes longer counts as a failure."""

MAX_MEMORY_MIB = 2048
START_TIMEOUT_S = 60
"""The time that a target may take beyond its share before it counts as hanging."""


def targets() -> list[str]:
    """Return the targets that can be fuzzed here: the accelerator only if it was built."""
    frames = [name for name in FRAMES if name != "accelerator" or accelerator.ACTIVE]
    return ["upgrade", "handshake", *frames, *CARRIERS, "translation"]


def fuzz(target: str, seconds: float) -> bool:
    """Fuzz one target. Return True if nothing broke."""
    seeds = CORPUS / ("frames" if target in FRAMES else target)
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as grown:
        ran = subprocess.run(  # noqa: S603 - ourselves
            [
                sys.executable,
                "-m",
                "fuzz.one",
                target,
                f"-max_total_time={max(1, round(seconds))}",
                f"-max_len={MAX_INPUT_BYTES}",
                f"-timeout={SLOW_INPUT_S}",
                f"-rss_limit_mb={MAX_MEMORY_MIB}",
                f"-artifact_prefix={FOUND}/{target}-",
                "-print_final_stats=1",
                "-verbosity=0",
                grown,
                str(seeds),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + START_TIMEOUT_S,
            check=False,
        )
    output = ran.stdout + ran.stderr
    stats = dict(
        line.removeprefix("stat::").split(":", 1) for line in output.splitlines() if line.startswith("stat::")
    )
    inputs = stats.get("number_of_executed_units", "?").strip()
    print(f"{target:12} {inputs:>9} inputs  {'passed' if ran.returncode == 0 else 'BROKE'}", flush=True)
    if ran.returncode != 0:
        print(output[-4000:], file=sys.stderr)
    return ran.returncode == 0


def main() -> int:
    if importlib.util.find_spec("atheris") is None:
        print("atheris is missing; `make fuzz` installs it, on Linux", file=sys.stderr)
        return 2
    chosen = sys.argv[1:] or targets()
    seconds = float(os.environ.get("FUZZ_SECONDS", SECONDS)) / len(chosen)
    passed = [fuzz(target, seconds) for target in chosen]
    if FOUND.exists() and not any(FOUND.iterdir()):
        FOUND.rmdir()
    if not all(passed):
        print(f"what broke it is in {Path(os.path.relpath(FOUND))}", file=sys.stderr)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
