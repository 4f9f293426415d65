# SPDX-License-Identifier: BSD-2-Clause
"""A fake carrier that places a call on a media socket and reports it (docs/reference/carriers.md §2-5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from gateway.simulator.call_audio import cut, for_call
from gateway.simulator.call_plan import CallPlan, CallProgress, CallReport, OnProgress
from gateway.simulator.caller import Caller, Stage
from gateway.simulator.carrier_stream import CarrierStream
from gateway.simulator.connection_trouble import trouble
from gateway.simulator.dial_url import DialedUrl, DialError, dial, parameters_of
from gateway.simulator.document_fetch import (
    CallRefusedError,
    fetches_document,
    follow_documents,
    http_error,
    ids_of,
)
from gateway.simulator.gateway_address import GatewayAddress
from gateway.simulator.playback import TICK_MS
from serializers.dialect import DialectError
from serializers.registry import DIALECTS

CLOSE_TIMEOUT_S = 5.0
"""Seconds that the far side may take to answer the close."""

SEND_TIMEOUT_S = 10.0
"""Seconds for which the far side may stop reading before the carrier ends the call."""

STOPPED_READING = f"the far side stopped reading for {SEND_TIMEOUT_S:g} s"

STALL_S = 0.1
"""Seconds of delay from which the machine, not the call, kept a tick waiting."""

MAX_MESSAGE_BYTES = 1 << 20
PROGRESS_TICKS = 5
NORMAL_CLOSE = 1000

DEFAULT_PORTS = {"ws": 80, "wss": 443}


async def place_call(plan: CallPlan, on_progress: OnProgress | None = None) -> CallReport:
    """Place a call and follow the plan to its end.

    Failures of the call do not raise; they are in the report's `error`.
    """
    where = plan.url
    try:
        ids = ids_of(plan)
        if fetches_document(plan.url):
            plan = await follow_documents(plan, ids)
        dialled = dial(plan.url, plan.carrier, plan.agent, parameters_of(plan), plan.body)
        where = dialled.url
        frame_ms = DIALECTS[plan.carrier].frame_ms
        frames = cut(for_call(plan.speech, plan.speech_rate, dialled.audio), dialled.audio, frame_ms)
        began = time.monotonic()
        socket = await _connect(plan, dialled)
    except CallRefusedError as error:
        return CallReport(plan.carrier, where, refused=error.status, error=str(error))
    except (DialError, DialectError) as error:
        return CallReport(plan.carrier, where, error=str(error))
    stream = CarrierStream(plan, dialled, began, ids=ids)
    return await FakeCarrier(stream, Caller(plan, frames, frame_ms), socket, on_progress).run()


async def _connect(plan: CallPlan, dialled: DialedUrl) -> ClientConnection:
    """Open the media socket. Raises CallRefusedError."""
    try:
        return await _open(plan, dialled)
    except InvalidStatus as error:
        status = error.response.status_code
        text = (error.response.body or b"").decode("utf-8", "replace")
        raise CallRefusedError(http_error(status, text), status) from None
    except TimeoutError:
        raise CallRefusedError(f"no answer within {plan.connect_timeout:g} s") from None
    except InvalidURI:  # whose text has the URL, which may have a token
        raise CallRefusedError("this is no URL of a WebSocket") from None
    except InvalidHandshake as error:
        words = f"not a WebSocket server: {error}"
        if urlsplit(dialled.url).scheme == "ws":
            words += " (does it speak TLS? then wss:// or https://)"
        raise CallRefusedError(words) from None
    except (OSError, EOFError) as error:
        words = trouble(error, urlsplit(dialled.url).hostname or "")
        raise CallRefusedError(f"could not connect: {words}") from None


async def _open(plan: CallPlan, dialled: DialedUrl) -> ClientConnection:
    address = GatewayAddress(plan.given_url or plan.url, plan.public_url)
    headers = dict(plan.headers)
    if plan.signer is not None:
        headers |= plan.signer.sign_upgrade(address.public(dialled.url))
    reached = address.reach(dialled.url)
    uri, options = dialled.url, dict[str, Any](host=dialled.host)
    if reached.host is not None:  # the public name stays in the request, and the connection goes elsewhere
        there = urlsplit(reached.url)
        uri = there._replace(netloc=reached.host).geturl()
        options = {"host": there.hostname, "port": there.port or DEFAULT_PORTS[there.scheme]}
    if plan.tls is not None and uri.startswith("wss:"):
        options["ssl"] = plan.tls
    return await connect(
        uri,
        additional_headers=headers,
        compression=None,
        open_timeout=plan.connect_timeout,
        close_timeout=CLOSE_TIMEOUT_S,
        ping_interval=None,
        max_size=MAX_MESSAGE_BYTES,
        proxy=None,
        **options,
    )


class FakeCarrier:
    """A carrier on an open media socket, for one call."""

    def __init__(
        self,
        stream: CarrierStream,
        caller: Caller,
        socket: ClientConnection,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._stream = stream
        self._caller = caller
        self._socket = socket
        self._on_progress = on_progress

    async def run(self) -> CallReport:
        """Carry the call from its opening to the close of the socket."""
        reader = asyncio.create_task(self._read(), name="carrier reads")
        hung_up = False
        try:
            await self._send(self._stream.opening())
            hung_up = await self._tick(reader)
            if hung_up:
                await self._send(self._stream.hang_up())
        except ConnectionClosed:
            pass  # the socket has the code
        except TimeoutError:
            self._stream.fail(STOPPED_READING)
        except DialectError as error:
            self._stream.fail(f"the carrier cannot say this: {error}")
        finally:
            await self._socket.close(NORMAL_CLOSE)
            await reader
        code, reason = self._socket.close_code, self._socket.close_reason or ""
        return self._stream.report(code, reason, hung_up=hung_up)

    async def _tick(self, reader: asyncio.Task[None]) -> bool:
        """Send and play until the caller hangs up (True) or the far side closes (False).

        Deadlines are absolute: a late tick is made up for, so that a call never drifts from real time. A tick
        later than STALL_S is not: many ticks at once would be a silence that the agent had no time to fill,
        and the caller would hang up for it.
        """
        first = time.monotonic()
        tick = 0
        while not reader.done():
            tick += 1
            due = first + tick * TICK_MS / 1000
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if (late := time.monotonic() - due) > STALL_S:
                first += late
            messages, is_audible = self._stream.play()
            self._caller.listen(is_audible)
            if tick % self._stream.ticks_per_frame == 0:
                turn = self._caller.turn()
                if self._caller.stage is Stage.DONE:
                    return True
                messages += self._stream.caller_frame(turn, self._caller.stage)
            await self._send(messages)
            if self._on_progress is not None and tick % PROGRESS_TICKS == 0:
                elapsed = tick * TICK_MS / 1000
                self._on_progress(CallProgress(elapsed, self._caller.expected, self._caller.stage))
        return False

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                await self._send(self._stream.receive(message))
        except ConnectionClosed:
            pass  # the socket has the code
        except TimeoutError:
            self._stream.fail(STOPPED_READING)

    async def _send(self, messages: Sequence[str]) -> None:
        """Send messages. Raises TimeoutError after SEND_TIMEOUT_S, ConnectionClosed if the socket is."""
        if not messages:
            return
        async with asyncio.timeout(SEND_TIMEOUT_S):
            for message in messages:
                await self._socket.send(message)
