# SPDX-License-Identifier: BSD-2-Clause
"""The state of one source of instances: its instances, and its fault; said once in the log, not each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping, Sequence

import structlog

log = structlog.get_logger(__name__)


class SourceReport:
    """The state of one source, as its watch reports it. Calls see the instances until others are found."""

    def __init__(
        self,
        source: str,
        replace: Callable[[Sequence[str]], object],
        faults: MutableMapping[str, str],
        *,
        is_logged: bool = True,
    ) -> None:
        """`replace`: takes the URLs that were found, in place of those before.

        `faults`: has what is wrong with a source since its last good answer, as in "there is no such name".
        """
        self.source = source
        self.urls: tuple[str, ...] = ()
        self.spoken = asyncio.Event()
        """Set once the source has answered or failed."""
        self._replace = replace
        self._faults = faults
        self._is_logged = is_logged

    @property
    def fault(self) -> str:
        """The fault since the last good answer, "" if there is none."""
        return self._faults.get(self.source, "")

    def found(self, urls: Sequence[str], remark: str = "") -> None:
        """Note what the source has answered. `remark`: why it may be less than it could be."""
        before, self.urls = set(self.urls), tuple(urls)
        came, left = len(set(urls) - before), len(before - set(urls))
        if self._is_logged and (came or left):
            log.info("instances found", source=self.source, instances=len(urls), came=came, left=left)
        self._replace(self.urls)
        if remark:
            self._note(remark)
        elif self._faults.pop(self.source, "") and self._is_logged:
            log.info("source answers again", source=self.source, instances=len(urls))
        self.spoken.set()

    def failed(self, fault: str) -> None:
        """Note that the source gave no answer; what it has found before stays. `fault`: as in `faults`."""
        self._note(fault)
        self.spoken.set()

    def close(self) -> None:
        """Forget the source: nobody names it any more."""
        self._faults.pop(self.source, None)
        self._replace(())

    def _note(self, fault: str) -> None:
        is_new = self.source not in self._faults
        self._faults[self.source] = fault
        if is_new and self._is_logged:
            log.warning("source does not answer", source=self.source, error=fault, instances=len(self.urls))
