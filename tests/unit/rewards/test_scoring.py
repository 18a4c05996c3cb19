"""Scorer and worker: one record per component and sample, in order; a failure is never a number; the loop ends when told."""

import threading

import numpy as np
import pytest

from rayrl.config.schema import RewardComponent, RewardsConfig
from rayrl.data import arrow
from rayrl.errors import RoleFailed
from rayrl.rewards.scorer import VerifierScorer
from rayrl.rewards.worker import RewardWorker
from rayrl.types import FinishReason, GroupInfo, RewardStatus, Trajectory, VersionSpan


def trajectory(ordinal: int, sample: int, text: str, truth: str | None = "85", task: str = "arithmetic", actions: int = 5) -> Trajectory:
    total = actions + 2
    return Trajectory(
        id=f"{ordinal}/{sample}",
        ordinal=ordinal,
        sample=sample,
        token_ids=np.arange(total, dtype=np.int32),
        action_mask=np.arange(total) >= 2,
        behavior_logprobs=np.zeros(total, np.float32),
        version_spans=(VersionSpan(0, 2, total),),
        turns=((2, total),),
        finish_reason=FinishReason.STOP,
        task=task,
        text=text,
        prompt_text="37+48=",
        ground_truth=truth,
        metadata={"source": "test"},
    )


@pytest.fixture
def make_scorer():
    made = []

    def make(**components: RewardComponent) -> VerifierScorer:
        made.append(VerifierScorer(components, RewardsConfig(components=components, timeout_s=2.0)))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


def test_a_verifier_that_returns_a_list_scores_steps_and_their_sum(make_scorer):
    scorer = make_scorer(
        process=RewardComponent("bad_verifiers:steps", args={"values": [1.0, -0.25]}),
        broken=RewardComponent("bad_verifiers:steps", args={"values": [1.0, float("nan")]}),
        none=RewardComponent("bad_verifiers:steps", args={"values": []}),
    )
    process, broken, none = scorer.score([trajectory(0, 0, "->85")])[0]
    assert (process.value, process.step_values) == (0.75, (1.0, -0.25))
    assert broken.status is RewardStatus.FAILED and broken.step_values is None and "nan" in broken.error
    assert (none.value, none.step_values) == (0.0, ())


def test_every_trajectory_gets_one_record_per_component_in_order(make_scorer):
    scorer = make_scorer(
        correct=RewardComponent("arithmetic"),
        short=RewardComponent("overlong", args={"max_tokens": 10, "buffer_tokens": 4}),
        prose=RewardComponent("exact_match", tasks=["essay"]),
    )
    trajectories = [trajectory(0, 0, "->85", actions=8), trajectory(0, 1, "->84"), trajectory(1, 0, "85", task="essay", actions=20)]
    records = scorer.score(trajectories)
    assert [[r.component for r in rs] for rs in records] == [["correct", "short", "prose"]] * 3 == [list(scorer.components)] * 3
    assert [[r.value for r in rs] for rs in records] == [[1.0, -0.5, 0.0], [0.0, 0.0, 0.0], [0.0, -1.0, 1.0]]
    assert all(r.status is RewardStatus.SCORED for rs in records for r in rs)
    assert records[0][0].producer == "arithmetic" and records[0][0].latency_s > 0
    assert scorer.score([]) == []


def test_a_task_that_a_component_does_not_apply_to_never_reaches_its_verifier(make_scorer):
    scorer = make_scorer(number=RewardComponent("numeric", tasks=["arithmetic"]))
    ((record,),) = scorer.score([trajectory(0, 0, "x", truth="not a number", task="essay")])
    assert record.status is RewardStatus.SCORED and record.value == 0.0


def test_a_failed_verifier_gives_a_failed_record_without_a_number(make_scorer):
    scorer = make_scorer(number=RewardComponent("numeric"), chance=RewardComponent("random", args={"p": 1.0}))
    (failed, scored), (good, _) = scorer.score([trajectory(0, 0, "85", truth=None), trajectory(0, 1, "85")])
    assert failed.status is RewardStatus.FAILED and failed.value is None and "needs a ground truth" in failed.error
    assert scored.value == 1.0 and good.value == 1.0


