"""Reward records become rewards without a failed score ever becoming a number."""

import numpy as np
import pytest

from rayrl.buffer.scoring import ScoringDesk
from rayrl.types import RewardRecord, RewardStatus


def test_rewards_are_the_aggregate_of_weighted_components_only(make):
    rules = make.rules({"exact": 2.0, "format": 0.5})
    records = [
        a + b + c
        for a, b, c in zip(
            make.records(1.0, 0.0),
            make.records(1.0, 3.0, component="format"),
            make.records(None, 9.0, component="length"),
            strict=True,
        )
    ]
    group, reason, failures = rules.apply(make.group(0), records)
    np.testing.assert_allclose(group.rewards, [2.5, 1.5])
    assert group.kept.all() and reason is None
    assert set(group.components) == {"exact", "format", "length"}, "what is only measured is still reported"
    assert failures == {"length": 1}


def test_a_failed_score_masks_its_sample_and_stays_not_a_number(make):
    group, reason, failures = make.rules().apply(make.group(0), make.records(None, 1.0))
    assert group.kept.tolist() == [False, True] and reason is None
    assert np.isnan(group.components["exact"][0]) and failures == {"exact": 1}


def test_a_missing_record_counts_as_failed(make):
    records = make.records(1.0, 1.0)
    records[1] = []
    group, _, failures = make.rules().apply(make.group(0), records)
    assert group.kept.tolist() == [True, False] and failures == {"exact": 1}


def test_an_ensemble_goes_on_with_the_members_that_have_a_score(make):
    records = [a + b for a, b in zip(make.records(None, None), make.records(4.0, None, component="other"), strict=True)]
    rules = make.rules({"exact": 1.0, "other": 1.0}, gaps=True, aggregate=lambda c, w: np.nanmean([*c.values()], axis=0).astype(np.float32))
    group, _, failures = rules.apply(make.group(0), records)
    assert group.kept.tolist() == [True, False] and group.rewards[0] == 4.0
    assert failures == {"exact": 2, "other": 1}


def test_values_of_steps_travel_beside_their_sum(make):
    record = RewardRecord("process", RewardStatus.SCORED, 3.0, step_values=(1.0, 2.0))
    records = [[*make.records(1.0)[0], record], make.records(0.0)[0]]
    group, _, _ = make.rules().apply(make.group(0), records)
    assert group.step_values == {"process": ((1.0, 2.0), ())}
    assert group.components["process"][0] == 3.0


def test_fallback_gives_the_sample_the_fallback_reward(make):
    rules = make.rules({"exact": 3.0}, on_failure="fallback", fallback_value=-1.0)
    group, _, _ = rules.apply(make.group(0), make.records(None, 1.0))
    assert group.kept.all()
    np.testing.assert_allclose(group.rewards, [-1.0, 3.0])
    assert np.isnan(group.components["exact"][0])


def test_aborted_samples_are_never_kept_even_with_a_fallback(make):
    rules = make.rules(on_failure="fallback")
    group, reason, _ = rules.apply(make.group(0, finish=("abort", "stop")), make.records(None, 1.0))
    assert group.kept.tolist() == [False, True] and reason is None


def test_a_group_without_a_usable_sample_is_dropped(make):
    assert make.rules().apply(make.group(0), make.records(None, None))[1] == "all_failed"
    assert make.rules().apply(make.group(0, finish=("abort", "abort")), make.records(1.0, 1.0))[1] == "all_failed"


def test_the_filter_sees_rewards_and_mask_and_names_the_reason(make):
    seen = []

    def group_filter(rewards, kept):
        seen.append((rewards.tolist(), kept.tolist()))
        return "zero_variance"

    rules = make.rules(group_filter=group_filter)
    assert rules.apply(make.group(0, n=3), make.records(1.0, None, 1.0))[1] == "zero_variance"
    assert seen == [([1.0, 0.0, 1.0], [True, False, True])]


def test_the_aggregate_never_sees_a_failed_score(make):
    from rayrl.buffer.scoring import RewardRules

    def aggregate(components, weights):
        assert np.isfinite(components["exact"]).all()
        return components["exact"] - components["exact"].mean()

    group, _, _ = RewardRules({"exact": 1.0}, aggregate).apply(make.group(0, n=3), make.records(1.0, None, 3.0))
    np.testing.assert_allclose(group.rewards, [-1.0, 0.0, 1.0])


def desk(make, jobs=("verifiers", "judge"), max_attempts=2):
    d = ScoringDesk(jobs, lease_s=10.0, max_attempts=max_attempts)
    d.add(make.group(5), [[], []])
    return d


def test_a_group_waits_for_every_job_and_collects_all_records(make):
    d = desk(make)
    assert [g.ordinal for g in d.lease("v", "verifiers", 9, now=0)] == [5]
    assert [g.ordinal for g in d.lease("j", "judge", 9, now=0)] == [5], "jobs do not exclude each other"
    assert d.answer("v", 5, make.records(1.0, 0.0)) is None
    info, records = d.answer("j", 5, make.records(0.5, 0.5, component="style"))
    assert info.ordinal == 5
    assert [[r.component for r in sample] for sample in records] == [["exact", "style"]] * 2


def test_a_scoring_lease_is_exclusive_until_it_expires(make):
    d = desk(make)
    d.lease("a", "verifiers", 9, now=0)
    assert d.lease("b", "verifiers", 9, now=9) == []
    assert d.expire(10) == []
    assert len(d.lease("b", "verifiers", 9, now=10)) == 1


def test_the_expiry_of_an_old_scoring_lease_does_not_end_a_new_one(make):
    d = desk(make, max_attempts=9)
    d.lease("a", "verifiers", 9, now=0)
    d.release("a")
    d.lease("b", "verifiers", 9, now=5)
    d.expire(10)
    assert d.lease("c", "verifiers", 9, now=10) == []
    assert d.next_expiry() == 15.0


