"""A wait that runs out says who waited for whom, for how long, and which key to turn."""

import re
import time
from dataclasses import fields

import pytest

from rayrl import deadlines as module
from rayrl.config.schema import DeadlinesConfig
from rayrl.deadlines import Deadline, OpenWaits, Watchdog, name_of, patience
from rayrl.errors import DeadlineExceeded


def test_an_expired_deadline_names_waiter_waited_for_and_key():
    deadline = Deadline("generate_s", "driver", "rollout", 0.0)
    with pytest.raises(DeadlineExceeded) as caught:
        deadline.check()
    assert re.fullmatch(r"driver waited 0 s for rollout, since \d\d:\d\d:\d\d \(generate_s\)", caught.value.message)
    assert "deadlines.generate_s (now 0)" in caught.value.hint


def test_progress_restarts_the_limit():
    deadline = Deadline("generate_s", "driver", "rollout", 0.2)
    time.sleep(0.15)
    deadline.restart()
    time.sleep(0.1)
    deadline.check()
    assert 0 < deadline.remaining() < 0.2
    assert deadline.remaining(at_most=0.01) == 0.01


def test_remaining_is_never_negative():
    assert Deadline("call_s", "a", "b", -5.0).remaining() == 0.0


def test_every_deadline_of_the_configuration_says_where_to_look():
    assert {f.name for f in fields(DeadlinesConfig)} == set(module._LOOK_AT)


def test_open_waits_are_known_longest_first_and_only_while_they_last():
    waits = OpenWaits()
    with waits.waiting(Deadline("generate_s", "driver", "rollout", 600.0)):
        time.sleep(0.02)
        with waits.waiting(Deadline("score_s", "buffer", "scorer", 300.0)):
            assert [wait.waiter for wait in waits.longest_first()] == ["driver", "buffer"]
        (left,) = waits.longest_first()
        assert "driver waits 0 s for rollout, since" in left.edge and left.edge.endswith("(generate_s, limit 600 s)")
    assert waits.longest_first() == []


def test_the_watchdog_names_the_stuck_edge_before_the_limit_then_whenever_the_wait_has_doubled():
    waits, said = OpenWaits(), []
    watchdog = Watchdog(said.append, waits, every_s=3600)
    stuck = Deadline("sync_s", "driver", "rollout-0.update_weights", 300.0, about="version 7", since=time.monotonic() - 61)
    young = Deadline("sync_s", "driver", "rollout-1.update_weights", 300.0)
    with waits.waiting(stuck), waits.waiting(young):
        watchdog.look()
        watchdog.look()
        assert len(said) == 1 and said[0].startswith("driver waits 61 s for rollout-0.update_weights of version 7, since ")
        stuck._started -= 62
        watchdog.look()
        assert len(said) == 2 and "driver waits 123 s" in said[1]
        stuck.restart()
        watchdog.look()
        assert len(said) == 2
    watchdog.close()


def test_a_word_comes_in_good_time_and_not_too_soon():
    assert (patience(10.0), patience(60.0), patience(1800.0)) == (5.0, 15.0, 60.0)


def test_each_call_is_limited_by_a_key_of_the_table():
    assert set(module._CALLS.values()) <= {f.name for f in fields(DeadlinesConfig)}
    assert (name_of("update_weights"), name_of("outstanding")) == ("sync_s", "call_s")
