# SPDX-License-Identifier: BSD-2-Clause
"""`/docs` and `/openapi.json`: the API, to read.

The page is made from the OpenAPI document, whole, on the server: it needs no other host, and reads without a
script; the script only searches, and its hash is all that the content policy lets run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, Final

from starlette.responses import Response

from gateway import __version__
from gateway.api.framework.docs_assets import SCRIPT, STYLE
from gateway.api.framework.docs_operation import method_html, operation_html
from gateway.api.framework.docs_schema import inline, paragraphs
from gateway.api.framework.openapi import openapi_document
from gateway.api.framework.operation import Access, Answer, Context, Operation, Style
from gateway.api.framework.strict_json import dump

Json = dict[str, Any]

_TAG: Final = "Documentation"


def reading_operations(operations: Iterable[Operation], *, url: str | None) -> list[Operation]:
    """The two operations that show the others. `url`: where the API is; None is where it is read."""
    document = openapi_document(operations, url=url or "/", version=__version__)
    text, page = dump(document), docs_page(document).encode()

    async def openapi_json(_: Context) -> Answer | Response:
        return Response(text, media_type="application/json")

    async def docs(_: Context) -> Answer | Response:
        headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
        return Response(page, headers=headers, media_type="text/html; charset=utf-8")

    return [
        Operation(
            method="GET",
            path=path,
            handler=handler,
            access=Access.NONE,
            style=Style.PCC,
            summary=summary,
            tag=_TAG,
            in_schema=False,
        )
        for path, handler, summary in (
            ("/openapi.json", openapi_json, "The API as an OpenAPI document"),
            ("/docs", docs, "The API as a page"),
        )
    ]


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"style-src {_source(STYLE)}",
        f"script-src {_source(SCRIPT)}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


def docs_page(document: Json) -> str:
    """The whole page, as HTML."""
    title = f"{escape(document['info']['title'])} API"
    sections = list(_sections(document))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#operations">Skip to the operations</a>
<header>
<h1>{title} <small>{escape(document["info"]["version"])}</small></h1>
<div class="tools">
<label for="search">Search</label>
<input id="search" type="search" placeholder="method, path or word" autocomplete="off" spellcheck="false"
 aria-keyshortcuts="/" aria-describedby="found">
<button type="button" id="toggle" aria-pressed="false">Open all</button>
<a href="/openapi.json">openapi.json</a>
</div>
<p id="found" role="status"></p>
</header>
<div class="columns">
<nav aria-label="Operations">{"".join(_index(tag, rows) for tag, rows in sections)}</nav>
<main id="operations" tabindex="-1">
<section class="about">{paragraphs(document["info"]["description"])}
<p>Press <kbd>/</kbd> to search, <kbd>Esc</kbd> to see everything again, <kbd>Tab</kbd> and <kbd>Enter</kbd>
to open an operation.</p>
{_keys(document)}</section>
{"".join(_section(document, tag, rows) for tag, rows in sections)}
</main>
</div>
<script>{SCRIPT}</script>
</body>
</html>
"""


Row = tuple[str, str, Json]


def _sections(document: Json) -> Iterator[tuple[str, list[Row]]]:
    """The operations of each tag: method, path and the document's entry."""
    for tag in document["tags"]:
        rows = [
            (method.upper(), path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if tag["name"] in operation["tags"]
        ]
        yield tag["name"], rows


def _slug(tag: str) -> str:
    return "tag-" + "".join(letter if letter.isalnum() else "-" for letter in tag.lower())


def _index(tag: str, rows: list[Row]) -> str:
    links = "".join(
        f'<li data-of="{operation["operationId"]}"><a href="#{operation["operationId"]}">'
        f"{method_html(method)} <span>{escape(operation['summary'])}</span></a></li>"
        for method, _, operation in rows
    )
    return f'<h2><a href="#{_slug(tag)}">{escape(tag)}</a></h2><ul>{links}</ul>'


def _section(document: Json, tag: str, rows: list[Row]) -> str:
    name = _slug(tag)
    operations = "".join(operation_html(document, *row) for row in rows)
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(tag)}</h2>{operations}</section>'


def _keys(document: Json) -> str:
    rows = "".join(
        f"<li><code>Authorization: Bearer {escape(scheme['bearerFormat'])}</code>: "
        f"{inline(scheme['description'])}</li>"
        for scheme in document["components"]["securitySchemes"].values()
    )
    return f"<ul>{rows}</ul>"
