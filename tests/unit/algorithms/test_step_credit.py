"""Rewards of steps: what each form pays, and that rewards to go are what the papers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayrl.algorithms import registry
from rayrl.algorithms.step_credit import clip, clip_delta, delta, min_form, pure_rloo, strict_min, sum_form
from rayrl.algorithms.token_credit import TokenInputs, token_rewards


def random_steps(rng):
    rows, most = int(rng.integers(1, 6)), int(rng.integers(0, 7))
    mask = torch.from_numpy(np.arange(most) < rng.integers(0, most + 1, (rows, 1))).reshape(rows, most)
    return torch.from_numpy(rng.uniform(-1, 1, (rows, most)).astype(np.float32)), mask


def to_go(paid):
    return paid.flip(-1).cumsum(-1).flip(-1)


def test_every_form_equals_its_definition_step_by_step():
    rng = np.random.default_rng(0)
    for _ in range(300):
        values, mask = random_steps(rng)
        temperature, eta = float(rng.uniform(0.05, 2)), float(rng.uniform(-0.5, 0.5))
        paid = {
            "sum": sum_form(values, mask),
            "min": min_form(values, mask, temperature=temperature),
            "strict": strict_min(values, mask),
            "clip": clip(values, mask, eta=eta),
            "delta": delta(values, mask),
            "clip_delta": clip_delta(values, mask, eta=eta),
        }
        for b in range(len(mask)):
            r = values[b][mask[b]].double().numpy()
            k = len(r)
            c = np.minimum(r - eta, 0)
            weights = np.exp(-r / temperature) / np.exp(-r / temperature).sum() if k else r
            expected_to_go = {
                "sum": np.cumsum(r[::-1])[::-1],
                "min": np.cumsum((weights * r)[::-1])[::-1],
                "strict": np.array([r[i:].min() for i in range(k)]),
                "clip": np.cumsum(c[::-1])[::-1],
                "delta": np.array([*r[:-1], 0.0])[:k],
                "clip_delta": np.array([*c[:-1], 0.0])[:k],
            }
            for name, expected in expected_to_go.items():
                np.testing.assert_allclose(to_go(paid[name])[b][mask[b]], expected, atol=1e-4, err_msg=name)
                assert paid[name][b][~mask[b]].abs().sum() == 0


def test_the_minimum_form_tends_to_the_worst_step_and_shares_equal_ones():
    values, mask = (
        torch.tensor([[0.9, -0.5, 0.3], [0.4, 0.4, 0.4], [0.7, 0.0, 0.0]]),
        torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0]]).bool(),
    )
    assert min_form(values, mask, temperature=1e-3).sum(-1).tolist() == pytest.approx([-0.5, 0.4, 0.7])
    assert min_form(values, mask)[1].tolist() == pytest.approx([0.4 / 3] * 3)
    assert min_form(values, mask)[2].tolist() == pytest.approx([0.7, 0, 0]), "one step keeps its reward"


def test_paying_differences_does_not_pay_for_more_steps():
    for steps in (2, 5, 50):
        values, mask = torch.full((1, steps), 0.9), torch.ones(1, steps, dtype=torch.bool)
        assert delta(values, mask).sum().item() == pytest.approx(0.9)
        assert clip_delta(values, mask, eta=0.9).abs().sum() == 0
        assert sum_form(values, mask).sum().item() == pytest.approx(0.9 * steps)
    assert delta(torch.ones(1, 1), torch.ones(1, 1).bool()).abs().sum() == 0, "a single step is paid by the outcome"


@pytest.mark.parametrize("name", list(registry.STEPS))
def test_a_row_without_steps_is_paid_nothing(name):
    paid = registry.load(registry.STEPS, name, "k")(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert torch.equal(paid, torch.zeros(2, 3))
    assert registry.load(registry.STEPS, name, "k")(torch.ones(2, 0), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0)


def random_inputs(rng, random_mask):
    rows, width = int(rng.integers(1, 7)), int(rng.integers(1, 9))
    mask = random_mask(rng, rows, width, allow_empty=False)
    steps, tokens = torch.zeros(rows, width), torch.zeros(rows, width, dtype=torch.int64)
    for b in range(rows):
        at = np.flatnonzero(mask[b])
        ends = sorted(set(rng.choice(len(at), rng.integers(0, len(at) + 1), replace=False).tolist()) | {len(at) - 1})
        for before, end in zip([-1, *ends], ends, strict=False):
            steps[b, at[end]], tokens[b, at[end]] = float(rng.normal()), end - before
    outcomes = torch.from_numpy(rng.integers(0, 2, rows).astype(np.float32))
    kl = torch.from_numpy(rng.normal(size=(rows, width)).astype(np.float32))
    group = torch.from_numpy(np.sort(rng.integers(0, 3, rows)))
    total = token_rewards(outcomes, mask, kl, 1.0) + steps
    return TokenInputs(total, mask, group=group, outcomes=outcomes, kl=kl, step_rewards=steps, step_tokens=tokens)


@pytest.mark.parametrize("baseline", ["token", "step"])
def test_pure_rloo_equals_leave_one_out_written_as_loops(baseline, random_mask):
    rng = np.random.default_rng(1)
    for _ in range(200):
        x = random_inputs(rng, random_mask)
        got = pure_rloo(x, baseline=baseline).advantages
        for i in range(len(x.action_mask)):
            others = [j for j in range(len(x.action_mask)) if j != i and x.group[j] == x.group[i]]
            paid = [float(x.step_rewards[j].sum()) for j in others]
            tokens = [int(x.action_mask[j].sum()) for j in others]
            steps = [int((x.step_tokens[j] > 0).sum()) for j in others]
            at, running, expected = np.flatnonzero(x.action_mask[i]), 0.0, {}
            for t in at[::-1]:
                reward = float(x.step_rewards[i, t]) - float(x.kl[i, t])
                if x.step_tokens[i, t] > 0 and others:
                    per_step = sum(p / s for p, s in zip(paid, steps, strict=True)) / len(others)
                    reward -= sum(paid) / sum(tokens) * int(x.step_tokens[i, t]) if baseline == "token" else per_step
                if t == at[-1]:
                    reward += float(x.outcomes[i]) - (np.mean([float(x.outcomes[j]) for j in others]) if others else 0)
                running += reward
                expected[t] = running
            for t in range(x.action_mask.shape[1]):
                assert float(got[i, t]) == pytest.approx(expected.get(t, 0.0), abs=1e-4)


def test_pure_rloo_without_steps_says_what_it_needs(random_mask):
    with pytest.raises(ValueError, match=r"algorithm\.steps"):
        pure_rloo(TokenInputs(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)))
