# SPDX-License-Identifier: BSD-2-Clause
"""Credentials that Patchbay itself issues: API keys, media tokens and call tokens; and rate limits."""