def test_the_first_answer_wins_and_strangers_are_ignored(make):
    d = desk(make)
    d.lease("a", "verifiers", 9, now=0)
    d.expire(10)
    d.lease("b", "verifiers", 9, now=10)
    d.answer("stranger", 5, make.records(9.0, 9.0))
    d.answer("a", 5, make.records(1.0, 1.0))
    d.answer("b", 5, make.records(2.0, 2.0))
    d.lease("j", "judge", 9, now=10)
    _, records = d.answer("j", 5, make.records(0.0, 0.0, component="style"))
    assert [r.value for r in records[0]] == [1.0, 0.0]


def test_records_of_an_earlier_result_never_reach_the_regenerated_group(make):
    d = desk(make, jobs=("verifiers",))
    d.lease("a", "verifiers", 9, now=0)
    d.remove(5)
    d.add(make.group(5), [[], []])
    assert d.answer("a", 5, make.records(1.0, 1.0)) is None, "a scored the payload that was lost"
    d.lease("b", "verifiers", 9, now=0)
    assert d.answer("b", 5, make.records(0.0, 0.0)) is not None


def test_a_group_that_takes_every_scorer_down_is_given_up(make):
    d = desk(make)
    d.lease("a", "verifiers", 9, now=0)
    assert d.release("a") == []
    d.lease("b", "verifiers", 9, now=0)
    assert d.release("b") == [5]


def test_a_scorer_serves_one_job_under_one_name(make):
    d = desk(make)
    d.lease("a", "verifiers", 1, now=0)
    with pytest.raises(ValueError, match="one name per job"):
        d.lease("a", "judge", 1, now=0)
    with pytest.raises(ValueError, match="not one of"):
        d.lease("b", "jugde", 1, now=0)


def test_a_wrong_number_of_samples_is_refused(make):
    d = desk(make)
    d.lease("a", "verifiers", 1, now=0)
    with pytest.raises(ValueError, match="3 lists of records for the 2 samples"):
        d.answer("a", 5, make.records(1.0, 1.0, 1.0))


def test_with_rescore_a_batch_waits_for_no_late_score_and_the_late_group_still_counts_if_it_comes_in_time(make):
    core = make.core(rules=make.rules(on_failure="rescore"), max_staleness=1)
    core.admit(make.tasks(0, 1, 2))
    core.lease_prompts("maker", 0, 10, now=0.0)
    core.put_groups("maker", [make.group(o, 0) for o in range(3)])
    assert [g.ordinal for g in core.lease_unscored("judge", "verifiers", 10, now=0.0)] == [0, 1, 2]
    core.put_rewards("judge", {1: make.records(0.0, 1.0)})
    batch = core.select(0, 1, 1)  # at version 1 the groups of version 0 have their last chance
    assert batch is not None and batch.ordinals == [1] and core.still_unscored([0, 1, 2]) == [0, 2]
    core.put_rewards("judge", {0: make.records(0.0, 1.0)})
    assert core.select(1, 1, 1).ordinals == [0]
    assert core.select(2, 2, 1) is None and core.ledger.dropped_by["stale"] == 1 and core.still_unscored([2]) == []


def test_without_rescore_the_batch_waits_for_the_score_that_would_come_too_late(make):
    core = make.core(max_staleness=1)
    core.admit(make.tasks(0, 1))
    core.lease_prompts("maker", 0, 10, now=0.0)
    core.put_groups("maker", [make.group(o, 0) for o in range(2)])
    core.lease_unscored("judge", "verifiers", 10, now=0.0)
    core.put_rewards("judge", {1: make.records(0.0, 1.0)})
    assert core.select(0, 1, 1) is None


def test_what_waits_is_rewarded_anew_and_what_a_batch_holds_is_not(make):
    core = make.core(rules=make.rules({"exact": 1.0, "style": 1.0}), jobs=("verifiers", "model"), max_staleness=4)
    core.admit(make.tasks(0, 1, 2))
    core.lease_prompts("maker", 0, 3, now=0.0)
    core.put_groups("maker", [make.group(o) for o in (0, 1)])
    for scorer, job, component in (("grader", "verifiers", "exact"), ("m", "model", "style")):
        leased = core.lease_unscored(scorer, job, 2, now=0.0)
        core.put_rewards(scorer, {g.ordinal: make.records(1.0, 2.0, component=component) for g in leased})
    batch = core.select(0, 0, 1)
    assert batch.ordinals == [0] and core.still_ready([0, 1, 2]) == [1]
    newer = {o: make.records(7.0, None, component="style") for o in (0, 1, 2)}
    assert core.revise_rewards(newer) == [1], "0 is with the learner and 2 is not generated yet"
    (group,) = core.select(1, 1, 1).groups
    np.testing.assert_allclose(group.rewards, [8.0, 0.0])
    assert group.kept.tolist() == [True, False], "a revised score that failed is no number either"
    np.testing.assert_allclose(batch.groups[0].rewards, [2.0, 4.0])


def test_a_group_that_revised_rewards_make_useless_is_dropped(make):
    same = lambda rewards, kept: "zero_variance" if rewards.std() == 0 else None
    core = make.core(rules=make.rules(group_filter=same))
    make.ready(core, 0, 1)
    with pytest.raises(ValueError, match="1 lists"):
        core.revise_rewards({0: make.records(1.0)})
    assert core.revise_rewards({0: make.records(3.0, 3.0)}) == [0]
    assert core.still_ready([0, 1]) == [1] and core.ledger.dropped_by == {"zero_variance": 1}
