"""Every method through the real learner: no micro-batch, no rank and no packing changes its update, and none of its memory is lost.

The cases follow from the tables: a method that is added there is tested here.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from learner_cases import DictStore, config, random_batch
from rank_group import train_ranks

from rayrl.algorithms import registry
from rayrl.config.schema import RewardComponent
from rayrl.data import arrow
from rayrl.data.steps import step_ends
from rayrl.data.tokenizer import load_tokenizer
from rayrl.learner.torch import TorchLearner

SEPARATOR = ","
HEADS = ("r", "s", "t")


def cases() -> dict[str, dict]:
    """One configuration per line of the tables."""
    found: dict[str, dict] = {}
    for name, entry in registry.OUTCOME_ADVANTAGES.items():
        found[f"advantage {name}"] = {"algorithm__advantage": name} | ({"algorithm__steps": "sum"} if entry.steps else {})
    for name, entry in registry.TOKEN_ADVANTAGES.items():
        if not entry.values:
            found[f"advantage {name}"] = {"algorithm__advantage": name} | ({"algorithm__steps": "min_form"} if entry.steps else {})
    for name in registry.GROUP_LOSSES:
        found[f"loss {name}"] = {"algorithm__name": name if name in registry.PRESETS else "dpo", "algorithm__loss": name}
    for name in registry.PAIRS:
        found[f"pairs {name}"] = {"algorithm__name": "dpo", "algorithm__pairs": name}
    for part, table in (("shaping", registry.SHAPINGS), ("steps", registry.STEPS), ("resample", registry.RESAMPLINGS)):
        for name in table:
            found[f"{part} {name}"] = {f"algorithm__{part}": name}
    return found


def settings(case: str, folder, **more):
    c = config(folder, **CASES[case], **more)
    binary = any(entry.binary for entry in registry.resolve(c.algorithm).entries.values())
    c.rewards.components = {name: RewardComponent("x", weight=float(name == "r" or not binary)) for name in HEADS}
    c.rewards.components["steps"] = RewardComponent("x", weight=0.0)
    if registry.resolve(c.algorithm).steps != "none":
        c.algorithm.args = {"component": "steps", "separator": SEPARATOR, "coef": 0.5}
    return c


def batch_for(c, store: DictStore, seed: int, decode):
    """Several heads, step values for every step between separators; rewards of 0 and 1 where the method needs them."""
    plain, rng = random_batch(store, seed=seed, step=seed, turns=2, drop=0.15, groups=5, samples=4), np.random.default_rng(seed)
    binary = any(entry.binary for entry in registry.resolve(c.algorithm).entries.values())
    groups = []
    for group in plain.groups:
        rewards = rng.integers(0, 2, 4).astype(np.float32) if binary else group.rewards
        steps = []
        for t in arrow.decode(store.get(group.info.payload, timeout_s=1)):
            texts = [decode(int(i)) for i in t.token_ids[t.action_mask]]
            steps.append(tuple(rng.normal(size=len(step_ends(texts, SEPARATOR))).tolist()))
        components = {"r": rewards} | {name: rng.normal(size=4).astype(np.float32) for name in HEADS[1:]}
        components["steps"] = np.array([sum(s) for s in steps], np.float32)
        groups.append(dataclasses.replace(group, rewards=rewards, components=components, step_values={"steps": tuple(steps)}))
    return dataclasses.replace(plain, groups=tuple(groups))


def reference_for(store: DictStore):
    def payloads(batch):
        refs, rng = [], np.random.default_rng(5)
        for group in batch.groups:
            samples = arrow.decode(store.get(group.info.payload, timeout_s=1))
            rows = [np.where(s.action_mask, rng.normal(-4.8, 0.3, s.num_tokens), 0).astype(np.float32).tolist() for s in samples]
            refs.append(store.put(pa.RecordBatch.from_arrays([pa.array(rows, pa.list_(pa.float32()))], names=["logprobs"])))
        return refs

    return payloads


def decoder(c):
    tokenizer = load_tokenizer(c.model)
    return lambda token: tokenizer.decode([token], skip_special_tokens=True)


def run(case: str, folder, steps: int = 2, ranks: int = 1, **more):
    store = DictStore()
    c = settings(case, folder, **more)
    batches = [batch_for(c, store, i, decoder(c)) for i in range(steps)]
    fixed = {b.step: reference_for(store)(b) for b in batches} if registry.resolve(c.algorithm).needs_reference else None
    return train_ranks(c, store, batches, ranks, (lambda b: fixed[b.step]) if fixed else None)


CASES = cases()


@pytest.mark.parametrize("case", CASES)
def test_no_split_into_micro_batches_and_ranks_changes_a_method(case, model_folder):
    torch.set_num_threads(1)
    whole, reports = run(case, model_folder)
    parts, split_reports = run(case, model_folder, ranks=2, token_budget=70, packing=True)
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 2e-4
    for a, b in zip(reports, split_reports, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"learner/padding_share"}:
            assert b[key] == pytest.approx(a[key], rel=2e-3, abs=2e-4), key


@pytest.mark.parametrize("case", [c for c in CASES if c not in ("advantage none", "loss none")])
def test_every_method_moves_the_policy(case, model_folder):
    _, (report,) = run(case, model_folder, steps=1)
    assert all(np.isfinite(v) for v in report.values())
    assert report["learner/grad_norm"] > 1e-6


STATEFUL = [
    f"{part} {name}"
    for part, table in registry.PARTS.items()
    for name, entry in table.items()
    if entry.stateful and f"{part} {name}" in CASES
]


@pytest.mark.parametrize("case", STATEFUL)
def test_what_a_method_remembers_is_saved_and_continues_to_the_last_bit(case, model_folder, tmp_path):
    store = DictStore()
    c = settings(case, model_folder)
    straight = TorchLearner(c, store)
    batches = [batch_for(c, store, i, decoder(c)) for i in range(3)]
    straight.step(batches[0], None)
    straight.save(tmp_path)
    resumed = TorchLearner(c, store)
    resumed.load(tmp_path)
    assert resumed._trainer.assigner.state == straight._trainer.assigner.state != {}
    for batch in batches[1:]:
        a, b = straight.step(batch, None), resumed.step(batch, None)
        assert {k: v for k, v in a.items() if "per_s" not in k} == {k: v for k, v in b.items() if "per_s" not in k}
    for (name, p), (_, q) in zip(straight._policy.net.named_parameters(), resumed._policy.net.named_parameters(), strict=True):
        assert torch.equal(p, q), name
