"""The archive is told who rewarded a group and what was thrown away, once, and an archive that never asks costs a bounded amount."""

import pytest

from rayrl.buffer.core import BufferCore
from rayrl.buffer.outcomes import OutcomeLog
from rayrl.config.schema import BufferConfig


def core_with(make, log, **rules):
    return BufferCore(BufferConfig(max_staleness=1, lease_s=10.0), make.rules(**rules), outcomes=log)


def test_records_of_trained_groups_are_told_once(make):
    core = core_with(make, OutcomeLog(max_groups=10, max_dropped=10))
    make.ready(core, 0, 1)
    core.select(0, 0, 2)
    core.confirm_trained(0, [0, 1])
    outcomes = core.outcomes.take([0, 1])
    assert {o: [[r.value for r in sample] for sample in records] for o, records in outcomes.records.items()} == {
        0: [[0.0], [1.0]],
        1: [[0.0], [1.0]],
    }
    assert outcomes.dropped == () and core.outcomes.take([0, 1]).records == {}


@pytest.mark.parametrize("reason", ["zero_variance", "stale"])
def test_dropped_groups_are_kept_with_their_reason_and_what_was_scored(make, reason):
    core = core_with(make, OutcomeLog(max_groups=10, max_dropped=10), group_filter=lambda r, k: "zero_variance" if r[0] == r[1] else None)
    if reason == "zero_variance":
        make.ready(core, 0, values=(1.0, 1.0))
    else:
        make.ready(core, 0)
        core.select(0, 2, 1)
    [dropped] = core.outcomes.take([]).dropped
    assert dropped.reason == reason and dropped.info.payload == "payload-0"
    assert [len(sample) for sample in dropped.records] == [1, 1]
    assert dropped.rewards.tolist() == ([1.0, 1.0] if reason == "zero_variance" else [0.0, 1.0])
    assert core.outcomes.take([]).dropped == ()


def test_a_group_dropped_before_any_answer_has_empty_records(make):
    core = core_with(make, OutcomeLog(max_groups=10, max_dropped=10))
    core.admit(make.tasks(0))
    core.lease_prompts("maker", 0, 1, now=0.0)
    core.put_groups("maker", [make.group(0)])
    core.select(0, 2, 1)
    [dropped] = core.outcomes.take([]).dropped
    assert dropped.reason == "stale" and all(not sample for sample in dropped.records) and dropped.rewards is None


def test_what_nobody_asks_for_is_bounded_and_counted(make):
    log = OutcomeLog(max_groups=3, max_dropped=2, max_dropped_bytes=250)
    for ordinal in range(5):
        log.scored(ordinal, make.records(1.0))
        log.dropped(make.group(ordinal, nbytes=100), "stale", ())
    for ordinal in range(10, 15):
        log.scored(ordinal, make.records(1.0))
    outcomes = log.take(range(20))
    assert sorted(outcomes.records) == [12, 13, 14]
    assert [d.info.ordinal for d in outcomes.dropped] == [0, 1] and outcomes.forgotten == 3
    log.dropped(make.group(9, nbytes=300), "stale", ())
    assert log.take([]).forgotten == 1


def test_a_lost_group_that_is_generated_again_keeps_no_old_records(make):
    core = core_with(make, OutcomeLog(max_groups=10, max_dropped=10))
    make.ready(core, 0)
    core.requeue_lost([0])
    assert core.outcomes.take([0]).records == {}


def test_without_an_archive_nothing_is_kept(make):
    core = make.core()
    make.ready(core, 0)
    core.select(0, 2, 1)
    assert core.outcomes.take([0]) == type(core.outcomes.take([]))({}, (), 0)
