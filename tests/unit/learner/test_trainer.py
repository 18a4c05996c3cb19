"""One learner step: what changes the update, and what must not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from learner_cases import DictStore, batch_of, config, random_batch, trajectory

from rayrl.config.schema import OptimConfig
from rayrl.data import arrow
from rayrl.errors import ConfigError, Diverged
from rayrl.learner.loading import load_policy
from rayrl.learner.reference import ReferenceModel
from rayrl.learner.rows import plan_step
from rayrl.learner.torch import TorchLearner
from rayrl.learner.trainable import TorchTrainable


def weights(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner._policy.net.named_parameters()}


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def train(folder, batches: int = 2, *, make=random_batch, reference=None, **settings):
    store = DictStore()
    learner = TorchLearner(config(folder, **settings), store)
    made = [make(store, seed=i, step=i, turns=2, drop=0.2) for i in range(batches)]
    reports = [learner.step(batch, reference(store, batch) if reference else None) for batch in made]
    return learner, reports


def grpo_by_hand(folder, store: DictStore, batch, lr: float, clip: float = 0.2) -> tuple[dict[str, torch.Tensor], float]:
    """The GRPO update written as in the paper, sequence by sequence, in plain autograd. Returns new weights and the loss."""
    model = load_policy(config(folder).model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), eps=1e-4, weight_decay=0.0)
    terms = []
    for group in batch.groups:
        samples = arrow.decode(store.get(group.info.payload, timeout_s=1))
        rewards = torch.from_numpy(group.rewards[group.kept]).double()
        for sample, reward, kept in zip(samples, group.rewards, group.kept, strict=True):
            if not kept:
                continue
            advantage = (float(reward) - rewards.mean()) / (rewards.std() + 1e-4) if len(rewards) > 1 else 0.0
            ids = torch.tensor(sample.token_ids.astype(np.int64))
            table = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            at = torch.from_numpy(np.flatnonzero(sample.action_mask))
            ratio = (table[at - 1, ids[at]] - torch.tensor(sample.behavior_logprobs)[at]).exp()
            terms.append(-torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean())
    loss = torch.stack(terms).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {f"model.{name}": p.detach() for name, p in model.named_parameters()}, loss.item()


def test_the_update_is_that_of_the_paper_written_by_hand(model_folder):
    store = DictStore()
    learner = TorchLearner(config(model_folder), store)
    batch = random_batch(store, turns=2, drop=0.2)
    expected, loss = grpo_by_hand(model_folder, store, batch, 1e-2)
    report = learner.step(batch, None)
    assert report["learner/loss"] == pytest.approx(loss, abs=1e-6)
    assert furthest(weights(learner), expected) < 2e-5


SPLITS = [{"token_budget": 1}, {"token_budget": 60}, {"packing": True, "token_budget": 90}, {"activation_checkpointing": True}]


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "reinforce_pp", "ppo"])
def test_no_split_into_micro_batches_changes_losses_or_weights(name, split, model_folder):
    whole, reports = train(model_folder, algorithm__name=name)
    parts, split_reports = train(model_folder, algorithm__name=name, **split)
    assert furthest(weights(whole), weights(parts)) < 1e-4
    same = reports[0].keys() - {"learner/padding_share", "learner/tokens_per_s"}
    for a, b in zip(reports, split_reports, strict=True):
        assert a.keys() == b.keys()
        for key in same:
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-4), key


def test_what_environment_and_prompt_positions_say_is_never_read(model_folder):
    def noisy(store, **kwargs):
        clean = random_batch(store, **kwargs)
        rng = np.random.default_rng(99)
        groups = []
        for group in clean.groups:
            samples = arrow.decode(store.get(group.info.payload, timeout_s=1))
            samples = [
                dataclasses.replace(
                    s, behavior_logprobs=np.where(s.action_mask, s.behavior_logprobs, rng.normal(size=s.num_tokens)).astype(np.float32)
                )
                for s in samples
            ]
            groups.append(dataclasses.replace(group, info=dataclasses.replace(group.info, payload=store.put(arrow.encode(samples)))))
        return dataclasses.replace(clean, groups=tuple(groups))

    def reference(noise):
        def payloads(store, batch):
            refs, rng = [], np.random.default_rng(5)
            for group in batch.groups:
                samples = arrow.decode(store.get(group.info.payload, timeout_s=1))
                rows = [np.where(s.action_mask, -4.0, rng.normal() * noise).astype(np.float32).tolist() for s in samples]
                refs.append(store.put(pa.RecordBatch.from_arrays([pa.array(rows, pa.list_(pa.float32()))], names=["logprobs"])))
            return refs

        return payloads

    settings = {"algorithm__kl__coef": 0.1, "algorithm__correction__mode": "truncated"}
    clean, _ = train(model_folder, reference=reference(0.0), **settings)
    noise, _ = train(model_folder, make=noisy, reference=reference(1.0), **settings)
    assert furthest(weights(clean), weights(noise)) == 0.0


def test_samples_that_are_not_kept_have_no_influence(model_folder):
    def scrambled(store, **kwargs):
        clean = random_batch(store, **kwargs)
        rng = np.random.default_rng(7)
        groups = []
        for group in clean.groups:
            samples = arrow.decode(store.get(group.info.payload, timeout_s=1))
            samples = [
                s if kept else dataclasses.replace(s, token_ids=rng.integers(3, 99, s.num_tokens).astype(np.int32))
                for s, kept in zip(samples, group.kept, strict=True)
            ]
            rewards = np.where(group.kept, group.rewards, np.nan).astype(np.float32)
            info = dataclasses.replace(group.info, payload=store.put(arrow.encode(samples)))
            groups.append(dataclasses.replace(group, info=info, rewards=rewards))
        return dataclasses.replace(clean, groups=tuple(groups))

    clean, reports = train(model_folder)
    other, other_reports = train(model_folder, make=scrambled)
    assert furthest(weights(clean), weights(other)) == 0.0
    assert reports[-1]["reward/mean"] == other_reports[-1]["reward/mean"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_learning_rate_of_zero_leaves_every_bit_in_place(dtype, model_folder):
    store = DictStore()
    learner = TorchLearner(config(model_folder, optim__lr=0.0, optim__weight_decay=0.1, model__dtype=dtype), store)
    before = weights(learner)
    for i in range(3):
        learner.step(random_batch(store, seed=i, step=i), None)
    assert all(torch.equal(before[name], after) for name, after in weights(learner).items())


def test_two_runs_are_equal_to_the_last_bit(model_folder):
    a, b = (train(model_folder, minibatches=2, epochs=2)[0] for _ in range(2))
    assert furthest(weights(a), weights(b)) == 0.0


def test_a_batch_without_anything_to_train_on_changes_nothing(model_folder):
    store = DictStore()
    learner = TorchLearner(config(model_folder), store)
    learner.step(random_batch(store), None)
    before = weights(learner)
    report = learner.step(random_batch(store, drop=1.0, step=1), None)
    assert furthest(weights(learner), before) == 0.0
    assert report["learner/updates"] == 0
    assert all(np.isfinite(v) for v in report.values())


def test_a_payload_that_contradicts_its_metadata_is_refused(model_folder):
    store = DictStore()
    batch = random_batch(store)
    store.values[batch.groups[0].info.payload] = store.values[batch.groups[1].info.payload]
    with pytest.raises(ValueError, match="lengths"):
        TorchLearner(config(model_folder), store).step(batch, None)


def test_a_gradient_that_is_no_number_stops_the_run(model_folder):
    store = DictStore()
    learner = TorchLearner(config(model_folder), store)
    with torch.no_grad():
        learner._policy.net.model.get_output_embeddings().weight[5] = float("inf")
    with pytest.raises(Diverged, match="update 0"):
        learner.step(random_batch(store), None)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_kl_that_is_reported_is_the_estimators_closed_form(estimator, model_folder, tmp_path):
    from rayrl.models import tiny

    other = tiny.save(tmp_path / "reference", tiny.NANO, seed=8)
    store = DictStore()
    c = config(model_folder, algorithm__kl__coef=0.5, algorithm__kl__estimator=estimator, reference__path=str(other), optim__lr=0.0)
    batch = random_batch(store, turns=2, drop=0.2)
    payloads = ReferenceModel(c, store).logprobs([g.info for g in batch.groups])
    with_kl = TorchLearner(c, store).step(batch, payloads)
    without = TorchLearner(config(model_folder, optim__lr=0.0), store).step(batch, None)

    policy, frozen = load_policy(c.model).requires_grad_(False), load_policy(c.model, path=str(other)).requires_grad_(False)
    means, everything = [], []
    for group in batch.groups:
        for sample in np.array(arrow.decode(store.get(group.info.payload, timeout_s=1)), dtype=object)[group.kept]:
            ids, at = torch.tensor(sample.token_ids.astype(np.int64)), torch.from_numpy(np.flatnonzero(sample.action_mask))
            mine, theirs = (m(input_ids=ids[None]).logits[0].double().log_softmax(-1)[at - 1, ids[at]] for m in (policy, frozen))
            x = theirs - mine
            term = {"k1": -x, "k2": x**2 / 2, "k3": x.exp() - 1 - x}[estimator]
            means.append(term.mean())
            everything.append(term)
    assert with_kl["kl/reference"] == pytest.approx(float(torch.cat(everything).mean()), abs=1e-5)
    assert with_kl["learner/loss"] - without["learner/loss"] == pytest.approx(0.5 * float(torch.stack(means).mean()), abs=1e-5)


def test_the_reference_of_the_policy_itself_has_no_kl(model_folder):
    store = DictStore()
    c = config(model_folder, algorithm__kl__coef=0.1, rollout__sampling__temperature=0.7)
    batch = random_batch(store)
    report = TorchLearner(c, store).step(batch, ReferenceModel(c, store).logprobs([g.info for g in batch.groups]))
    assert report["kl/reference"] == pytest.approx(0.0, abs=1e-9)


def test_kl_in_the_reward_moves_the_advantage_by_its_closed_form(model_folder):
    """RLOO over two equal rewards: the advantage is the difference of the KL sums alone."""
    store, rng = DictStore(), np.random.default_rng(0)
    samples = [trajectory(rng, 0, i) for i in range(2)]
    batch = batch_of(store, [samples], rewards=np.ones((1, 2)))
    rows = [np.where(s.action_mask, -3.0, 0).astype(np.float32).tolist() for s in samples]
    payload = store.put(pa.RecordBatch.from_arrays([pa.array(rows, pa.list_(pa.float32()))], names=["logprobs"]))
    c = config(model_folder, algorithm__name="rloo", algorithm__kl__coef=0.2, algorithm__kl__place="reward", algorithm__kl__estimator="k1")
    report = TorchLearner(c, store).step(batch, [payload])
    sums = [float((s.behavior_logprobs[s.action_mask] + 3.0).sum()) for s in samples]
    assert report["advantage/abs_max"] == pytest.approx(0.2 * abs(sums[0] - sums[1]), rel=1e-4)


def test_the_mismatch_is_measured_at_the_sampling_temperature(model_folder):
    store, rng = DictStore(), np.random.default_rng(0)
    model = load_policy(config(model_folder).model)
    samples = []
    for i in range(4):
        s = trajectory(rng, 0, i, turns=2)
        table = (model(input_ids=torch.tensor(s.token_ids.astype(np.int64))[None]).logits[0] / 0.5).log_softmax(-1).detach().numpy()
        behavior = np.where(s.action_mask, table[np.arange(s.num_tokens) - 1, s.token_ids], 0).astype(np.float32)
        samples.append(dataclasses.replace(s, behavior_logprobs=behavior))
    batch = batch_of(store, [samples], rewards=rng.normal(size=(1, 4)))
    right = TorchLearner(config(model_folder, rollout__sampling__temperature=0.5), store).step(batch, None)
    wrong = TorchLearner(config(model_folder, rollout__sampling__temperature=1.0), store).step(batch, None)
    assert right["mismatch/abs_max"] < 1e-4 < wrong["mismatch/abs"]
    assert right["policy/ratio_max"] == pytest.approx(1.0, abs=1e-4)


def test_several_updates_correct_against_the_policy_at_the_start_of_the_step(model_folder):
    """With the decoupled ratio the first update sees ratio 1 everywhere; without correction it sees the behaviour policy."""
    _, (decoupled,) = train(model_folder, 1, minibatches=2, optim__lr=0.0, algorithm__correction__mode="truncated")
    _, (plain,) = train(model_folder, 1, minibatches=2, optim__lr=0.0)
    assert decoupled["policy/ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert decoupled["correction/ratio"] == pytest.approx(plain["policy/ratio"], abs=1e-4)
    assert plain["policy/ratio_max"] > 1.1


def test_minibatches_hold_whole_groups_and_every_group_once():
    batch = random_batch(DictStore(), groups=7, drop=0.3)
    for ranks in (1, 3):
        plans = [plan_step(batch, rank=r, ranks=ranks, minibatches=3, token_budget=50, packed=False, seed=0) for r in range(ranks)]
        assert sorted(g for plan in plans for g in plan.groups) == list(range(7))
        for k in range(3):
            assert len({len(plan.minibatches[k].micro_batches) for plan in plans}) == 1
            assert len({plan.minibatches[k].action_tokens.tobytes() for plan in plans}) == 1
        rows = sum(len(micro) for plan in plans for m in plan.minibatches for micro in m.micro_batches)
        assert rows == sum((g.kept & (g.info.action_tokens > 0)).sum() for g in batch.groups)
    other = plan_step(dataclasses.replace(batch, step=1), rank=0, ranks=1, minibatches=3, token_budget=50, packed=False, seed=0)
    assert [m.groups for m in other.minibatches] != [m.groups for m in plans[0].minibatches]


def test_bfloat16_gradients_of_many_micro_batches_add_up_in_float32():
    """In bfloat16 256 + 1 is 256: a thousand gradients of one would stop there."""
    net = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    trainable = TorchTrainable(net, OptimConfig(grad_clip=0.0), torch.device("cpu"))
    for _ in range(1000):
        trainable.backward(trainable(torch.ones(1, 1, dtype=torch.bfloat16)).float().sum())
    assert trainable.update(0.0) == 1000.0


def test_an_entropy_bonus_flattens_the_policy(model_folder):
    store = DictStore()
    settings = {"algorithm__entropy_coef": 0.5, "optim__lr": 3e-3, "optim__grad_clip": 0.0}
    learner = TorchLearner(config(model_folder, **settings), store)
    batch = dataclasses.replace(random_batch(store, samples=1), step=0)  # one sample per group: every advantage is 0
    entropies = [learner.step(batch, None)["policy/entropy"] for _ in range(4)]
    assert entropies == sorted(entropies) and entropies[-1] > entropies[0]


def test_the_policy_learns_the_token_that_is_rewarded(model_folder):
    store, rng = DictStore(), np.random.default_rng(0)
    learner = TorchLearner(config(model_folder, optim__lr=1e-2), store)
    model = learner._policy.net.model
    prompt, wanted = np.array([5, 6, 7], np.int32), 42

    def sample_batch(step: int):
        probabilities = model(input_ids=torch.from_numpy(prompt.astype(np.int64))[None]).logits[0, -1].double().softmax(-1).detach().numpy()
        tokens = rng.choice(128, size=16, p=probabilities / probabilities.sum())
        tokens[0] = wanted  # a lucky find in every group
        samples = [
            dataclasses.replace(
                trajectory(rng, 0, i),
                token_ids=np.append(prompt, t).astype(np.int32),
                action_mask=np.array([0, 0, 0, 1], bool),
                behavior_logprobs=np.append(np.zeros(3), np.log(probabilities[t])).astype(np.float32),
            )
            for i, t in enumerate(tokens)
        ]
        return batch_of(store, [samples], rewards=(tokens == wanted).astype(float)[None], step=step), probabilities[wanted]

    chances = []
    for step in range(12):
        batch, chance = sample_batch(step)
        chances.append(chance)
        learner.step(batch, None)
    assert chances[-1] > 0.3 > chances[0]


def test_the_critic_learns_the_value_of_a_state(model_folder):
    """Two prompts with rewards 1 and -1: the values must tell them apart, and explain the returns."""
    store, rng = DictStore(), np.random.default_rng(0)
    learner = TorchLearner(
        config(model_folder, algorithm__name="ppo", optim__critic_lr=3e-3, optim__lr=0.0, algorithm__value_clip=0.0), store
    )

    def batch(step: int):
        groups, rewards = [], []
        for g, (token, reward) in enumerate([(10, 1.0), (50, -1.0)]):
            made = [trajectory(rng, g, i) for i in range(4)]
            for s in made:
                s.token_ids[~s.action_mask] = token
            groups.append(made)
            rewards.append([reward] * 4)
        return batch_of(store, groups, rewards=np.array(rewards), step=step)

    reports = [learner.step(batch(i), None) for i in range(25)]
    assert reports[0]["value/mean"] == 0.0
    assert reports[-1]["value/explained_variance"] > 0.9
    assert reports[-1]["value/error_sq"] < 0.1 * reports[0]["value/error_sq"]


def test_a_critic_that_nothing_teaches_is_refused(model_folder):
    with pytest.raises(ConfigError, match=r"learner\.critic"):
        TorchLearner(config(model_folder, critic=True), DictStore())
    with pytest.raises(ConfigError, match=r"learner\.critic"):
        TorchLearner(config(model_folder, critic=False, algorithm__name="ppo"), DictStore())


def test_the_plain_learner_is_one_rank(model_folder):
    with pytest.raises(ConfigError, match=r"learner\.ranks"):
        TorchLearner(config(model_folder, ranks=2), DictStore())


@pytest.mark.parametrize("minibatches", [1, 2])
def test_token_records_hold_the_advantages_and_log_probs_of_every_trained_token(minibatches, model_folder):
    store = DictStore()
    learner = TorchLearner(config(model_folder, minibatches=minibatches, optim__lr=0.0, token_budget=60), store)
    batch = random_batch(store, turns=2, drop=0.3)
    report = learner.step(batch, None)
    rows = store.get(learner.token_records(), timeout_s=0).to_pylist()
    trained = {(g.info.ordinal, i) for g in batch.groups for i in np.flatnonzero(g.kept)}
    assert {(r["ordinal"], r["sample"]) for r in rows} == trained and len(rows) == len(trained)
    found, everything, tokens = 0.0, 0.0, 0
    for row in rows:
        group = batch.groups[row["ordinal"]]
        payload = store.get(group.info.payload, timeout_s=0)
        [behavior] = [np.array(payload["behavior_logprobs"][row["sample"]].as_py())]
        behavior = behavior[np.array(payload["action_mask"][row["sample"]].as_py(), bool)]
        found += np.abs(np.array(row["learner_logprobs"]) - behavior).sum()
        everything += np.sum(row["advantages"])
        tokens += len(row["advantages"])
    if minibatches == 1:  # the metric is measured on the first update alone
        assert found / tokens == pytest.approx(report["mismatch/abs"], rel=1e-4)
    assert everything / tokens == pytest.approx(report["advantage/mean"], abs=1e-5)
    assert learner.token_records() is None  # told once


def test_no_token_is_recorded_where_trajectories_are_not_kept(model_folder):
    store, settings = DictStore(), config(model_folder)
    settings.telemetry.rollouts = False
    learner = TorchLearner(settings, store)
    learner.step(random_batch(store), None)
    assert learner.token_records() is None
