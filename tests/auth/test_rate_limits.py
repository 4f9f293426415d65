# SPDX-License-Identifier: BSD-2-Clause
"""Token buckets, and the limit for addresses that try unknown keys. The test sets the time."""

from __future__ import annotations

import pytest

from gateway.auth import rate_limits
from gateway.auth.rate_limits import RateLimiter, UnknownKeyLimiter


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    limiter = RateLimiter(per_second=2.0, burst=3)
    assert [limiter.take("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limiter.take("a", 100.25) == 0.25
    assert limiter.take("a", 100.5) == 0.0
    assert limiter.take("a", 100.5) == 0.5
    assert [limiter.take("a", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_each_key_has_its_own_bucket() -> None:
    limiter = RateLimiter(per_second=1.0, burst=1)
    assert limiter.take("a", 0.0) == 0.0
    assert limiter.take("b", 0.0) == 0.0
    assert limiter.take("a", 0.0) == 1.0


def test_a_clock_that_is_set_back_locks_no_key_out() -> None:
    limiter = RateLimiter(per_second=1.0, burst=1)
    assert limiter.take("a", 10_000.0) == 0.0
    assert limiter.take("a", 5.0) == 1.0
    assert limiter.take("a", 6.0) == 0.0


def test_the_oldest_bucket_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_BUCKETS", 2)
    limiter = RateLimiter(per_second=1.0, burst=1)
    for name in "abc":
        assert limiter.take(name, 0.0) == 0.0
    assert limiter.take("c", 0.0) == 1.0
    assert limiter.take("a", 0.0) == 0.0  # forgotten, so full again


def test_what_was_used_already_is_paid_back_first() -> None:
    limiter = RateLimiter(per_second=2.0, burst=1.0)
    limiter.spend("a", 4.0, 100.0)
    assert (limiter.available("a", 100.0), limiter.wait_s("a", 100.0)) == (-3.0, 1.5)
    assert (limiter.available("a", 101.5), limiter.wait_s("a", 101.5)) == (0.0, 0.0)
    assert (limiter.available("b", 100.0), limiter.wait_s("b", 100.0)) == (1.0, 0.0)


def guess(limiter: UnknownKeyLimiter, address: str, now: float = 0.0) -> float:
    """Look an unknown key up; return the seconds to wait if that is not allowed."""
    wait_s = limiter.begin("guessed", address, now)
    if not wait_s:
        limiter.unknown("guessed", address, now)
    return wait_s


@pytest.mark.parametrize(
    ("address", "neighbour", "stranger"),
    [
        ("2001:db8:1:2::7", "2001:db8:1:2:ffff::9", "2001:db8:1:3::7"),
        ("fe80::1%eth0", "fe80::2%eth0", "fe81::1"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        ("::ffff:192.0.2.7", "192.0.2.7", "::ffff:192.0.2.8"),  # as a dual-stack socket reports IPv4
        ("", "", "192.0.2.8"),
    ],
)
def test_an_address_counts_as_its_customers_network(address: str, neighbour: str, stranger: str) -> None:
    limiter = UnknownKeyLimiter(RateLimiter(per_second=1.0, burst=1))
    assert guess(limiter, address) == 0.0
    assert guess(limiter, neighbour) == 1.0
    assert guess(limiter, stranger) == 0.0


def test_keys_that_are_looked_up_at_the_same_time_are_no_more_than_keys_in_turn() -> None:
    limiter = UnknownKeyLimiter(RateLimiter(per_second=1.0, burst=2))
    assert [limiter.begin(key, "192.0.2.7", 0.0) for key in "abc"] == [0.0, 0.0, 1.0]
    limiter.known("a", "192.0.2.7", 0.0)  # so its look-up does not count
    assert [limiter.begin(key, "192.0.2.7", 0.0) for key in "ac"] == [0.0, 0.0]
    limiter.unknown("c", "192.0.2.7", 0.0)
    limiter.undecided("b", "192.0.2.7", 0.0)  # the store did not answer
    assert limiter.begin("d", "192.0.2.7", 0.0) == 0.0
    assert limiter.begin("e", "192.0.2.7", 0.0) == 1.0


def test_valid_keys_make_no_room_for_unknown_ones() -> None:
    limiter = UnknownKeyLimiter(RateLimiter(per_second=1.0, burst=1))
    for _ in range(3):
        assert limiter.begin("a", "192.0.2.7", 0.0) == 0.0
        limiter.known("a", "192.0.2.7", 0.0)
    assert [guess(limiter, "192.0.2.7") for _ in range(2)] == [0.0, 1.0]
    assert limiter.begin("a", "192.0.2.7", 0.0) == 0.0
    limiter.known("a", "192.0.2.7", 0.0)
    assert guess(limiter, "192.0.2.7") == 1.0


def test_the_oldest_valid_key_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_VALID_KEYS", 2)
    limiter = UnknownKeyLimiter(RateLimiter(per_second=1.0, burst=1))
    for key in "abac":
        assert limiter.begin(key, "192.0.2.7", 0.0) == 0.0
        limiter.known(key, "192.0.2.7", 0.0)
    assert guess(limiter, "192.0.2.7") == 0.0
    assert [limiter.begin(key, "192.0.2.7", 0.0) for key in "abc"] == [0.0, 1.0, 0.0]
    limiter.unknown("a", "192.0.2.7", 0.0)  # revoked
    assert limiter.begin("a", "192.0.2.7", 0.0) == 2.0
