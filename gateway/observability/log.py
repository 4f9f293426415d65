# SPDX-License-Identifier: BSD-2-Clause
"""Logging: one structured line for each event, on standard error, written outside the event loop.

A blocked pipe on standard error must not stop a call, nor the end of the process. So lines go through a
bounded queue to a thread; if the queue is full they are dropped, and their number is logged once there is
room again. At the end the thread has STOP_S to write what is queued; it never waits inside a write, because a
thread that does cannot be ended, and Python would wait for the lock that it holds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import sys
import time
from collections.abc import Iterator, MutableMapping
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Final, TextIO

import structlog

from gateway.model.reasons import Severity

MAX_QUEUED_LINES = 10_000

BATCH_S = 0.02
"""How long the thread waits for more lines after it has written all there were."""

STOP_S: Final = 3.0
"""How long the end of the process waits for the queued lines to be written."""

POLL_S: Final = 0.2

PIECE_BYTES: Final = select.PIPE_BUF
"""A pipe that poll(2) calls writable takes so many bytes without blocking (pipe(7))."""

MAX_TEXT_CHARACTERS: Final = 2000

_WHOLE: Final = frozenset({"exception", "stack"})
"""Fields of many lines that are never cut: tracebacks."""

_QUIET = ("websockets", "uvicorn.error", "uvicorn.access", "asyncio")


class _DroppingHandler(QueueHandler):
    """Puts records into the queue, and drops them while it is full."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # QueueHandler would make it picklable, which a thread does not need

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            return
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            logging.getLogger(__name__).warning(
                "%d log lines were dropped: standard error is blocked", dropped
            )


class _StandardError:
    """Writes to standard error without ever blocking in a write, so that it can give up. For one thread."""

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)
        self.gives_up_at: float | None = None
        """When to drop what cannot be written, in seconds of the monotonic clock; set by another thread."""

    def write(self, text: str) -> None:
        """Write the whole text, or drop what is left of it. Waits as long as nobody reads."""
        data = text.encode(errors="backslashreplace")
        while data and self._has_room():
            try:
                data = data[os.write(self._descriptor, data[:PIECE_BYTES]) :]
            except BlockingIOError:  # another process shares the pipe, and has filled it or made it so
                if self._gives_up():
                    return
                time.sleep(POLL_S)
            except OSError:  # the reader has gone
                return

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def _has_room(self) -> bool:
        while True:
            gives_up = self._gives_up()
            if self._poll.poll(0 if gives_up else POLL_S * 1000):
                return True
            if gives_up:
                return False

    def _gives_up(self) -> bool:
        return self.gives_up_at is not None and time.monotonic() >= self.gives_up_at


class _BatchingListener(QueueListener):
    """Writes lines in batches: waking the thread costs more than writing a line."""

    def stop(self) -> None:
        """Wait until the queued lines are written, but no longer than a thread that gives up may take.

        Another process that fills the same pipe between poll and write can still block the thread in a write.
        It holds no lock there, and ends with the process.
        """
        thread = self._thread
        lines = self.queue
        assert isinstance(lines, queue.Queue)
        with contextlib.suppress(queue.Full):
            lines.put(self._sentinel, timeout=STOP_S)  # type: ignore[attr-defined]
        if thread is not None:
            thread.join(STOP_S + 2 * POLL_S)

    def dequeue(self, block: bool) -> logging.LogRecord:
        lines = self.queue
        assert isinstance(lines, queue.Queue)
        if lines.empty():
            time.sleep(BATCH_S)
        line: logging.LogRecord = lines.get(block)
        return line


def _capture_exception(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace `exc_info=True` by the current exception: another thread writes the line, and has none."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event


def _shorten(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut long texts: a client may send 60 kB where a name belongs."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > MAX_TEXT_CHARACTERS and name not in _WHOLE:
            event[name] = f"{value[:MAX_TEXT_CHARACTERS]}… ({len(value)} characters)"
    return event


def _escape(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what is not printable: a terminal would obey it, or break the line."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            lines = value.split("\n") if name in _WHOLE else [value]
            event[name] = "\n".join(
                "".join(each if each.isprintable() else _escaped(each) for each in line) for line in lines
            )
    return event


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _escape_json(_logger: object, _method: str, line: str) -> str:
    """Escape what JSON may have and no terminal should get: C1 controls, line separators, directions."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)


def log_at(log: structlog.stdlib.BoundLogger, severity: Severity, event: str, **fields: object) -> None:
    """Log an event at the level that its severity asks for."""
    write = {Severity.ERROR: log.error, Severity.WARNING: log.warning}.get(severity, log.info)
    write(event, **fields)


@contextlib.contextmanager
def logging_as(log_format: str, level: str) -> Iterator[None]:
    """Configure structlog and the standard library's logging; write all queued lines at the end.

    `log_format`: "json", "console", or "auto", which is console on a terminal and JSON otherwise. `level`:
    the least severe level that is logged, in lower case.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _capture_exception,
        _shorten,  # here and not by the thread: thousands of lines may be queued
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    rendering: list[Any] = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    if not console:
        rendering = [structlog.processors.JSONRenderer(ensure_ascii=False), _escape_json]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    final.append(structlog.processors.format_exc_info)  # here, so that a traceback's text is escaped too
    if console:
        final.append(_escape)
    standard_error = _StandardError(sys.stderr)
    writer = logging.StreamHandler(standard_error)
    writer.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*final, *rendering])
    )
    # None of it is printed, and collecting it costs as much as the rest of a line (logging, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_QUEUED_LINES)
    root = logging.getLogger()
    root.handlers = [_DroppingHandler(lines)]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    listener = _BatchingListener(lines, writer)
    listener.start()
    try:
        yield
    finally:
        standard_error.gives_up_at = time.monotonic() + STOP_S
        listener.stop()
