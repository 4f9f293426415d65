# SPDX-License-Identifier: BSD-2-Clause
"""`patchbay call` and `patchbay agent` as the processes people start, and the picture that the demo draws."""

from __future__ import annotations

import asyncio
import errno
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.commands import Carrier, _carrier_of
from gateway.simulator.fake_carrier import place_call
from gateway.simulator.free_ports import free_port
from gateway.simulator.server_process import PATCHBAY, ServerProcess, StartError, answers
from gateway.simulator.waiting import WAIT_S
from gateway.simulator.wav import Recording, read_wav, write_wav


async def run(*arguments: str) -> tuple[int | None, str]:
    """The command's exit status and everything it said."""
    process = await asyncio.create_subprocess_exec(
        *PATCHBAY,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), WAIT_S * 2)
    return process.returncode, said.decode()


async def test_two_calls_to_the_agent(tmp_path: Path, word: Recording) -> None:
    write_wav(tmp_path / "word.wav", word.pcm, word.sample_rate)
    port = free_port()
    command = [*PATCHBAY, "agent", "--port", str(port), "--sessions", "2", "--delay", "0.1", "--no-greeting"]
    async with ServerProcess("the agent", command, tmp_path / "agent.log") as agent:
        await agent.ready(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        options = ["--carrier", "exotel", "--calls", "2", "--wav", str(tmp_path / "word.wav")]
        status, said = await run(
            "call", f"ws://127.0.0.1:{port}/ws", *options, "--out", str(tmp_path / "reply.wav")
        )
    assert status == 0, said
    assert "2 good, 0 bad" in said
    for name in ("reply-1.wav", "reply-2.wav"):
        assert read_wav(tmp_path / name).seconds > 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_demonstration_that_is_told_to_stop_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    """SIGHUP is what a terminal sends that is closed; to the gateway alone it is no reason to end."""
    process = await asyncio.create_subprocess_exec(
        *PATCHBAY,
        "demo",
        "--out",
        str(tmp_path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    first = (await asyncio.wait_for(process.stdout.readline(), WAIT_S * 2)).decode()
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", first)]
    assert len(ports) == 2, first
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), WAIT_S * 2)
    assert process.returncode == 1
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


async def test_a_call_that_is_refused_fails_in_words(tmp_path: Path) -> None:
    status, said = await run("call", f"ws://127.0.0.1:{free_port()}", "--carrier", "plivo")
    assert status == 1
    assert "plivo: could not connect: Connection refused" in said


@pytest.mark.parametrize(
    ("url", "carrier"),
    [
        ("ws://127.0.0.1:1/ws/exotel?serviceHost=support.acme", Carrier.EXOTEL),
        ("wss://plivo.example.com/ws/telnyx/support.acme", Carrier.TELNYX),
        ("https://voice.example.com/xml/plivo", Carrier.PLIVO),
        ("wss://plivo.example.com/ws/generic", Carrier.TWILIO),
        ("ws://127.0.0.1:7860", Carrier.TWILIO),
        ("env:PLIVO_URL", Carrier.TWILIO),
    ],
)
def test_a_url_names_the_carrier(url: str, carrier: Carrier) -> None:
    assert _carrier_of(url) is carrier


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        (["--wav", __file__], "is no WAV file"),
        (["--digits", "12x"], "no telephone has the keys x"),
    ],
)
async def test_a_call_that_cannot_be_made_fails_in_words(options: list[str], detail: str) -> None:
    status, said = await run("call", "ws://127.0.0.1:1", *options)
    assert status == 1
    assert detail in said


async def test_a_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    command = [*PATCHBAY, "agent", "--no-such-option"]
    with pytest.raises(StartError, match=r"(?s)the agent ended with status .*its log ends.*no-such-option"):
        async with ServerProcess("the agent", command, tmp_path / "log") as agent:
            await agent.ready(lambda: False)


async def test_the_picture_of_a_call(
    tmp_path: Path, agent: Callable[..., Any], plan: Callable[..., Any]
) -> None:
    pytest.importorskip("matplotlib")
    from gateway.simulator.picture import draw_call  # noqa: PLC0415 - optional, and slow to import

    async with agent() as host:
        report = await place_call(plan(f"ws://{host}/ws", "twilio", answer_wait=5.0, digits="1*"))
    draw_call(report, tmp_path / "twilio.png")
    assert (tmp_path / "twilio.png").read_bytes().startswith(b"\x89PNG")