def test_random_rewards_are_the_same_whenever_and_with_whomever_they_are_scored(make_scorer):
    scorer = make_scorer(chance=RewardComponent("random", args={"seed": 9}))
    trajectories = [trajectory(o, s, "->85" if s % 2 else "->84") for o in range(8) for s in range(4)]
    together = [r[0].value for r in scorer.score(trajectories)]
    alone = [scorer.score([t])[0][0].value for t in reversed(trajectories)]
    assert together == alone[::-1] and set(together) == {0.0, 1.0}


class Buffer:
    """Hands out groups once; remembers what came back; stops the worker after the last one."""

    def __init__(self, groups: list[GroupInfo]) -> None:
        self.groups, self.rewards, self.leases, self.drained = list(groups), {}, [], threading.Event()

    def lease_unscored(self, scorer, component, max_groups, wait_s):
        self.leases.append((scorer, component, max_groups, wait_s))
        leased, self.groups = self.groups[:max_groups], self.groups[max_groups:]
        if not leased:
            self.drained.set()
            threading.Event().wait(0.01)
        return leased

    def put_rewards(self, scorer, rewards):
        self.rewards |= rewards


class Store(dict):
    def get(self, ref, *, timeout_s):
        if ref not in self:
            raise RoleFailed(f"object {ref} was lost")
        return self[ref]


def group(ordinal: int, size: int) -> GroupInfo:
    ones = np.ones(size, np.int32)
    return GroupInfo(ordinal, f"ref{ordinal}", 100, ones, ones, oldest_version=0, newest_version=0)


def run(worker: RewardWorker, buffer: Buffer) -> None:
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert buffer.drained.wait(20)
    worker.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_the_worker_scores_every_group_and_keeps_samples_apart(make_scorer):
    sizes = {o: 1 + o % 3 for o in range(20)}
    store = Store({f"ref{o}": arrow.encode([trajectory(o, s, f"->{o + s}", truth=str(o)) for s in range(n)]) for o, n in sizes.items()})
    buffer = Buffer([group(o, n) for o, n in sizes.items()])
    worker = RewardWorker("scorer-0", buffer, store, make_scorer(correct=RewardComponent("arithmetic")), "verifiers", max_groups=6)
    run(worker, buffer)
    assert {o: [[r.value for r in sample] for sample in samples] for o, samples in buffer.rewards.items()} == {
        o: [[1.0], [0.0], [0.0]][:n] for o, n in sizes.items()
    }
    assert all(scorer == "scorer-0" and component == "verifiers" and wait <= 1.0 for scorer, component, _, wait in buffer.leases)
    stats = worker.stats()
    assert stats["groups"] == 20 and stats["scored"] == sum(sizes.values()) and stats["failed"] == 0
    assert stats["busy_s"] > 0 and stats["waited_s"] > 0


def test_a_lost_payload_gives_failed_records_and_the_others_are_scored(make_scorer):
    store = Store({"ref1": arrow.encode([trajectory(1, 0, "->85"), trajectory(1, 1, "->84")])})
    buffer = Buffer([group(0, 3), group(1, 2)])
    scorer = make_scorer(correct=RewardComponent("arithmetic"), chance=RewardComponent("random"))
    worker = RewardWorker("s", buffer, store, scorer)
    run(worker, buffer)
    assert [[r.component for r in sample] for sample in buffer.rewards[0]] == [["correct", "chance"]] * 3
    assert all(r.status is RewardStatus.FAILED and "ref0 was lost" in r.error for sample in buffer.rewards[0] for r in sample)
    assert [sample[0].value for sample in buffer.rewards[1]] == [1.0, 0.0]
    assert worker.stats()["failed_by_reason"] == {"payload lost": 6}


def test_failures_are_counted_by_reason(make_scorer):
    store = Store({"ref0": arrow.encode([trajectory(0, 0, "85", truth=None), trajectory(0, 1, "85"), trajectory(0, 2, "85", truth="x")])})
    buffer = Buffer([group(0, 3)])
    worker = RewardWorker("s", buffer, store, make_scorer(number=RewardComponent("numeric")))
    run(worker, buffer)
    assert worker.stats()["failed_by_reason"] == {"ValueError": 2} and worker.stats()["scored"] == 1


def test_what_the_buffer_raises_ends_the_loop(make_scorer):
    class Gone(Buffer):
        def lease_unscored(self, *args):
            raise RoleFailed("the buffer died")

    with pytest.raises(RoleFailed, match="the buffer died"):
        RewardWorker("s", Gone([]), Store(), make_scorer()).run()
