# SPDX-License-Identifier: BSD-2-Clause
"""Logging: one structured line for each event, on standard error, written outside the event loop.

A blocked pipe on standard error must not stop a call. So lines go through a bounded queue to a thread; if the
queue is full they are dropped, and their number is logged once there is room again.
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

MAX_QUEUED_LINES = 10_000

BATCH_S = 0.02
"""How long the thread waits for more lines after it has written all there were."""

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


class _BatchingListener(QueueListener):
    """Writes lines in batches: waking the thread costs more than writing a line."""

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


@contextmanager
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
        listener.stop()
