# SPDX-License-Identifier: BSD-2-Clause
"""Token buckets, and the limit for addresses that try unknown keys. The test sets the time."""

from __future__ import annotations

import pytest

from gateway.auth import rate_limits
from gateway.auth.rate_limits import FailedKeyLimiter, RateLimiter


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


def test_an_address_counts_as_its_customers_network() -> None:
    limiter = FailedKeyLimiter(RateLimiter(per_second=1.0, burst=1))
    limiter.record_failure("a", "2001:db8:1:2::7", 0.0)
    assert limiter.retry_after_s("b", "2001:db8:1:2:ffff::9", 0.0) == 1.0
    assert limiter.retry_after_s("b", "2001:db8:1:3::7", 0.0) == 0.0
    limiter.record_failure("a", "fe80::1%eth0", 0.0)
    assert limiter.retry_after_s("b", "fe80::2%eth0", 0.0) == 1.0
    limiter.record_failure("a", "192.0.2.7", 0.0)
    assert limiter.retry_after_s("b", "192.0.2.8", 0.0) == 0.0
    limiter.record_failure("a", "", 0.0)
    assert limiter.retry_after_s("b", "", 0.0) == 1.0


def test_the_oldest_valid_key_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_VALID_KEYS", 2)
    limiter = FailedKeyLimiter(RateLimiter(per_second=1.0, burst=1))
    limiter.record_failure("x", "192.0.2.7", 0.0)
    for key in "abac":
        limiter.record_success(key)
    assert [limiter.retry_after_s(key, "192.0.2.7", 0.0) for key in "abc"] == [0.0, 1.0, 0.0]
    limiter.record_failure("a", "192.0.2.7", 0.0)  # revoked
    assert limiter.retry_after_s("a", "192.0.2.7", 0.0) == 1.0
