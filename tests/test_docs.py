# SPDX-License-Identifier: BSD-2-Clause
"""The prose holds: made parts are fresh, links lead somewhere, examples are accepted, names exist."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import typer.main

from gateway.api.routes import OPERATIONS
from gateway.calls.target import read_target
from gateway.cli import app
from gateway.config import load
from gateway.config.settings import contract_regions
from gateway.model.reasons import REASONS
from serializers.registry import DIALECTS
from tests.harness.pages import LANGUAGES, PAGES, README, ROOT, blocks, name_of, parts, read

API = ROOT / "docs" / "api.md"
CARRIER_PAGES = sorted((ROOT / "docs" / "carriers").glob("*.md"))

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = re.compile(r"^PATCHBAY_\w+=", re.MULTILINE)

SECRET = "a-secret-of-twenty-four-letters"
SECRETS = {
    "PRIVATE_KEY": "sk_0123456789abcdef0123",
    "PUBLIC_KEY": "0bpIkn7h6592phYq2uVcc4perlpHEvkX3nF/vUCr3zQ=",
    "SID": "AC00000000000000000000000000000001",
    "HMAC": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}
"""What an example's variable may hold, by the end of its name."""

WHOLE = re.compile(r"^\[\[organizations\]\]", re.MULTILINE)
REFERENCE = re.compile(r'"env:(\w+)"')
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FILE = re.compile(
    r"`((?:gateway|serializers|texml|tests|fixtures|benchmarks|docs|examples|deploy)/[\w./-]*)`"
)
FIRST_CELL = re.compile(r"^\| (`[^|]+`) \|", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")


def prose(page: Path) -> str:
    return FENCE.sub("", read(page))


def anchors(page: Path) -> set[str]:
    """The headings of a page as a link names them."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(prose(page))}


def section(page: Path, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", read(page), re.MULTILINE | re.DOTALL)
    assert found, f"{name_of(page)} has no section {title}"
    return found[1]


def rows(text: str) -> set[str]:
    """The names in the first column of the tables in a text."""
    return {name for cell in FIRST_CELL.findall(text) for name in CODE.findall(cell)}


def keys(example: str) -> set[str]:
    found: set[str] = set(json.loads(example))
    return found


@pytest.fixture(params=PAGES, ids=name_of)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture(params=CARRIER_PAGES, ids=lambda page: page.stem)
def carrier_page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def configuration() -> str:
    """The one in README.md."""
    (text,) = blocks(README, "toml")
    return text


def test_made_parts_are_what_the_code_makes(page: Path) -> None:
    updated = runpy.run_path(str(ROOT / "docs" / "update.py"))["updated"]
    assert read(page) == updated(read(page)), "run: python docs/update.py"


def test_the_pages_have_every_generated_part() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "update.py"))["PARTS"]
    text = "".join(map(read, PAGES))
    assert all(f"<!-- {name} -->\n{make()}\n<!-- /{name} -->" in text for name, make in made.items())


def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", prose(page))):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not parts.fragment or parts.fragment in anchors(target), f"{link}: no such heading"


def test_files_that_are_named_exist(page: Path) -> None:
    for name in FILE.findall(prose(page)):
        pattern = name.replace("NAME", "*")
        assert (ROOT / name).exists() or list(ROOT.glob(pattern)), f"{name} does not exist"


def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    group = typer.main.get_command(app)
    commands = set(group.list_commands(None))  # type: ignore[attr-defined]
    code = "\n".join([*CODE.findall(prose(page)), *(body for _, body in FENCE.findall(read(page)))])
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets
    assert set(re.findall(r"^(?:\S*/bin/)?patchbay ([a-z]+)", code, re.MULTILINE)) <= commands


def test_every_xml_document_is_well_formed(page: Path) -> None:
    for document in blocks(page, "xml"):
        assert ElementTree.fromstring(document.encode()).tag == "Response"


def test_every_json_example_is_json(page: Path) -> None:
    for example in blocks(page, "json"):
        json.loads(example)
    for example in blocks(page, "jsonl"):
        for line in example.splitlines():
            json.loads(line)


def test_every_block_says_what_it_is_written_in(page: Path) -> None:
    shown = [part for part in parts(page) if not part.hidden]
    assert {block.language for block in shown} <= LANGUAGES
    assert len(re.findall(r"^\s*```", read(page), re.MULTILINE)) == 2 * len(shown), (
        "a block that is not at the margin"
    )


def test_every_python_example_compiles(page: Path) -> None:
    for example in blocks(page, "python"):
        compile(example, name_of(page), "exec")


def test_every_table_of_settings_is_taken(page: Path, configuration: str, tmp_path: Path) -> None:
    """A block with an organisation is a whole file; any other adds to the one in README.md."""
    for number, example in enumerate(blocks(page, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(example if WHOLE.search(example) else f"{configuration}\n{example}")
        assert load(file, secrets_of(example)).agents


def secrets_of(example: str) -> dict[str, str]:
    """A value for each variable that an example takes from the environment."""
    return {
        name: next((value for end, value in SECRETS.items() if name.endswith(end)), SECRET)
        for name in REFERENCE.findall(example)
    }


def test_every_variable_of_the_environment_is_one(page: Path, configuration: str, tmp_path: Path) -> None:
    (file := tmp_path / "patchbay.toml").write_text(configuration)
    for example in blocks(page, "sh"):
        if ENVIRONMENT.match(example):
            for name, _, value in (line.partition("=") for line in example.splitlines()):
                assert load(file, {name: "".join(shlex.split(value))})


def test_the_picture_is_an_svg_with_words_for_those_who_cannot_see_it() -> None:
    root = ElementTree.parse(ROOT / "docs" / "planes.svg").getroot()
    namespace = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{namespace}svg"
    assert root.findtext(f"{namespace}title")
    assert root.findtext(f"{namespace}desc")


def test_the_configuration_of_the_readme_works(configuration: str, tmp_path: Path) -> None:
    file = tmp_path / "patchbay.toml"
    file.write_text(configuration, encoding="utf-8")
    assert [agent.service_host for agent in load(file, {}).agents] == ["support.acme"]


def test_what_a_carrier_page_adds_to_it_works_together(
    carrier_page: Path, configuration: str, tmp_path: Path
) -> None:
    file = tmp_path / "patchbay.toml"
    file.write_text("\n".join([configuration, *blocks(carrier_page, "toml")]), encoding="utf-8")
    assert load(file, {}).agents


def test_the_configuration_of_the_api_page_works(tmp_path: Path) -> None:
    file = tmp_path / "patchbay.toml"
    file.write_text("\n".join(blocks(API, "toml")), encoding="utf-8")
    settings = load(file, {"DAILY_API_KEY": "a-key", "TURN_SECRET": "a-secret"})
    assert [agent.service_host for agent in settings.agents] == ["support.acme", "helper.acme"]


def test_every_route_that_the_api_page_names_is_served() -> None:
    served = {f"{row.method} {re.sub('{[^}]*}', 'NAME', row.path)}" for row in OPERATIONS}
    named = re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /v1/[^`?]+)", prose(API))
    assert named
    for route in named:
        method, _, path = route.partition(" ")
        assert f"{method} {re.sub('[A-Z]{2,}', 'NAME', path)}" in served, f"{route} is not served"


def test_every_carrier_has_a_page_that_the_readme_links() -> None:
    assert [page.stem for page in CARRIER_PAGES] == sorted(DIALECTS)
    linked = LINK.findall(read(README))
    assert all(f"docs/carriers/{carrier}.md" in linked for carrier in DIALECTS)


def socket_urls(page: Path) -> Iterator[str]:
    """The gateway's URLs on a page, but those that a proxy would change first or that are cut short."""
    for url in re.findall(r"""wss://[^\s"'`<>]+""", read(page)):
        if urlsplit(url).path.startswith("/ws/") and "…" not in url:
            yield url


def test_the_urls_of_a_carrier_page_reach_the_agent_of_the_example(carrier_page: Path) -> None:
    urls = list(socket_urls(carrier_page))
    assert urls
    for url in urls:
        parts = urlsplit(url)
        target = read_target(
            parts,
            parts.netloc,
            carriers=DIALECTS.keys(),
            regions=[region.code for region in contract_regions()],
            region="us-west",
            max_body_bytes=4096,
        )
        assert target.carrier == carrier_page.stem
        assert target.named in ((), ("support.acme",))
        assert target.region == ("eu-central" if "eu-central" in url else "us-west")


def test_twilio_is_given_no_query() -> None:
    (page,) = (page for page in CARRIER_PAGES if page.stem == "twilio")
    assert not any(urlsplit(url).query for url in socket_urls(page))


def test_the_runbook_has_every_ending_and_no_other() -> None:
    assert rows(section(ROOT / "docs" / "operations.md", "Runbook")) == set(REASONS)


def test_every_field_of_the_examples_is_explained() -> None:
    operations = ROOT / "docs" / "operations.md"
    line, request, status = blocks(operations, "json")
    of_every_line = rows(section(operations, "The log line of a call"))
    assert keys(line) <= of_every_line
    assert keys(request) <= of_every_line | rows(section(operations, "The log line of a request"))
    assert keys(status) <= rows(section(operations, "What /status says"))
