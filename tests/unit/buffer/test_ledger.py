"""Every ordinal is somewhere, ends once, and is held by one worker at a time."""

import pytest

from rayrl.buffer.ledger import Ledger
from rayrl.types import OrdinalState


def ledger(make, count=4, **kwargs):
    led = Ledger(**({"lease_s": 10.0, "max_attempts": 2} | kwargs))
    led.admit(make.tasks(*range(count)))
    return led


def ordinals(tasks):
    return [t.prompt.ordinal for t in tasks]


def test_an_ordinal_is_admitted_once_whatever_became_of_it(make):
    led = ledger(make, 3)
    led.lease("a", 0, 1, now=0, version=0)
    led.drop(1, "test")
    for ordinal in (0, 1, 2):
        with pytest.raises(ValueError, match="twice"):
            led.admit(make.tasks(7, ordinal))
    assert led.state(7) is None, "a refused admission must change nothing"


def test_leases_come_in_ordinal_order_also_after_a_reissue(make):
    led = ledger(make, 5)
    assert ordinals(led.lease("a", 0, 3, now=0, version=0)) == [0, 1, 2]
    led.release("a")
    assert ordinals(led.lease("b", 0, 9, now=0, version=0)) == [0, 1, 2, 3, 4]


def test_an_expired_lease_is_reissued_and_no_earlier(make):
    led = ledger(make, 1)
    led.lease("a", 0, 1, now=0, version=0)
    assert led.next_expiry() == 10.0
    assert led.expire(9.99) == 0 and led.lease("b", 0, 1, now=9.99, version=0) == []
    assert led.expire(10.0) == 1
    assert ordinals(led.lease("b", 0, 1, now=10.0, version=0)) == [0]
    assert led.reissued == 1


def test_the_expiry_of_an_old_lease_does_not_end_a_new_one(make):
    led = ledger(make, 1, max_attempts=9)
    led.lease("a", 0, 1, now=0, version=0)
    led.release("a")
    led.lease("b", 0, 1, now=5, version=0)
    assert led.expire(10) == 0 and led.state(0) is OrdinalState.IN_FLIGHT
    assert led.next_expiry() == 15.0
    assert led.expire(15) == 1


def test_the_first_result_wins_and_the_second_worker_is_told(make):
    led = ledger(make, 1)
    led.lease("slow", 0, 1, now=0, version=0)
    led.expire(10)
    led.lease("fast", 0, 1, now=10, version=0)
    assert led.deliver(0, "slow"), "the late result came first"
    assert led.revoked("fast") == [0] and led.revoked("fast") == []
    assert not led.deliver(0, "fast")
    assert led.state(0) is OrdinalState.BUFFERED


def test_a_late_result_is_taken_while_nobody_else_generates(make):
    led = ledger(make, 1)
    led.lease("a", 0, 1, now=0, version=0)
    led.expire(10)
    assert led.deliver(0, "a")
    assert led.lease("b", 0, 1, now=10, version=0) == []


def test_attempts_are_bounded_and_the_drop_is_counted(make):
    led = ledger(make, 1)
    for _ in range(2):
        led.lease("a", 0, 1, now=0, version=0)
        led.release("a")
    assert led.state(0) is OrdinalState.DROPPED
    assert led.dropped_by == {"attempts": 1} and led.num_live == 0


def test_only_the_holder_may_give_a_prompt_back(make):
    led = ledger(make, 1)
    led.lease("old", 0, 1, now=0, version=0)
    led.expire(10)
    led.lease("new", 0, 1, now=10, version=0)
    assert not led.fail("old", 0, "env")
    assert led.state(0) is OrdinalState.IN_FLIGHT
    assert led.fail("new", 0, "env")
    assert led.dropped_by == {"env": 1}, "the second attempt was the last"


def test_terminal_states_are_final(make):
    led = ledger(make, 2)
    led.lease("a", 0, 2, now=0, version=0)
    led.deliver(0, "a")
    led.to_learner(0)
    led.finish_trained(0)
    led.drop(1, "test")
    for ordinal in (0, 1):
        assert not led.deliver(ordinal, "a")
        for transition in (led.to_learner, led.from_learner, led.finish_trained, led.requeue):
            with pytest.raises(ValueError):
                transition(ordinal)
        with pytest.raises(ValueError):
            led.drop(ordinal, "again")
    assert (led.state(0), led.state(1)) == (OrdinalState.TRAINED, OrdinalState.DROPPED)
    assert sum(led.counts.values()) == 0


def test_static_shares_do_not_depend_on_who_asks_first(make):
    led = ledger(make, 9, num_workers=3)
    assert ordinals(led.lease("c", 2, 9, now=0, version=0)) == [2, 5, 8]
    assert ordinals(led.lease("a", 0, 2, now=0, version=0)) == [0, 3]
    assert ordinals(led.lease("b", 1, 9, now=0, version=0)) == [1, 4, 7]
    assert ordinals(led.lease("c", 2, 9, now=0, version=0)) == []
    assert ordinals(led.lease("a", 0, 9, now=0, version=0)) == [6]


def test_the_share_of_a_lost_worker_opens_only_when_it_is_released(make):
    led = ledger(make, 4, num_workers=2)
    led.lease("b", 1, 1, now=0, version=0)
    led.lease("a", 0, 9, now=0, version=0)
    led.expire(10)
    assert ordinals(led.lease("a", 0, 9, now=10, version=0)) == [0, 2], "1 and 3 still belong to b"
    led.release("b")
    assert ordinals(led.lease("a", 0, 9, now=10, version=0)) == [1, 3]


def test_a_replacement_takes_over_the_share_of_its_index(make):
    led = ledger(make, 6, num_workers=2)
    led.lease("b", 1, 1, now=0, version=0)
    led.release("b")
    assert ordinals(led.lease("b2", 1, 1, now=0, version=0)) == [1]
    assert ordinals(led.lease("a", 0, 9, now=0, version=0)) == [0, 2, 4], "the share is closed again"


def test_a_new_number_of_workers_divides_what_is_queued(make):
    led = ledger(make, 6, num_workers=3)
    led.set_num_workers(2)
    assert ordinals(led.lease("a", 0, 9, now=0, version=0)) == [0, 2, 4]
    assert ordinals(led.lease("b", 1, 9, now=0, version=0)) == [1, 3, 5]


def test_versions_in_flight_are_those_at_lease_time(make):
    led = ledger(make, 3)
    led.lease("a", 0, 2, now=0, version=4)
    led.lease("a", 0, 1, now=0, version=5)
    assert led.in_flight_at == {4: 2, 5: 1}
    led.deliver(0, "a")
    led.release("a")
    assert led.in_flight_at == {}
