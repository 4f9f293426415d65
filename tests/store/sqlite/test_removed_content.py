# SPDX-License-Identifier: BSD-2-Clause
"""What is removed from the store is no longer in its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.model.session import CallDetails, SessionResult, SlotLimits

NUMBER = "+15551239876"
SENTENCE = "my mother's maiden name is Rossi"


def holds(file: Path) -> list[bool]:
    content = file.read_bytes()
    return [NUMBER.encode() in content, SENTENCE.encode() in content]


async def test_numbers_and_transcripts_leave_no_trace_in_the_file(
    file: Path,
    open_worker: Callable[..., Any],
    new_call: Callable[..., CallDetails],
    many_slots: SlotLimits,
    hung_up: SessionResult,
) -> None:
    store = await open_worker()
    for number in range(30):
        call = new_call(from_number=NUMBER)
        await store.admit(call, many_slots, 1000.0)
        transcript = f'[{{"text": "{number} {SENTENCE}"}}]' + " " * 300 * number  # also of many pages
        await store.complete(call.session_id, transcript, None, None, 1010.0)
        await store.end(call.session_id, hung_up)
    await store.close()
    assert holds(file) == [True, True]

    store = await open_worker()
    assert (await store.history.prune(5000.0, 0.0, 100)).sessions == 30
    await store.close()
    assert not file.with_name("patchbay.db-wal").exists()
    assert holds(file) == [False, False]
