# SPDX-License-Identifier: BSD-2-Clause
"""The problems of an invalid configuration: all are reported, each with its place, none with a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import ConfigError, Problem, load

Problems = Callable[..., tuple[Problem, ...]]

AGENT = '[[agents]]\nname = "support"\norganization = "acme"\n'


def value_cases() -> list[tuple[str, str, int, str]]:
    """Texts, each with the place of its problem, the line, and some of the message."""
    return [
        ("[server]\nhsot = 'x'\n", "server.hsot", 2, "did you mean host?"),
        ("[server]\nqqq = 1\n", "server.qqq", 2, "known are host, port"),
        ("[sever]\nport = 1\n", "sever", 1, "did you mean server?"),
        ("[server]\n'od\td' = 1\n", "server.'od\\td'", 2, "is not a known key"),
        ("server = 5\n", "server", 1, "must be a table"),
        ("[agents]\nname = 'x'\n", "agents", 1, "[[agents]]"),
        ("[server]\nport = 'eighty'\n", "server.port", 2, "must be a valid integer"),
        ("[server]\nport = true\n", "server.port", 2, "not true or false"),
        ("[server]\nport = 65536\n", "server.port", 2, "less than or equal to 65535"),
        ("[server]\nhost = ''\n", "server.host", 2, "at least 1 character"),
        ("[server]\nhost = 5\n", "server.host", 2, "must be a valid string"),
        ("[server]\nworkers = 0\n", "server.workers", 2, "greater than or equal to 1"),
        ("[server]\nlog_format = 'xml'\n", "server.log_format", 2, "'auto', 'json' or 'console'"),
        ("[server]\ndrain_timeout = -1\n", "server.drain_timeout", 2, "greater than or equal to 0"),
        ("[server]\nregion = 'mars'\n", "server.region", 2, "there is no region 'mars'"),
        ("[server]\npublic_url = 'voice.example.com'\n", "server.public_url", 2, "http:// or https://"),
        ("[store]\nurl = 'mysql://h'\n", "store.url", 2, "must start with sqlite:///, redis:// or rediss://"),
        ("[store]\nurl = 'redis:///0'\n", "store.url", 2, "must name a host"),
        ("[store]\nurl = 'redis://h:0/0'\n", "store.url", 2, "must name a host"),
        ("[store]\nurl = 'rediss://h/calls'\n", "store.url", 2, "the number of a database"),
        ("[store]\nurl = 'redis://h/0?timeout=1'\n", "store.url", 2, "no ? and no #"),
        ("[store]\nurl = 'redis://h,:6379/0'\n", "store.url", 2, "must name a host"),
        ("[store]\nurl = 'redis+sentinel://h:26379/'\n", "store.url", 2, "must name the service"),
        ("[store]\nurl = 'redis+sentinel://h/calls/x'\n", "store.url", 2, "the number of a database"),
        ("[store]\npassword = 'x'\n", "store", 1, "go with a URL of Redis"),
        (
            "[store]\nurl = 'redis://h'\nsentinel_password = 'x'\n",
            "store",
            1,
            "go with redis+sentinel://",
        ),
        ("[store]\nurl = 'redis://:a@h'\npassword = 'b'\n", "store", 1, "one of them is enough"),
        ("[store]\nurl = 'sqlite:///:memory:'\n", "store.url", 2, "cannot be shared"),
        ("[store]\nurl = 'sqlite:///'\n", "store.url", 2, "must name a file"),
        ("[store]\nurl = 'sqlite:///a?mode=ro'\n", "store.url", 2, "without ? or #"),
        ("[limits]\nstart_timeout = 0\n", "limits.start_timeout", 2, "greater than 0"),
        ("[limits]\nstall_timeout = inf\n", "limits.stall_timeout", 2, "finite number"),
        ("[limits]\nclose_timeout = nan\n", "limits.close_timeout", 2, "finite number"),
        ("limits.max_body_bytes = 0\n", "limits.max_body_bytes", 1, "greater than or equal to 1"),
        ("[[organizations]]\nname = 'a.b'\n", "organizations[0].name", 2, "small letters"),
        ("[[agents]]\nname = 'x1'\n", "agents[0].organization", 1, "is missing"),
        (AGENT + "\n# more\n" + AGENT.replace("support", "S"), "agents[1].name", 7, "2 to 54"),
        (AGENT + "max_agents = 0\n", "agents[0].max_agents", 4, "greater than or equal to 1"),
        (AGENT + "min_agents = 60\n", "agents[0].min_agents", 4, "at most max_agents, which is 50"),
        (AGENT + "max_session_duration = 14401\n", "agents[0].max_session_duration", 4, "14400"),
        (AGENT + "websocket_auth = 'key'\n", "agents[0].websocket_auth", 4, "'none', 'token' or 'required'"),
        (AGENT + "idle_timeout = 0\n", "agents[0].idle_timeout", 4, "greater than 0"),
        (AGENT + "region = 'mars'\n", "agents[0].region", 4, "there is ap-south, eu-central"),
        (AGENT + "instances = []\n", "agents[0].instances", 4, "must name at least one"),
        (AGENT + "instances = 'http://a'\n", "agents[0].instances", 4, "must be a list"),
        (AGENT + "instances = ['http://a',\n 'http://a/']\n", "agents[0].instances[1]", 4, "is already at"),
        (AGENT + AGENT, "agents[1].name", 5, "agent 'support.acme' is already at agents[0].name"),
        (AGENT + "[[organizations]]\nname = 'b'\n", "agents[0].organization", 3, "no organisation 'acme'"),
        ("[[organizations]]\nname='b'\n" * 2, "organizations[1].name", 4, "is already at"),
        ("[[regions]]\ncode='us-west'\ndisplay_name='W'\n" * 2, "regions[1].code", 5, "is already at"),
        ("[[numbers]]\nnumber='+15559876543'\nagent='a.b'\n", "numbers[0].agent", 3, "no agent 'a.b'"),
        ("[[numbers]]\nnumber='555'\nagent='support.acme'\n" + AGENT, "numbers[0].number", 2, "E.164"),
        (
            "[[numbers]]\nnumber='+15559876543'\nagent='support.acme'\n" * 2 + AGENT,
            "numbers[1].number",
            5,
            "is already at numbers[0].number",
        ),
    ]


@pytest.mark.parametrize(("text", "place", "line", "words"), value_cases())
def test_an_invalid_value_is_reported_with_place_and_line(
    problems: Problems, text: str, place: str, line: int, words: str
) -> None:
    (problem,) = problems(text)
    assert problem.place == place
    assert problem.where.endswith(f"patchbay.toml, line {line}")
    assert words in problem.message
    assert str(problem) == f"{place} ({problem.where}): {problem.message}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a:8080",
        "ftp://a:8080",
        "http://",
        "http://:8080",
        "http://a:0",
        "http://a:",
        "http://a:65536",
        "http://a:http",
        "http://[::1",
        "http://a b",
        "http://a\n",
        "http://ä",
        "http://a,b",
        "http://user:hunter2@a",
        "http://a/bot",
        "http://a//",
        "http://a?x=1",
        "http://a?",
        "http://a#x",
    ],
)
def test_an_instance_is_a_scheme_a_host_and_a_port(problems: Problems, url: str) -> None:
    (problem,) = problems(AGENT, {"PATCHBAY_AGENTS__0__INSTANCES__0": url})
    assert problem.message.startswith("must ")
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize("name", ["", "a", "A1", "-a", "a-", "a.b", "a_b", "a" * 55, "ab\n", "ä1"])
def test_an_agent_name_that_the_public_api_does_not_allow(problems: Problems, name: str) -> None:
    (problem,) = problems(AGENT, {"PATCHBAY_AGENTS__0__NAME": name})
    assert problem.place == "PATCHBAY_AGENTS__0__NAME"


@pytest.mark.parametrize(
    ("variable", "value", "place", "words"),
    [
        ("PATCHBAY_SERVER__PRT", "1", "PATCHBAY_SERVER__PRT", "did you mean PATCHBAY_SERVER__PORT?"),
        ("PATCHBAY_SEVER__PORT", "1", "PATCHBAY_SEVER__PORT", "did you mean PATCHBAY_SERVER?"),
        ("PATCHBAY_PORT", "8000", "PATCHBAY_PORT", "known are PATCHBAY_SERVER, "),
        ("PATCHBAY_SERVER_PORT", "8000", "PATCHBAY_SERVER_PORT", "did you mean PATCHBAY_SERVER?"),
        ("PATCHBAY_", "1", "PATCHBAY_", "known are PATCHBAY_SERVER, "),
        ("PATCHBAY_server__port", "1", "PATCHBAY_server__port", "did you mean PATCHBAY_SERVER?"),
        ("PATCHBAY_SERVER__PORT__X", "1", "PATCHBAY_SERVER__PORT__X", "PATCHBAY_SERVER__PORT is a single"),
        ("PATCHBAY_AGENTS__NAME", "1", "PATCHBAY_AGENTS__NAME", "after PATCHBAY_AGENTS__ comes the number"),
        ("PATCHBAY_AGENTS__-1__NAME", "1", "PATCHBAY_AGENTS__-1__NAME", "comes the number"),
        ("PATCHBAY_AGENTS__2__NAME", "x1", "PATCHBAY_AGENTS__2__NAME", "agents has 1, counted from 0"),
        ("PATCHBAY_AGENTS", "support", "PATCHBAY_AGENTS", "must be JSON, because it stands for a whole list"),
        ("PATCHBAY_SERVER", "[" * 100_000, "PATCHBAY_SERVER", "must be JSON"),
        ("PATCHBAY_SERVER", "5", "PATCHBAY_SERVER", "must be a table"),
        ("PATCHBAY_SERVER__PORT", "http", "PATCHBAY_SERVER__PORT", "must be a valid integer"),
        ("PATCHBAY_SERVER__PORT", "", "PATCHBAY_SERVER__PORT", "must be a valid integer"),
        ("PATCHBAY_LIMITS__STALL_TIMEOUT", "inf", "PATCHBAY_LIMITS__STALL_TIMEOUT", "finite"),
        ("PATCHBAY_AGENTS__0__REGION", "mars", "PATCHBAY_AGENTS__0__REGION", "there is no region 'mars'"),
    ],
)
def test_an_invalid_variable_is_named(
    problems: Problems, variable: str, value: str, place: str, words: str
) -> None:
    (problem,) = problems(AGENT, {variable: value})
    assert problem.place == place
    assert words in problem.message


def test_a_problem_inside_a_json_variable_names_variable_and_place(problems: Problems) -> None:
    (problem,) = problems("", {"PATCHBAY_AGENTS": '[{"name": "support", "organization": "a", "max": 1}]'})
    assert (problem.place, problem.where) == ("PATCHBAY_AGENTS", "agents[0].max")


def test_an_item_that_a_variable_adds_needs_its_other_keys(problems: Problems) -> None:
    found = problems("", {"PATCHBAY_AGENTS__0__MAX_AGENTS": "1"})
    assert [str(problem) for problem in found] == [
        "agents[0].name: is missing",
        "agents[0].organization: is missing",
    ]


def test_a_variable_does_not_hide_a_wrong_type_in_the_file(problems: Problems) -> None:
    (problem,) = problems("[agents]\nname = 'x1'\n", {"PATCHBAY_AGENTS__0__NAME": "x2"})
    assert problem.place == "agents"


def test_all_problems_are_reported_at_once(problems: Problems) -> None:
    text = AGENT + "region = 'mars'\n[server]\nport = -1\n[[numbers]]\nnumber = 5\nagent = 'x.y'\n"
    found = problems(text, {"PATCHBAY_LIMITS__X": "1", "PATCHBAY_STORE__URL": "file"})
    assert {problem.place for problem in found} == {
        "PATCHBAY_LIMITS__X",
        "PATCHBAY_STORE__URL",
        "agents[0].region",
        "server.port",
        "numbers[0].number",
        "numbers[0].agent",
    }


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        (b"[server]\nport = \n", "line 2, column 8", "is not TOML: Invalid value"),
        (b"[server]\nport = 1\nport = 2\n", "line 3, column 9", "is not TOML"),
        (b"[server", "at its end", "is not TOML"),
        (b"[server]\nhost = '\xff'\n", "line 2", "is not UTF-8 text"),
        (b"x = " + b"[" * 100_000, "", "is nested too deeply"),
        (b"x = " + b"9" * 5_000, "", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_parsed(tmp_path: Path, content: bytes, where: str, words: str) -> None:
    path = tmp_path / "patchbay.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (problem,) = caught.value.problems
    assert (problem.place, problem.where) == (str(path), where)
    assert words in problem.message


@pytest.mark.parametrize(
    ("name", "words"), [("missing.toml", "No such file"), (".", "directory"), ("a\0b", "file name")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / name, {})


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("private_keys = ['hunter2']", "organizations[0].private_keys[0]", "must start with sk_ or pcc_pat_"),
        ("private_keys = ['sk_']", "organizations[0].private_keys[0]", "go on"),
        ("private_keys = 'sk_hunter2'", "organizations[0].private_keys", "must be a list"),
        ("private_keys = [['sk_hunter2']]", "organizations[0].private_keys[0]", "must be a valid string"),
        ("public_keys = ['sk_hunter2']", "organizations[0].public_keys[0]", "must start with pk_"),
        ("private_keyz = ['sk_hunter2']", "organizations[0].private_keyz", "did you mean private_keys?"),
        ("private_keys = ['sk_hunter2', 'sk_hunter2']", "organizations[0].private_keys[1]", "is already at"),
        ("private_keys = ['sk_hunter2\n']", "patchbay.toml", "is not TOML"),
    ],
)
def test_no_problem_repeats_a_key(problems: Problems, text: str, place: str, words: str) -> None:
    (problem,) = problems(f"[[organizations]]\nname = 'acme'\n{text}\n")
    assert problem.place.endswith(place)
    assert words in problem.message
    assert "hunter2" not in str(problem)


def test_one_key_cannot_belong_to_two_organisations(problems: Problems) -> None:
    text = "[[organizations]]\nname = 'acme'\nprivate_keys = ['sk_hunter2']\n"
    (problem,) = problems(text + text.replace("acme", "globex"))
    assert problem.place == "organizations[1].private_keys[0]"
    assert "hunter2" not in str(problem)


def test_the_text_of_the_error_has_every_problem(problems: Problems) -> None:
    with pytest.raises(ConfigError) as caught:
        raise ConfigError(problems("[server]\nport = -1\nworkers = 0\n"))
    assert "server.port (" in str(caught.value)
    assert "server.workers (" in str(caught.value)


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/x",
        "https://",
        "null",
        "https://*.a",
    ],
)
def test_an_origin_is_scheme_host_and_port_alone(problems: Problems, origin: str) -> None:
    (problem,) = problems(f"[server]\nallowed_origins = ['{origin}']\n")
    assert problem.place == "server.allowed_origins[0]"
    assert "https://app.example.com" in problem.message
