# SPDX-License-Identifier: BSD-2-Clause
"""Machines that are cut off from each other and not from their carriers, in a network namespace."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.simulator.waiting import WAIT_S
from tests.faults.conftest import ROWS
from tests.faults.report_page import Row

NAMESPACE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]
"""The command that runs a program where the network, and what it signals, is its own."""

ROOT = Path(__file__).parents[2]


def test_two_machines_are_cut_off_while_one_passes_on_the_other_s_socket(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Both find out within five seconds. The carrier dials again; commands go through the store."""
    if not shutil.which("ip") or subprocess.run([*NAMESPACE, "true"], check=False).returncode:
        pytest.skip("network namespaces of one's own are not allowed here, or there is no iproute2")
    program = [*NAMESPACE, sys.executable, "-m", "tests.faults.cut_off", str(tmp_path)]
    finished = subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S * 4, check=False
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    told = json.loads(finished.stdout.splitlines()[-1])
    assert (told["code"], told["side"], told["last"]) == (1006, "gateway", 101)
    assert len(told["silent"]) == 1, "one line says which machine does not answer"
    request.config.stash[ROWS].append(
        Row(
            "Gateway",
            "two machines are cut off from each other, and one passes on the socket of the other's call",
            "sound, then 1006; sound again on the third socket",
            told["gap_ms"],
            "`stopped` (gateway), through the store",
            0,
            "-",
            "works",
        )
    )
