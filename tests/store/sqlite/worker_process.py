# SPDX-License-Identifier: BSD-2-Clause
"""A worker in a process of its own: it reads commands as lines of JSON and answers each with a line.

`python worker_process.py OWNER_ID [HOST]`; with HOST it claims to be on that machine.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.store.interface import AtCapacity, StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

NOW = 1000.0
BUSY_S = 30.0
"""However long another process has the file for itself, it is waited for."""


class Worker:
    def __init__(self, owner: WorkerId) -> None:
        self.owner = owner
        self.store: SqliteStore
        self.running: dict[str, str] = {}  # instance by session

    async def open(self, path: str) -> str:
        self.store = SqliteStore(Path(path), self.owner, busy_s=BUSY_S)
        await self.store.open()
        return "open"

    async def close(self) -> str:
        await self.store.close()
        return "closed"

    async def arrive(self, calls: int, instances: int, per_instance: int, max_instances: int) -> Any:
        """So many calls at once; answers the instances of those admitted, and how many were refused."""
        urls = tuple((f"http://127.0.0.1:{8000 + n}", 0) for n in range(instances))
        limits = SlotLimits(urls, per_instance, max_instances)
        admitted = [
            given for given in await asyncio.gather(*(self._call(limits) for _ in range(calls))) if given
        ]
        return {"admitted": admitted, "refused": calls - len(admitted)}

    async def hang_up(self) -> int:
        """Ends all; answers how many."""
        result = SessionResult(
            SessionState.ENDED, NOW, "caller_hangup", Party.CALLER, "", 1000, Traffic(), None
        )
        await asyncio.gather(*(self.store.end(session_id, result) for session_id in self.running))
        ended = len(self.running)
        self.running.clear()
        return ended

    async def take(self, session_id: str, instance: str) -> str:
        """The call of a session whose id was given out; answers its instance, or why not."""
        details = CallDetails(
            session_id, "support.acme", "acme", "us-west", "generic", None, None, None, None
        )
        try:
            self.running[session_id] = await self.store.admit(
                details, SlotLimits(((instance, 0),), 9, 1), NOW
            )
        except StoreFailed as failure:
            return type(failure).__name__
        return self.running[session_id]

    async def stop(self, session_id: str) -> bool:
        return await self.store.request_stop(session_id, NOW)

    async def use_up(self, keys: list[str]) -> list[bool]:
        """Whether it was the first to write each document, all tried at once."""
        documents = self.store.key_values
        return await asyncio.gather(
            *(documents.put_if_absent("nonce", key, "1", now=NOW, expires_at=NOW + 1) for key in keys)
        )

    async def heartbeat(self, now: float) -> float:
        await self.store.heartbeat(now)
        return now

    async def _call(self, limits: SlotLimits) -> str | None:
        session_id = str(uuid.uuid4())
        details = CallDetails(session_id, "support.acme", "acme", "us-west", "plivo", None, None, None, None)
        try:
            self.running[session_id] = await self.store.admit(details, limits, NOW)
        except AtCapacity:
            return None
        await self.store.mark_running(session_id, NOW)
        return self.running[session_id]


async def main() -> None:
    owner = WorkerId.of_this_process(sys.argv[1])
    if sys.argv[2]:
        owner = dataclasses.replace(owner, host=sys.argv[2])
    worker = Worker(owner)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        answer = await getattr(worker, command.pop("command"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
