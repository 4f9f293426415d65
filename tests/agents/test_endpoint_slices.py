# SPDX-License-Identifier: BSD-2-Clause
"""Which endpoints of a Service get calls, by what its EndpointSlices say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.agents.endpoint_slices import EndpointSlice, instances_of
from tests.harness.kubernetes_server import endpoint, endpoint_slice


def found(*slices: dict[str, Any], port: str = "http") -> list[str]:
    """Return the instances of these slices."""
    return instances_of(msgspec.convert(slices, list[EndpointSlice]), port)[0]


def remark(*slices: dict[str, Any], port: str = "http") -> str:
    """Return what is wrong with these slices."""
    return instances_of(msgspec.convert(slices, list[EndpointSlice]), port)[1]


def test_all_slices_count_and_the_order_is_that_of_the_addresses() -> None:
    slices = [
        endpoint_slice("b", endpoint("10.0.0.10", "p3"), endpoint("10.0.0.9", "p2")),
        endpoint_slice("a", endpoint("10.0.0.2", "p1")),
    ]
    expected = ["http://10.0.0.2:8080", "http://10.0.0.9:8080", "http://10.0.0.10:8080"]
    assert found(*slices) == found(*reversed(slices)) == expected


@pytest.mark.parametrize(
    ("conditions", "gets_calls"),
    [
        ({}, True),
        ({"ready": None, "serving": None, "terminating": None}, True),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False, "serving": False}, False),
        ({"ready": True, "serving": False}, False),  # publishNotReadyAddresses
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": False, "serving": False, "terminating": True}, False),
        ({"ready": False, "serving": None, "terminating": None}, True),
    ],
)
def test_an_endpoint_gets_calls_while_it_serves_and_does_not_terminate(
    conditions: dict[str, bool | None], gets_calls: bool
) -> None:
    assert bool(found(endpoint_slice("a", endpoint("10.0.0.1", "p1", **conditions)))) is gets_calls


def test_an_endpoint_without_conditions_or_pod_gets_calls() -> None:
    each = endpoint_slice("a", {"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": None})
    assert found(each) == ["http://10.0.0.1:8080", "http://10.0.0.2:8080"]


def test_an_endpoint_in_two_slices_counts_once() -> None:
    twice = [endpoint_slice(name, endpoint("10.0.0.1", "p1"), endpoint("10.0.0.2")) for name in ("a", "b")]
    assert found(*twice) == ["http://10.0.0.1:8080", "http://10.0.0.2:8080"]


def test_an_endpoint_that_one_of_two_slices_says_to_terminate_gets_no_calls() -> None:
    old = endpoint_slice("a", endpoint("10.0.0.1", "p1", serving=True, terminating=False))
    new = endpoint_slice("b", endpoint("10.0.0.1", "p1", serving=True, terminating=True))
    assert found(old, new) == found(new, old) == []


def test_a_pod_with_addresses_of_both_families_is_one_instance() -> None:
    six = endpoint_slice("six", endpoint("fd00::1", "p1"), endpoint("fd00::2", "p2"), family="IPv6")
    four = endpoint_slice("four", endpoint("10.0.0.1", "p1"))
    assert found(six, four) == ["http://10.0.0.1:8080", "http://[fd00::2]:8080"]


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    assert found(endpoint_slice("a", {"addresses": ["10.0.0.1", "10.0.0.2"]})) == ["http://10.0.0.1:8080"]


@pytest.mark.parametrize(
    ("port", "expected"),
    [("http", ["http://10.0.0.1:8080"]), ("8080", ["http://10.0.0.1:8080"]), ("media", []), ("9000", [])],
)
def test_a_port_is_one_of_the_slice_by_its_name_or_number(port: str, expected: list[str]) -> None:
    assert found(endpoint_slice("a", endpoint("10.0.0.1")), port=port) == expected


def test_pods_whose_ports_differ_each_have_their_own() -> None:
    slices = [
        endpoint_slice("a", endpoint("10.0.0.1"), ports=[{"name": "http", "port": 8080}]),
        endpoint_slice("b", endpoint("10.0.0.2"), ports=[{"name": "http", "port": 9090}]),
    ]
    assert found(*slices) == ["http://10.0.0.1:8080", "http://10.0.0.2:9090"]


@pytest.mark.parametrize("ports", [None, [], [{"name": "", "port": None}]])
def test_a_slice_that_names_no_port_has_any(ports: list[dict[str, Any]] | None) -> None:
    assert found(endpoint_slice("a", endpoint("10.0.0.1"), ports=ports), port="8080")


def test_a_port_of_another_protocol_is_none() -> None:
    assert not found(
        endpoint_slice("a", endpoint("10.0.0.1"), ports=[{"name": "http", "port": 8080, "protocol": "UDP"}])
    )


def test_what_is_no_address_is_left_out() -> None:
    assert (
        found(
            endpoint_slice("a", endpoint("support.test"), {"addresses": []}, {"addresses": None}),
            endpoint_slice("b", endpoint("support.test"), family="FQDN"),
            endpoint_slice("c"),
        )
        == []
    )


def test_a_service_without_slices_is_told() -> None:
    assert "no EndpointSlice" in remark()


def test_a_port_that_no_endpoint_has_is_told_with_those_there_are() -> None:
    assert remark(endpoint_slice("a", endpoint("10.0.0.1")), port="80") == (
        "no endpoint has the port 80; there is 8080 (http)"
    )


def test_a_service_that_was_scaled_to_nothing_is_no_fault() -> None:
    assert remark(endpoint_slice("a"), port="80") == ""
