# SPDX-License-Identifier: BSD-2-Clause
"""Credentials of our own: API keys, media tokens, call tokens, and rate limits."""
