# SPDX-License-Identifier: BSD-2-Clause
"""One operation of the OpenAPI document as HTML, for the page /docs."""

from __future__ import annotations

from html import escape
from typing import Any

from gateway.api.framework.docs_schema import code, inline, paragraphs, schema_fields, type_words
from gateway.api.framework.strict_json import dump

Json = dict[str, Any]


def method_html(method: str) -> str:
    """A method, in its colour."""
    return f'<b class="method {method.lower()}">{method}</b>'


def operation_html(document: Json, method: str, path: str, operation: Json) -> str:
    words = " ".join(
        [method, path, operation["summary"], operation.get("description", ""), *operation["tags"]]
    )
    parts = [
        paragraphs(operation.get("description", "")),
        f"<p>{_access(operation)}</p>",
        _parameters(document, operation),
        _body(document, operation),
        _curl(document, method, path, operation),
        _answers(document, operation),
    ]
    return (
        f'<details class="operation" id="{operation["operationId"]}" data-words="{escape(words.lower())}">'
        f"<summary>{method_html(method)} <code>{_breakable(path)}</code> "
        f"<span>{escape(operation['summary'])}</span></summary>"
        f'<div class="inside">{"".join(parts)}</div></details>'
    )


def _breakable(path: str) -> str:
    return escape(path).replace("/", "/<wbr>")


def _access(operation: Json) -> str:
    wanted = {name for choice in operation["security"] for name in choice}
    if not wanted:
        return "No key is asked for."
    if "publicKey" in wanted:
        return "A key of the organisation, public or private: <code>Authorization: Bearer pk_…</code>"
    return "A private key: <code>Authorization: Bearer sk_…</code>"


def _parameters(document: Json, operation: Json) -> str:
    rows = "".join(
        f"<tr><th scope='row'><code>{escape(given['name'])}</code>{_required(given['required'])}</th>"
        f"<td>{given['in']}</td><td>{type_words(given['schema'], document)}</td>"
        f"<td>{inline(given.get('description', ''))}</td></tr>"
        for given in operation.get("parameters", [])
    )
    if not rows:
        return ""
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("Name", "In", "Type", "What it is"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<h3>Parameters</h3><div class='wide'>{table}</div>"


def _required(required: bool) -> str:
    return " <em>required</em>" if required else ""


def _body(document: Json, operation: Json) -> str:
    body = operation.get("requestBody")
    if body is None:
        return ""
    content = body["content"].get("application/json")
    if content is None:
        return "<h3>Body</h3><p>Any bytes, passed on as they are.</p>"
    fields = schema_fields(content["schema"], document)
    return f"<h3>Body{_required(body['required'])}</h3>{fields}{_example(content)}"


def _example(content: Json) -> str:
    return f"<h4>Example</h4>{code(content['example'])}" if "example" in content else ""


def _curl(document: Json, method: str, path: str, operation: Json) -> str:
    server = document["servers"][0]["url"].rstrip("/") or "http://127.0.0.1:7860"
    lines = [f"curl -X {method} '{server}{path}'"]
    wanted = [name for choice in operation["security"] for name in choice]
    if wanted:
        lines.append(f"-H 'Authorization: Bearer {'pk_…' if 'publicKey' in wanted else 'sk_…'}'")
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if "example" in content:
        quoted = dump(content["example"]).decode().replace("'", "'\\''")
        lines += ["-H 'Content-Type: application/json'", f"-d '{quoted}'"]
    command = " \\\n  ".join(lines)
    return f"<h3>Request</h3><pre tabindex='0'><code>{escape(command)}</code></pre>"


def _answers(document: Json, operation: Json) -> str:
    return "<h3>Answers</h3>" + "".join(
        _answer(document, status, answer) for status, answer in operation["responses"].items()
    )


def _answer(document: Json, status: str, answer: Json) -> str:
    """One answer: good ones open, errors folded."""
    kind = "good" if status.startswith("2") else "other"
    head = f"<b class='status {kind}'>{status}</b> {escape(answer['description'])}"
    content = answer.get("content", {}).get("application/json")
    if content is None:
        return f"<p class='answer'>{head}</p>"
    inside = schema_fields(content["schema"], document) + _example(content)
    opened = " open" if kind == "good" else ""
    return f"<details class='answer'{opened}><summary>{head}</summary>{inside}</details>"
