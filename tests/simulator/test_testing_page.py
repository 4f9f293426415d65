# SPDX-License-Identifier: BSD-2-Clause
"""The examples of docs/testing.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from gateway.simulator.free_ports import LOOPBACK, free_port
from gateway.simulator.server_process import PATCHBAY, ServerProcess, answers
from gateway.simulator.waiting import WAIT_S

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLE = re.compile(r"<!-- file: (\w+\.py) -->\n```python\n(.*?)```", re.DOTALL)


def test_every_example_passes(tmp_path: Path) -> None:
    examples = dict(EXAMPLE.findall(PAGE.read_text()))
    assert set(examples) == {"test_my_bot.py", "test_no_bot.py"}
    for name, text in examples.items():
        (tmp_path / name).write_text(text)
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    with ServerProcess("the bot", [*PATCHBAY, "agent", "--port", str(port)], tmp_path / "bot.log") as bot:
        bot.wait_until_ready(lambda: answers(f"{url}/readyz"))
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
            cwd=tmp_path,
            env={**os.environ, "BOT_URL": url},
            capture_output=True,
            text=True,
            timeout=WAIT_S * 3,
            check=False,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
