# SPDX-License-Identifier: BSD-2-Clause
"""The writers by carrier."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from texml import exotel, plivo, telnyx, twilio
from texml.stream import Writer

_ALL: tuple[Writer, ...] = (twilio.WRITER, telnyx.WRITER, plivo.WRITER, exotel.WRITER)

WRITERS: Mapping[str, Writer] = MappingProxyType({writer.name: writer for writer in _ALL})
"""By name, as in the path `/xml/{name}`."""
