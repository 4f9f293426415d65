# SPDX-License-Identifier: BSD-2-Clause
"""A web client's side of a call, with Pipecat's own protobuf serializer.

Run in the environment of requirements.lock. Its arguments: the socket's URL, the token or "", a file of sound
(16-bit PCM, 8000 Hz). It says the sound, and prints what comes as JSON, one object a line, until the socket
is closed:

    {"event": "refused", "status": 403}
    {"event": "open"}
    {"event": "heard", "pcm": base64}      once as much has come back as was said
    {"event": "told", "message": …}
    {"event": "closed", "code": 1000}
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

from pipecat.frames.frames import InputAudioRawFrame, InputTransportMessageFrame, OutputAudioRawFrame
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

RATE_HZ = 8000
FRAME_MS = 20
FRAME_BYTES = RATE_HZ * FRAME_MS // 1000 * 2


def tell(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


async def say(socket: ClientConnection, sound: bytes) -> None:
    """Send a frame every FRAME_MS, as a microphone does."""
    serializer = ProtobufFrameSerializer()
    loop = asyncio.get_running_loop()
    due = loop.time()
    for at in range(0, len(sound), FRAME_BYTES):
        frame = OutputAudioRawFrame(sound[at : at + FRAME_BYTES], RATE_HZ, 1)
        await socket.send(await serializer.serialize(frame))
        due += FRAME_MS / 1000
        await asyncio.sleep(due - loop.time())


async def hear(socket: ClientConnection, wanted_bytes: int) -> None:
    """Receive until the far side closes the socket. Raises ConnectionClosed then."""
    serializer = ProtobufFrameSerializer()
    pcm = b""
    while True:
        frame = await serializer.deserialize(await socket.recv())
        match frame:
            case InputAudioRawFrame(sample_rate=rate):
                assert rate == RATE_HZ
                before = len(pcm)
                pcm += frame.audio
                if before < wanted_bytes <= len(pcm):
                    tell("heard", pcm=base64.b64encode(pcm).decode())
            case InputTransportMessageFrame():
                tell("told", message=frame.message)


async def main(url: str, token: str, sound: bytes) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        socket = await connect(url, additional_headers=headers, proxy=None)
    except InvalidStatus as refused:
        tell("refused", status=refused.response.status_code)
        return
    tell("open")
    saying = asyncio.create_task(say(socket, sound))
    try:
        await hear(socket, len(sound))
    except ConnectionClosed as closed:
        tell("closed", code=closed.rcvd.code if closed.rcvd else None)
    finally:
        saying.cancel()


asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()))
