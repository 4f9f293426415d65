# SPDX-License-Identifier: BSD-2-Clause
"""The page /docs: everything on it, nothing from elsewhere, and no way in for a script."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from gateway.api.framework.dispatch import Access, Answer, Context, Operation, Style
from gateway.api.framework.docs_page import docs_page
from gateway.api.framework.openapi import openapi_document

VOID = {"meta", "input", "wbr", "link", "br", "img"}


class Page(HTMLParser):
    """What is on a page. Raises where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.detail: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.detail.append(data)

    def having(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]


@pytest.fixture
def text(operations: list[Operation]) -> str:
    return docs_page(openapi_document(operations, url="/", version="1.2.3"))


@pytest.fixture
def page(text: str) -> Page:
    return Page(text)


def test_it_is_well_formed(page: Page) -> None:
    assert page.open == []
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    linked = {found["href"] for found in page.having("a")}
    assert {link for link in linked if link.startswith("#")} <= {f"#{each}" for each in ids}


def test_every_operation_is_on_it_and_in_the_index(page: Page, operations: list[Operation]) -> None:
    shown = [found["id"] for found in page.having("details") if found["class"] == "operation"]
    assert len(shown) == len([each for each in operations if each.in_schema])
    assert [found["data-of"] for found in page.having("li") if "data-of" in found] == shown


def test_what_can_be_searched_for(page: Page) -> None:
    (detail,) = (
        found["data-words"]
        for found in page.having("details")
        if found.get("id") == "post_v1_public_agent_start"
    )
    assert detail is not None
    for word in ("post", "/v1/public/{agent}/start", "start", "goes on to the agent"):
        assert word in detail


def test_it_needs_no_other_host(page: Page) -> None:
    for tag, found in page.tags:
        assert tag not in ("img", "iframe", "link", "object", "form")
        assert "src" not in found
        assert not any(name.startswith("on") for name in found)
        assert "style" not in found


def test_it_can_be_used_with_keys_alone(page: Page) -> None:
    assert page.having("html", lang="en")
    assert page.having("label", **{"for": "search"})
    assert page.having("p", role="status")
    (skip,) = page.having("a", **{"class": "skip"})
    assert skip["href"] == "#operations"
    assert all(found.get("tabindex") in (None, "0", "-1") for _, found in page.tags)


async def test_only_its_own_style_and_script_may_run(api: Any) -> None:
    reply = await api("GET", "/docs", key=None)
    assert (reply.status, reply.header("Content-Type")) == (200, "text/html; charset=utf-8")
    policy = reply.header("Content-Security-Policy")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", reply.raw.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_what_is_written_in_the_table_stays_text() -> None:
    async def nothing(_: Context) -> Answer:
        return Answer(204)

    evil = "<script>alert('1')</script>\"'&"
    row = Operation(
        "GET", "/v1/x", nothing, Access.NONE, Style.PCC, evil, evil, description=evil, path_notes={}
    )
    page = Page(docs_page(openapi_document([row], url="https://voice.example.com/'\"<b>", version=evil)))
    assert page.open == []
    assert len(page.having("script")) == 1
    assert "alert" in "".join(page.detail)
