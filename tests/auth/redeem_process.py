# SPDX-License-Identifier: BSD-2-Clause
"""A worker in a process of its own that redeems media tokens.

`python redeem_process.py FILE` opens the store in FILE and prints "ready". It then reads a JSON list of
tokens from stdin, redeems all of them at once, and prints a JSON list: the session of each token, or why it
was rejected.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from gateway.auth.media_tokens import MediaTokens, TokenRejected, load_secret
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

NOW = 1000.0
BUSY_S = 30.0


async def main() -> None:
    store = SqliteStore(Path(sys.argv[1]), WorkerId.of_this_process("another"), busy_s=BUSY_S)
    await store.open()
    tokens = MediaTokens(await load_secret(store, lambda: NOW), store, lambda: NOW)

    async def redeem(token: str) -> str:
        try:
            claims = tokens.read(token, "support.acme", "acme")
            await tokens.use(claims)
            return claims.session_id
        except TokenRejected as rejected:
            return rejected.reason

    print("ready", flush=True)
    minted = json.loads(await asyncio.to_thread(sys.stdin.readline))
    print(json.dumps(await asyncio.gather(*map(redeem, minted))), flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
