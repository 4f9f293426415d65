# SPDX-License-Identifier: BSD-2-Clause
"""Entries of `instances` that say where instances are found, and the name servers that are asked."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from gateway.config import Settings
from gateway.config.problems import Problem
from gateway.config.source_urls import DnsSource, KubernetesSource, check_instance, parse_source

BOTH = (socket.AF_INET, socket.AF_INET6)


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("dns://support.default.svc:8080", DnsSource("support.default.svc", 8080, BOTH)),
        ("dns://Support:80/", DnsSource("support", 80, BOTH)),
        ("dns://support.example.com.:80", DnsSource("support.example.com.", 80, BOTH)),
        ("dns://_sip._tcp.support:80", DnsSource("_sip._tcp.support", 80, BOTH)),
        ("dns4://support:1", DnsSource("support", 1, BOTH[:1])),
        ("dns6://support:65535", DnsSource("support", 65535, BOTH[1:])),
        ("kubernetes://default/support:http", KubernetesSource("default", "support", "http")),
        ("kubernetes://default/support:8080", KubernetesSource("default", "support", "8080")),
    ],
)
def test_a_source_is_read(entry: str, source: DnsSource | KubernetesSource) -> None:
    assert parse_source(check_instance(entry)) == source


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("dns://support", "a host and a port"),
        ("dns://support:", "a host and a port"),
        ("dns://support:0", "a host and a port"),
        ("dns://support:65536", "a host and a port"),
        ("dns://support:http", "a host and a port"),
        ("dns://:80", "a host and a port"),
        ("dns://a..b:80", "a host and a port"),
        ("dns://user@support:80", "a host and a port"),
        ("dns://support:80/path", "a host and a port"),
        ("dns://support:80?x", "a host and a port"),
        (f"dns://{'a' * 64}:80", "a host and a port"),
        ("dns://[::1]:80", "a host and a port"),
        ("dns://10.0.0.5:80", "an address is an instance itself"),
        ("kubernetes://support:80", "a Service and a port"),
        ("kubernetes://default/support", "a Service and a port"),
        ("kubernetes://Default/support:80", "a Service and a port"),
        ("kubernetes://default/support:80/x", "a Service and a port"),
        ("kubernetes://default/support:0", "a port from 1 to 65535"),
        ("kubernetes://default/support:65536", "a port from 1 to 65535"),
        ("dns+https://support:80", "starts with http:// or https://"),
        ("consul://support:80", "starts with http:// or https://"),
    ],
)
def test_what_is_no_source_is_told(entry: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_instance(entry)


def test_a_source_may_stand_beside_urls(read: Callable[..., Settings]) -> None:
    entries = ["http://10.0.0.5:8080", "dns://support:8080", "kubernetes://default/support:http"]
    text = f'[[agents]]\nname = "support"\norganization = "acme"\ninstances = {entries}'
    assert read(text).agents[0].instances == entries


def test_the_same_source_twice_is_told(problems: Callable[..., tuple[Problem, ...]]) -> None:
    text = '[[agents]]\nname = "support"\norganization = "acme"\ninstances = ["dns://a:1", "dns://a:1/"]'
    assert "already" in problems(text)[0].message


def test_reserved_slots_of_an_agent_whose_instances_are_found_are_not_counted(
    read: Callable[..., Settings],
) -> None:
    text = (
        '[[agents]]\nname = "support"\norganization = "acme"\ninstances = ["dns://a:1"]\nreserve_inbound = 3'
    )
    assert read(text).agents[0].reserve_inbound == 3


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:8600", "::1", "[::1]:8600"])
def test_a_name_server_is_an_address_with_or_without_a_port(
    address: str, read: Callable[..., Settings]
) -> None:
    assert read(f'[server]\nnameservers = ["{address}"]').server.nameservers == [address]


@pytest.mark.parametrize("address", ["ns.example.com", "127.0.0.1:0", "127.0.0.1:", "[::1]:x", "", "a:53"])
def test_what_is_no_name_server_is_told(address: str, problems: Callable[..., Any]) -> None:
    assert "must be an address" in problems(f'[server]\nnameservers = ["{address}"]')[0].message
