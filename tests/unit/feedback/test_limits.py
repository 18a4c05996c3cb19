"""Rates, breaker and budget against a clock of our own: what may be sent when, and never more than that."""

import random

import pytest

from rayrl.config.schema import BudgetConfig, RetryConfig
from rayrl.feedback.limits import Breaker, Budget, TokenBucket


@pytest.mark.parametrize("seed", range(20))
def test_no_window_of_a_minute_sees_more_than_a_minute_and_the_head_start(seed):
    rng, bucket, now, sent = random.Random(seed), TokenBucket(600.0), 1000.0, []
    while now < 1400.0:
        pause = bucket.delay(now)
        if pause == 0.0:
            bucket.take(1.0, now)
            sent.append(now)
        now += max(pause, rng.choice((0.0, 0.0, 0.001, 0.3))) + 1e-6
    for start in range(1000, 1340, 7):
        assert sum(start <= t < start + 60 for t in sent) <= 600 + 50, "10 a second, 5 seconds ahead"
    assert len(sent) > 10 * 400 * 0.5


def test_a_large_debt_is_waited_for_and_what_was_too_much_comes_back():
    bucket = TokenBucket(6000.0)  # 100 a second
    assert bucket.delay(1.0) == 0.0
    bucket.take(2000.0, 1.0)
    assert bucket.delay(1.0) == pytest.approx(15.01)
    bucket.take(-1900.0, 1.0)
    assert bucket.delay(1.0) == 0.0
    assert TokenBucket(0.0).delay(5.0) == 0.0, "0 is no limit"


def test_the_breaker_opens_after_failures_in_a_row_and_one_success_of_the_one_that_tries_closes_it():
    breaker = Breaker(RetryConfig(breaker_failures=3, breaker_s=10.0))
    breaker.failed(0.0)
    breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(1.0)
    assert breaker.delay(1.0) == 0.0, "not in a row"
    breaker.failed(1.0)
    assert breaker.is_open and breaker.delay(4.0) == pytest.approx(7.0) and breaker.times_open == 1
    assert breaker.delay(11.0) == 0.0
    breaker.sent()
    assert breaker.delay(11.0) is None, "one tries, the others wait"
    breaker.failed(12.0)
    assert breaker.delay(12.0) == pytest.approx(10.0) and breaker.times_open == 1
    breaker.sent()
    breaker.succeeded()
    assert not breaker.is_open and breaker.delay(12.0) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_spent_and_reserved_never_exceed_either_cap(seed):
    rng = random.Random(seed)
    caps = BudgetConfig(tokens=5000, usd=0.02, usd_per_million_input=2.0, usd_per_million_output=8.0)
    budget, out, refused = Budget(caps), [], 0
    for _ in range(2000):
        if out and rng.random() < 0.5:
            reserved, prompt, completion = out.pop(rng.randrange(len(out)))
            used = rng.randint(0, prompt), rng.randint(0, completion)
            budget.settle(reserved, sum(used), budget.cost(*used))
        else:
            prompt, completion = rng.randint(1, 300), rng.randint(1, 200)
            reserved = budget.reserve(prompt, completion)
            refused += reserved is None
            if reserved is not None:
                out.append((reserved, prompt, completion))
        assert budget.tokens + budget.reserved_tokens <= 5000 and budget.usd + budget.reserved_usd <= 0.02 + 1e-12
    assert refused > 0
