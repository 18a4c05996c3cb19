"""A wait that runs out says who waited for whom, for how long, and which key to turn."""

import threading
import time
from dataclasses import fields

import pytest

from rayrl import deadlines as module
from rayrl.config.schema import DeadlinesConfig
from rayrl.deadlines import Deadline, Deadlines
from rayrl.errors import DeadlineExceeded


def test_an_expired_deadline_names_waiter_waited_for_and_key():
    deadline = Deadline("generate_s", "driver", "rollout", 0.0)
    with pytest.raises(DeadlineExceeded) as caught:
        deadline.check()
    assert caught.value.message == "driver waited 0 s for rollout (generate_s)"
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


def test_limits_come_from_the_configuration():
    table = Deadlines(DeadlinesConfig(sync_s=12.5))
    assert table.limit("sync_s") == 12.5
    assert table.start("sync_s", "driver", "engine 3").limit_s == 12.5
    with pytest.raises(KeyError, match="sync_s"):
        table.limit("snyc_s")


def test_every_deadline_of_the_configuration_says_where_to_look():
    assert {f.name for f in fields(DeadlinesConfig)} == set(module._LOOK_AT)


def test_wait_until_returns_as_soon_as_the_condition_holds():
    happened = threading.Event()
    threading.Timer(0.05, happened.set).start()
    started = time.monotonic()
    Deadlines(DeadlinesConfig(call_s=10)).wait_until(happened.is_set, "call_s", "driver", "buffer", every_s=0.01)
    assert time.monotonic() - started < 2


def test_wait_until_gives_up_at_the_limit():
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="driver waited"):
        Deadlines(DeadlinesConfig(call_s=0.1)).wait_until(lambda: False, "call_s", "driver", "buffer")
    assert 0.1 <= time.monotonic() - started < 2


def test_the_watchdog_sees_open_waits_longest_first_and_only_those():
    table = Deadlines(DeadlinesConfig())
    with table.waiting("generate_s", "driver", "rollout"):
        time.sleep(0.02)
        with table.waiting("score_s", "buffer", "scorer"):
            assert [line.split(" waits ")[0] for line in table.stuck()] == ["driver", "buffer"]
            assert table.stuck(longer_than_s=60) == []
        assert len(table.stuck()) == 1 and "rollout (generate_s, limit 600 s)" in table.stuck()[0]
    assert table.stuck() == []
