# SPDX-License-Identifier: BSD-2-Clause
"""Why a document cannot be written."""

from __future__ import annotations


class DocumentError(ValueError):
    """What was asked for has no place in this carrier's document.

    `str()` says in one clause what is wrong, without the value: it may be a token or a phone number.
    """
