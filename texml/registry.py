# SPDX-License-Identifier: BSD-2-Clause
"""All writers by carrier. A new carrier with documents is its module and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from texml import exotel, plivo, telnyx, twilio
from texml.document import Writer

_ALL: tuple[Writer, ...] = (
    twilio.WRITER,
    telnyx.WRITER,
    plivo.WRITER,
    exotel.WRITER,
)

WRITERS: Mapping[str, Writer] = MappingProxyType({writer.name: writer for writer in _ALL})
"""By name, as in the path `/xml/{name}`."""
