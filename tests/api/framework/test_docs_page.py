# SPDX-License-Identifier: BSD-2-Clause
"""The page /docs: vendored files as they were published, and no request to another origin."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from gateway.api.framework.docs_page import ASSETS, SCRIPT_PATH, STYLE_PATH, VERSION

ROOT = Path(__file__).parents[3]
RECORDED = dict(
    re.findall(r"^\| `(.+)` \| `([0-9a-f]{64})` \|$", (ASSETS / "README.md").read_text(), re.MULTILINE)
)


class Page(HTMLParser):
    """The tags of a page and the text of its inline scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script" and "src" not in dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)

    def references(self) -> set[str]:
        return {
            value
            for _, attributes in self.tags
            for name, value in attributes.items()
            if name in ("src", "href", "action", "data", "srcset") and value is not None
        }


async def test_the_page_refers_only_to_paths_that_the_gateway_serves(api: Any) -> None:
    reply = await api("GET", "/docs", key=None)
    assert (reply.status, reply.header("Content-Type")) == (200, "text/html; charset=utf-8")
    page = Page(reply.raw.decode())
    assert page.references() == {SCRIPT_PATH, STYLE_PATH, "/openapi.json", "data:,"}
    (script,) = page.scripts
    assert 'url: "/openapi.json"' in script
    assert "validatorUrl: null" in script
    assert "://" not in reply.raw.decode()
    for path in page.references() - {"data:,"}:
        assert (await api("GET", path, key=None)).status == 200


async def test_the_content_policy_allows_the_own_origin_and_one_inline_script(api: Any) -> None:
    reply = await api("GET", "/docs", key=None)
    policy = dict(each.split(" ", 1) for each in reply.header("Content-Security-Policy").split("; "))
    (script,) = Page(reply.raw.decode()).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == {
        "default-src": "'none'",
        "script-src": f"'self' 'sha256-{digest}'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


async def test_the_files_are_served_as_they_were_published_and_kept_by_browsers(api: Any) -> None:
    for path, name, media_type in (
        (SCRIPT_PATH, "swagger-ui-bundle.js", "text/javascript"),
        (STYLE_PATH, "swagger-ui.css", "text/css"),
    ):
        reply = await api("GET", path, key=None)
        assert hashlib.sha256(reply.raw).hexdigest() == RECORDED[name]
        assert reply.header("Content-Type") == f"{media_type}; charset=utf-8"
        assert reply.header("Cache-Control") == "public, max-age=31536000, immutable"
        assert reply.header("X-Content-Type-Options") == "nosniff"
        head = await api("HEAD", path, key=None)
        assert (head.status, head.header("Content-Length")) == (200, str(len(reply.raw)))


def test_the_readme_names_every_vendored_file_and_its_hash() -> None:
    files = {path.name for path in ASSETS.iterdir()} - {"README.md"}
    assert {name: hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() for name in files} == RECORDED


def test_the_paths_carry_the_version_of_the_readme() -> None:
    """A browser keeps the files for a year: another version needs other paths."""
    assert f"| Version | {VERSION} |" in (ASSETS / "README.md").read_text()
    assert VERSION in SCRIPT_PATH
    assert VERSION in STYLE_PATH


def test_the_vendored_files_are_package_data() -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = configured["tool"]["setuptools"]["package-data"]["gateway.api.framework"]
    packed = {path for pattern in patterns for path in ASSETS.parent.glob(pattern)}
    assert packed == set(ASSETS.iterdir())
