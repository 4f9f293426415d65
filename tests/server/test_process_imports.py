# SPDX-License-Identifier: BSD-2-Clause
"""What the processes of a gateway load: each only what it needs, so that it starts soon."""

from __future__ import annotations

import subprocess
import sys

SERVING = {"gateway.app", "gateway.calls.inbound", "gateway.media.relay", "aiohttp", "starlette", "uvicorn"}
"""What a process needs that serves calls."""

CERTIFICATES = "cryptography.x509"
"""What it needs where the port speaks TLS."""


def loaded_by(lines: str) -> set[str]:
    """Return the modules that a fresh Python has loaded after these lines."""
    program = f"{lines}\nimport sys; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(answer.stdout.split())


def test_the_parent_of_workers_loads_nothing_that_serves() -> None:
    loaded = loaded_by(
        "import gateway.cli, gateway.audio.prompt, gateway.config.loading\n"
        "import gateway.server.preflight, gateway.server.serve"
    )
    assert "gateway.server.worker_processes" in loaded
    assert not (SERVING | {CERTIFICATES}) & loaded


def test_a_worker_process_loads_no_command_line() -> None:
    """It imports the main module of its parent once more (multiprocessing, "spawn")."""
    loaded = loaded_by("import runpy; runpy.run_module('gateway.__main__', run_name='__mp_main__')")
    assert "gateway" in loaded
    assert not {"gateway.cli", "typer", "asyncio"} & loaded


def test_a_worker_has_loaded_what_a_call_needs_before_the_first_one() -> None:
    loaded = loaded_by("import gateway.server.worker")
    assert loaded >= SERVING
    assert CERTIFICATES not in loaded
