"""What a batch may contain, when the buffer waits, and that bytes and drops are accounted for."""

import json

import pytest

from rayrl.buffer import snapshot as snapshots
from rayrl.errors import CheckpointError, ConfigError
from rayrl.types import OrdinalState


def batch_ordinals(core, step, version, count):
    batch = core.select(step, version, count)
    return None if batch is None else batch.ordinals


def test_a_batch_is_the_oldest_groups_sorted_by_ordinal(make):
    core = make.core(max_staleness=5)
    make.ready(core, 7, 3, 5, version=1)
    make.ready(core, 9, 8, version=0)
    assert batch_ordinals(core, 0, 1, 3) == [3, 8, 9], "version 0 first, then the lowest ordinal; the batch itself is sorted"


def test_newest_prefers_fresh_groups_but_not_over_a_last_chance(make):
    core = make.core(max_staleness=2, select="newest")
    for version in (0, 1, 2):
        make.ready(core, 10 + version, 20 + version, version=version)
    assert batch_ordinals(core, 0, 1, 2) == [12, 22]
    core.return_batch(0)
    assert batch_ordinals(core, 0, 2, 3) == [10, 20, 22], "version 0 could not be used at version 3"


def test_priority_takes_the_highest_spread_of_rewards_first(make):
    core = make.core(max_staleness=3, select="priority")
    for ordinal, values in enumerate([(0.0, 0.1), (0.0, 1.0), (0.0, 0.5)]):
        make.ready(core, ordinal, values=values)
    assert batch_ordinals(core, 0, 0, 2) == [1, 2]


def test_over_stale_groups_are_evicted_and_counted_scored_or_not(make):
    core = make.core(max_staleness=1)
    make.ready(core, 0, version=0)
    core.admit(make.tasks(1))
    core.lease_prompts("w", 0, 1, now=0)
    core.put_groups("w", [make.group(1, version=0)])
    assert core.select(0, 2, 1) is None
    assert core.ledger.dropped_by == {"stale": 2} and core.nbytes == 0
    assert core.lease_unscored("s", "verifiers", 9, now=0) == []


def test_selection_waits_for_a_group_that_would_be_too_stale_next_time(make):
    core = make.core(max_staleness=1)
    make.ready(core, 0, 1)
    core.admit(make.tasks(2))
    core.lease_prompts("w", 0, 1, now=0)
    core.set_version(1)
    assert core.select(0, 1, 2) is None, "2 was leased at version 0: too stale at version 2"
    core.put_groups("w", [make.group(2, version=0)])
    assert core.select(0, 1, 2) is None, "it is not scored yet"
    core.lease_unscored("s", "verifiers", 9, now=0)
    core.put_rewards("s", {2: make.records(0.0, 1.0)})
    assert batch_ordinals(core, 0, 1, 2) == [0, 1]


def test_selection_does_not_wait_for_what_can_still_be_used_later(make):
    core = make.core(max_staleness=1)
    core.set_version(1)
    make.ready(core, 0, 1, version=1)
    core.admit(make.tasks(2))
    core.lease_prompts("w", 0, 1, now=0)
    assert batch_ordinals(core, 0, 1, 2) == [0, 1]


@pytest.mark.parametrize("unfinished", ["queued", "in_flight", "unscored"])
def test_synchronous_batches_wait_for_everything_that_was_admitted(make, unfinished):
    core = make.core(max_staleness=0)
    make.ready(core, 0, 1)
    core.admit(make.tasks(2))
    if unfinished != "queued":
        core.lease_prompts("w", 0, 1, now=0)
    if unfinished == "unscored":
        core.put_groups("w", [make.group(2)])
    assert core.select(0, 0, 2) is None
    assert core.outstanding()[unfinished] == 1


