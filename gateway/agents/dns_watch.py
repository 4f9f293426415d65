# SPDX-License-Identifier: BSD-2-Clause
"""The instances at all addresses of a name, looked up again when the records' TTL is over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from gateway.agents.retry_pauses import RetryPauses
from gateway.agents.source_report import SourceReport
from gateway.config.source_urls import DnsSource
from gateway.dns.address_records import LookUpFailed, Records, look_up

SHORTEST_TTL_S: Final = 5.0
"""Seconds between two look-ups at the least: a record without a TTL is not asked for all the time."""

LONGEST_TTL_S: Final = 60.0
"""Seconds between two look-ups at the most: what a record says may be wrong by then, whatever its TTL."""


async def watch_dns(source: DnsSource, nameservers: Sequence[str], report: SourceReport) -> None:
    """Report the instances of a name until this is cancelled. `nameservers`: as `look_up` takes them."""
    name, pauses = DnsName(source), RetryPauses()
    while True:
        name.read(await look_up(source.host, source.families, nameservers), report)
        if report.fault:
            await asyncio.sleep(pauses.next_s())
        else:
            pauses.reset()
            await asyncio.sleep(name.ttl_s)


class DnsName:
    """The addresses of a name, by family, as they were known last.

    A family whose look-up fails keeps its addresses. So does the name as a whole if it has none in any
    family: a name server that has lost a zone says so of all its names, and the agents are still there.
    """

    def __init__(self, source: DnsSource) -> None:
        self.source = source
        self.ttl_s = SHORTEST_TTL_S
        """Seconds for which the last answer is good, within the bounds above."""
        self._addresses: dict[socket.AddressFamily, tuple[str, ...]] = {}

    def read(self, answers: Sequence[Records | LookUpFailed], report: SourceReport) -> None:
        """Take in the answers to one look-up, in the order of the source's families, and report them."""
        records = {
            family: answer
            for family, answer in zip(self.source.families, answers, strict=True)
            if isinstance(answer, Records)
        }
        failures = [str(answer) for answer in answers if isinstance(answer, LookUpFailed)]
        if not any(answer.addresses for answer in records.values()):
            words = failures or [answer.words for answer in records.values()]
            report.failed(words[0])
            return
        self._addresses |= {family: answer.addresses for family, answer in records.items()}
        ttl_s = min(answer.ttl_s for answer in records.values() if answer.addresses)
        self.ttl_s = min(max(ttl_s, SHORTEST_TTL_S), LONGEST_TTL_S)
        urls = [
            f"http://{f'[{address}]' if ':' in address else address}:{self.source.port}"
            for family in self.source.families
            for address in self._addresses.get(family, ())
        ]
        report.found(urls, remark=failures[0] if failures else "")
