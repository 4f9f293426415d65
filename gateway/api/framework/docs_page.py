# SPDX-License-Identifier: BSD-2-Clause
"""`/docs` and `/openapi.json`: the API for people and for programs.

The page is Swagger UI, vendored in `docs_assets/` (see its README.md) and served from the gateway's own
origin. The content policy of the page forbids every other origin.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from starlette.responses import FileResponse, Response

from gateway import __version__
from gateway.api.framework.openapi import openapi_document
from gateway.api.framework.operation import Access, Answer, Context, Handler, Operation, Style
from gateway.model.json_text import dump

ASSETS: Final = Path(__file__).with_name("docs_assets")
VERSION: Final = "5.35.0"
"""The vendored version of Swagger UI; part of the files' paths, so that browsers may keep them for a year."""

SCRIPT_PATH: Final = f"/docs/swagger-ui-{VERSION}.js"
STYLE_PATH: Final = f"/docs/swagger-ui-{VERSION}.css"

_START: Final = """
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  filter: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout"
});
"""
"""Without `validatorUrl: null` the page would send the document's address to validator.swagger.io."""

_PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Patchbay API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{STYLE_PATH}">
</head>
<body>
<noscript>This page needs JavaScript. The document is <a href="/openapi.json">openapi.json</a>.</noscript>
<div id="swagger-ui"></div>
<script src="{SCRIPT_PATH}"></script>
<script>{_START}</script>
</body>
</html>
"""

_START_HASH: Final = base64.b64encode(hashlib.sha256(_START.encode()).digest()).decode()

_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"script-src 'self' 'sha256-{_START_HASH}'",
        "style-src 'self'",
        "img-src 'self' data:",  # the style sheet's icons
        "connect-src 'self'",  # the document, and requests that a reader tries out
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


def reading_operations(operations: Iterable[Operation], *, url: str | None) -> list[Operation]:
    """Return the operations that show the others: the document, the page and the page's two files.

    `url`: the base URL of the API, for the document; None means the origin that the document is read from.
    """
    document = dump(openapi_document(operations, url=url or "/", version=__version__))

    async def openapi_json(_: Context) -> Answer | Response:
        return Response(document, media_type="application/json")

    async def page(_: Context) -> Answer | Response:
        headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
        return Response(_PAGE, headers=headers, media_type="text/html; charset=utf-8")

    return [
        _operation("/openapi.json", openapi_json, "The API as an OpenAPI document"),
        _operation("/docs", page, "The API as a page"),
        _operation(SCRIPT_PATH, _file("swagger-ui-bundle.js", "text/javascript"), "The script of the page"),
        _operation(STYLE_PATH, _file("swagger-ui.css", "text/css"), "The style sheet of the page"),
    ]


def _file(name: str, media_type: str) -> Handler:
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}

    async def send_file(_: Context) -> Answer | Response:
        return FileResponse(ASSETS / name, headers=headers, media_type=media_type)

    return send_file


def _operation(path: str, handler: Handler, summary: str) -> Operation:
    return Operation(
        method="GET",
        path=path,
        handler=handler,
        access=Access.NONE,
        style=Style.PCC,
        summary=summary,
        tag="Documentation",
        in_schema=False,
    )