def test_the_synchronous_batch_does_not_depend_on_the_order_of_arrival(make):
    batches = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        core = make.core(max_staleness=0)
        core.admit(make.tasks(0, 1, 2, 3))
        core.lease_prompts("w", 0, 9, now=0)
        for ordinal in order:
            core.put_groups("w", [make.group(ordinal)])
            core.lease_unscored("s", "verifiers", 1, now=0)
            core.put_rewards("s", {ordinal: make.records(0.0, float(ordinal))})
        batches.append([(g.info.ordinal, g.rewards.tolist()) for g in core.select(0, 0, 3).groups])
    assert batches[0] == batches[1] and [o for o, _ in batches[0]] == [0, 1, 2]


def test_asking_again_for_a_step_gives_the_same_batch(make):
    core = make.core()
    make.ready(core, 0, 1, 2, 3)
    first = core.select(4, 0, 2)
    assert core.select(4, 0, 2) is first
    assert batch_ordinals(core, 5, 0, 2) == [2, 3]


def test_only_leased_ordinals_are_confirmed_and_each_once(make):
    core = make.core()
    make.ready(core, 0, 1, 2)
    core.select(0, 0, 2)
    for wrong in ([0, 2], [0, 0], [0, 99]):
        with pytest.raises(ValueError, match="not leased"):
            core.confirm_trained(0, wrong)
    core.confirm_trained(0, [0, 1])
    with pytest.raises(ValueError, match="not leased"):
        core.confirm_trained(0, [0])
    assert list(core.ledger.trained) == [0, 1] and core.staleness == {0: 2}


def test_a_returned_batch_is_sampled_again(make):
    core = make.core()
    make.ready(core, 0, 1)
    core.select(0, 0, 2)
    core.return_batch(0)
    assert core.outstanding()["ready"] == 2
    assert batch_ordinals(core, 0, 0, 2) == [0, 1]


def test_bytes_are_held_until_the_ordinal_is_terminal(make):
    core = make.core()
    make.ready(core, 0, 1)
    assert core.nbytes == 200
    core.select(0, 0, 1)
    assert core.nbytes == 200, "the learner still reads the payload"
    core.confirm_trained(0, [0])
    assert core.nbytes == 100


def test_a_full_buffer_leases_nothing_and_says_so(make):
    core = make.core(max_bytes=150)
    make.ready(core, 0, 1)
    core.admit(make.tasks(2))
    assert core.lease_prompts("w", 0, 1, now=0) == []
    assert core.stats()["buffer/full_bool"] == 1 and core.stats()["buffer/times_full_count"] == 1
    core.select(0, 0, 1)
    core.confirm_trained(0, [0])
    assert len(core.lease_prompts("w", 0, 1, now=0)) == 1


def test_a_buffer_too_small_for_a_batch_is_an_error_not_a_hang(make):
    core = make.core(max_bytes=150)
    make.ready(core, 0, 1)
    with pytest.raises(ConfigError, match="max_bytes"):
        core.select(0, 0, 3)


def test_a_synchronous_full_buffer_does_not_wait_for_what_it_cannot_lease(make):
    core = make.core(max_staleness=0, max_groups=2)
    make.ready(core, 0, 1)
    core.admit(make.tasks(2))
    assert batch_ordinals(core, 0, 0, 2) == [0, 1]


def test_dropped_groups_are_counted_by_reason_and_free_their_bytes(make):
    rules = make.rules(group_filter=lambda rewards, kept: "zero_variance" if rewards.std() == 0 else None)
    core = make.core(rules=rules)
    make.ready(core, 0, values=(1.0, 1.0))
    make.ready(core, 1, values=(None, None))
    make.ready(core, 2, values=(None, 1.0))
    assert core.ledger.dropped_by == {"zero_variance": 1, "all_failed": 1}
    assert core.nbytes == 100 and core.outstanding()["ready"] == 1
    assert core.stats()["buffer/dropped/zero_variance"] == 1 and core.stats()["buffer/failed_scores/exact"] == 3


