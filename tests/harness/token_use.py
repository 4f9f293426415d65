# SPDX-License-Identifier: BSD-2-Clause
"""The use of a media token, as an accepted upgrade makes it."""

from __future__ import annotations

from gateway.auth.media_tokens import MediaClaims, MediaTokens


async def redeem(tokens: MediaTokens, token: str, agent: str, organization: str) -> MediaClaims:
    """Read a token and use it up. Raises TokenRejected, StoreFailed."""
    claims = tokens.read(token, agent, organization)
    await tokens.use(claims)
    return claims
