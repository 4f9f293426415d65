# SPDX-License-Identifier: BSD-2-Clause
"""Logs: one structured line an event, on standard error, written off the event loop.

A pipe that nobody empties must not stop a call, so lines go through a bounded queue to a thread; when it
is full they are dropped, and how many were is said once there is room.
"""

from __future__ import annotations

import logging
import queue
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from typing import Any

import structlog

MAX_WAITING_LINES = 10_000

GATHERED_S = 0.02
"""How long a line waits at most behind the one before it."""

_QUIET = ("websockets", "uvicorn.error", "uvicorn.access", "asyncio")


class _Dropping(QueueHandler):
    """Puts records into the queue as long as there is room."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # never pickled: the thread is ours

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


class _Gathering(QueueListener):
    """Writes a line at once, and then those that came meanwhile: to wake a thread costs more than a line."""

    def dequeue(self, block: bool) -> logging.LogRecord:
        lines = self.queue
        assert isinstance(lines, queue.Queue)
        if lines.empty():
            time.sleep(GATHERED_S)
        line: logging.LogRecord = lines.get(block)
        return line


def _hold_exception(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The exception that is being handled, while it is: the line is written by another thread."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event


@contextmanager
def logging_as(log_format: str, level: str) -> Iterator[None]:
    """Sets up structlog and the standard library's logging alike; what waits at the end is written then.

    `log_format`: "json", "console", or "auto", which is console on a terminal and JSON otherwise.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _hold_exception,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not console:
        final.append(structlog.processors.format_exc_info)
    writer = logging.StreamHandler(sys.stderr)
    writer.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*final, renderer])
    )
    # Nothing of it is printed, and it costs as much as the rest of a line (logging, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_WAITING_LINES)
    root = logging.getLogger()
    root.handlers = [_Dropping(lines)]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    listener = _Gathering(lines, writer)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
