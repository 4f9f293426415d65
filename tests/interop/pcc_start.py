# SPDX-License-Identifier: BSD-2-Clause
"""Start a session with Pipecat Cloud's own SDK, and prints what it returned or raised as JSON.

Its argument is JSON: `agent`, `api_key`, and `params`, the keywords of SessionParams.
"""

from __future__ import annotations

import asyncio
import json
import sys

from pipecatcloud import AgentStartError, Session, SessionParams


async def main() -> None:
    wanted = json.loads(sys.argv[1])
    session = Session(wanted["agent"], wanted["api_key"], SessionParams(**wanted["params"]))
    try:
        print(json.dumps({"returned": await session.start()}))
    except AgentStartError as error:
        print(json.dumps({"raised": str(error), "code": error.error_code}))


asyncio.run(main())
