# SPDX-License-Identifier: BSD-2-Clause
"""A carrier on the other end of a media stream: places a call, reports what came of it
(docs/reference/carriers.md §2-5).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Sequence

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from gateway.model.reasons import status_phrase
from gateway.simulator.call_audio import cut, for_call
from gateway.simulator.call_plan import CallPlan, CallProgress, CallReport, OnProgress
from gateway.simulator.caller import Caller, Stage
from gateway.simulator.carrier_stream import CarrierStream
from gateway.simulator.dial_url import DialedUrl, DialError, dial
from gateway.simulator.playback import TICK_MS
from serializers.dialect import DialectError
from serializers.registry import DIALECTS

CLOSE_TIMEOUT_S = 5.0
"""How long the far side may take to answer the close."""

SEND_TIMEOUT_S = 10.0
"""How long the far side may stop reading before the carrier gives the stream up."""

STOOD_STILL_S = 0.1
"""A tick that is so late was not kept waiting by the call: the machine had no time for this process."""

MAX_MESSAGE_BYTES = 1 << 20
PROGRESS_TICKS = 5
BODY_WORDS = 200
"""Characters of a refusal's body that are repeated in the report."""

NORMAL_CLOSE = 1000


async def place_call(plan: CallPlan, on_progress: OnProgress | None = None) -> CallReport:
    """Places the call and follows the plan to its end. What goes wrong is in `error`, not raised."""
    try:
        dialled = dial(plan.url, plan.carrier, plan.agent, plan.parameters)
        frame_ms = DIALECTS[plan.carrier].frame_ms
        frames = cut(for_call(plan.speech, plan.speech_rate, dialled.audio), dialled.audio, frame_ms)
    except (DialError, DialectError) as error:
        return CallReport(plan.carrier, plan.url, error=str(error))
    began = time.monotonic()
    try:
        socket = await _connect(plan, dialled)
    except InvalidStatus as error:
        return CallReport(
            plan.carrier, dialled.url, refused=error.response.status_code, error=_refusal(error)
        )
    except TimeoutError:
        return CallReport(plan.carrier, dialled.url, error=f"no answer within {plan.connect_timeout:g} s")
    except (InvalidHandshake, InvalidURI) as error:
        return CallReport(plan.carrier, dialled.url, error=f"not a WebSocket server: {error}")
    except (OSError, EOFError) as error:
        return CallReport(plan.carrier, dialled.url, error=f"could not connect: {_os_words(error)}")
    caller = Caller(plan, frames, frame_ms)
    return await _hold(CarrierStream(plan, dialled, began), caller, socket, on_progress)


async def _connect(plan: CallPlan, dialled: DialedUrl) -> ClientConnection:
    return await connect(
        dialled.url,
        host=dialled.host,
        additional_headers=dict(plan.headers),
        compression=None,
        open_timeout=plan.connect_timeout,
        close_timeout=CLOSE_TIMEOUT_S,
        ping_interval=None,
        max_size=MAX_MESSAGE_BYTES,
        proxy=None,
    )


async def _hold(
    line: CarrierStream, caller: Caller, socket: ClientConnection, on_progress: OnProgress | None
) -> CallReport:
    """The call itself, on an open socket."""
    reader = asyncio.create_task(_listen(socket, line), name="carrier reads")
    hung_up = False
    try:
        await _send(socket, line.opening())
        hung_up = await _run(socket, line, caller, reader, on_progress)
        if hung_up:
            await _send(socket, line.reason())
    except ConnectionClosed:
        pass  # the reader knows the code
    except TimeoutError:
        line.give_up(f"the far side stopped reading for {SEND_TIMEOUT_S:g} s")
    except DialectError as error:
        line.give_up(f"the carrier cannot say this: {error}")
    finally:
        await socket.close(NORMAL_CLOSE)
        await reader
    return line.report(socket.close_code, socket.close_reason or "", hung_up=hung_up)


async def _run(
    socket: ClientConnection,
    line: CarrierStream,
    caller: Caller,
    reader: asyncio.Task[None],
    on_progress: OnProgress | None,
) -> bool:
    """Ticks until the caller has hung up (True) or the far side has closed (False).

    Deadlines are absolute: a late tick is made up for, so that a call never drifts from real time. What is
    later than STOOD_STILL_S is not: ticks in a row would be a silence that nobody had the time to fill, and
    the caller would hang up for it.
    """
    first = time.monotonic()
    tick = 0
    while not reader.done():
        tick += 1
        due = first + tick * TICK_MS / 1000
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if (late := time.monotonic() - due) > STOOD_STILL_S:
            first += late
        messages, audible = line.play()
        caller.hear(audible)
        if tick % line.ticks_per_frame == 0:
            turn = caller.turn()
            if caller.stage is Stage.DONE:
                return True
            messages += line.say(turn, caller.stage)
        await _send(socket, messages)
        if on_progress is not None and tick % PROGRESS_TICKS == 0:
            on_progress(CallProgress(tick * TICK_MS / 1000, caller.expected, caller.stage))
    return False


async def _listen(socket: ClientConnection, line: CarrierStream) -> None:
    try:
        async for message in socket:
            await _send(socket, line.hear(message))
    except ConnectionClosed:
        pass  # its code is on the socket
    except TimeoutError:
        line.give_up(f"the far side stopped reading for {SEND_TIMEOUT_S:g} s")


async def _send(socket: ClientConnection, messages: Sequence[str]) -> None:
    if not messages:
        return
    async with asyncio.timeout(SEND_TIMEOUT_S):
        for message in messages:
            await socket.send(message)


def _refusal(error: InvalidStatus) -> str:
    status = error.response.status_code
    try:
        detail = f"HTTP {status} {status_phrase(status)}"
    except ValueError:
        detail = f"HTTP {status}"
    text = (error.response.body or b"").decode("utf-8", "replace").strip()
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        text = body["error"]
    return f"refused with {detail}" + (f": {text[:BODY_WORDS]}" if text else "")


def _os_words(error: OSError | EOFError) -> str:
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