def test_rewards_may_come_with_the_group_when_no_job_is_required(make):
    core = make.core(jobs=())
    core.admit(make.tasks(0, 1))
    core.lease_prompts("w", 0, 2, now=0)
    core.put_groups("w", [make.group(0), make.group(1)], {0: make.records(0.0, 1.0)})
    assert batch_ordinals(core, 0, 0, 1) == [0]
    assert core.ledger.dropped_by == {"all_failed": 1}, "1 came without any reward"


def test_a_faulty_aggregate_leaves_no_group_behind_that_nobody_owns(make):
    from rayrl.buffer.scoring import RewardRules

    core = make.core(rules=RewardRules({"exact": 1.0}, lambda components, weights: 1 / 0))
    core.admit(make.tasks(0))
    core.lease_prompts("w", 0, 1, now=0)
    core.put_groups("w", [make.group(0)])
    for attempt in range(3):
        core.lease_unscored("s", "verifiers", 1, now=attempt * 100.0)
        with pytest.raises(ZeroDivisionError):
            core.put_rewards("s", {0: make.records(0.0, 1.0)})
        core.expire(attempt * 100.0 + 50)
    assert core.ledger.dropped_by == {"score_attempts": 1}


def test_lost_payloads_are_generated_again(make):
    core = make.core()
    make.ready(core, 0, 1)
    core.requeue_lost([0, 5])
    assert core.outstanding() == {"live": 2, "queued": 1, "in_flight": 0, "unscored": 0, "ready": 1, "leased": 0, "parked": 0}
    assert core.nbytes == 100
    make_again = core.lease_prompts("w", 0, 9, now=0)
    assert [t.prompt.ordinal for t in make_again] == [0]
    assert core.put_groups("w", [make.group(0)]) == [True]


def test_a_snapshot_survives_json_and_trains_each_ordinal_once(make):
    core = make.core(jobs=("verifiers",))
    core.set_version(3)
    make.ready(core, *range(6), version=3)
    core.select(0, 3, 2)
    core.confirm_trained(0, [0, 1])
    core.select(1, 3, 2)
    core.admit(make.tasks(6, 7))
    core.lease_prompts("w", 0, 1, now=0)
    saved = json.loads(json.dumps(snapshots.take(core)))
    assert saved["trained"] == [[0, 2]] and snapshots.pending_ordinals(saved) == [2, 3, 4, 5, 6, 7]
    assert snapshots.next_ordinal(saved) == 8

    fresh = make.core()
    snapshots.restore(fresh, saved, make.tasks(*snapshots.pending_ordinals(saved)))
    assert fresh.version == 3 and fresh.staleness == {0: 2}
    assert fresh.outstanding()["queued"] == 6
    with pytest.raises(ValueError, match="twice"):
        fresh.admit(make.tasks(0))
    assert fresh.put_groups("w", [make.group(0, 3)]) == [False], "0 was trained in the earlier life"
    assert fresh.put_groups("w", [make.group(6, 3)]) == [True], "a worker that lived on hands over what it made"
    assert fresh.ledger.state(1) is OrdinalState.TRAINED


def test_a_snapshot_is_restored_with_exactly_its_pending_prompts(make):
    core = make.core()
    core.admit(make.tasks(0, 1))
    saved = snapshots.take(core)
    with pytest.raises(CheckpointError, match="missing \\[1\\]"):
        snapshots.restore(make.core(), saved, make.tasks(0))
    with pytest.raises(CheckpointError, match="format"):
        snapshots.restore(make.core(), saved | {"format": 99}, make.tasks(0, 1))


def test_every_statistic_has_a_registered_name(make):
    from rayrl.telemetry.metrics import check_name

    core = make.core()
    make.ready(core, 0, 1, values=(None, 1.0))
    core.select(0, 0, 1)
    core.confirm_trained(0, [0])
    core.ledger.drop(1, "test")
    for name in core.stats():
        check_name(name)
