"""Preference losses: values against the papers' formulas pair by pair, gradients against finite differences, and their limits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rayrl.algorithms import registry
from rayrl.algorithms.group_loss import GroupInputs
from rayrl.algorithms.outcome_loss import kto, pacs
from rayrl.algorithms.preference import dpo, flex_dpo, ipo, irepo, mass_elsewhere, mnpo, prdp, ranking_hinge, simpo, trpa, upo


def make(rng, random_mask, tensor, *, pairs=None, scale=0.5, rewards=None, rows=None, logprobs=None) -> GroupInputs:
    rows = rows or int(rng.integers(2, 8))
    width = int(rng.integers(1, 7))
    mask = random_mask(rng, rows, width, allow_empty=False)
    base = -tensor(rng, rows, width).abs() - 0.5
    noisy = lambda: (base + tensor(rng, rows, width, scale=scale)).clamp(max=-1e-3)
    count = int(rng.integers(0, 6)) if pairs is None else pairs
    chosen = rng.integers(0, rows, count)
    rejected = (chosen + rng.integers(1, rows, count)) % rows
    return GroupInputs(
        logprobs=(noisy() if logprobs is None else logprobs).requires_grad_(),
        prox_logprobs=noisy(),
        behavior_logprobs=noisy(),
        reference_logprobs=noisy(),
        action_mask=mask,
        group=torch.from_numpy(np.sort(rng.integers(0, 3, rows))),
        rewards=torch.from_numpy(rng.integers(0, 2, rows).astype(float) if rewards is None else rewards),
        chosen=torch.from_numpy(chosen),
        rejected=torch.from_numpy(rejected),
        target=torch.from_numpy(rng.uniform(0, 1, count)),
        weight=torch.from_numpy(rng.uniform(0.2, 2, count)),
        no_pairs=count == 0,
    )


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def by_hand(name, x: GroupInputs) -> float:
    """The sum over pairs with the default knobs, in plain Python."""
    s = lambda t, i: float(t[i][x.action_mask[i]].sum())
    n = lambda i: int(x.action_mask[i].sum())
    pi, ref, old, beh = x.logprobs.detach(), x.reference_logprobs, x.prox_logprobs, x.behavior_logprobs
    total = 0.0
    for w, v, target, weight in zip(x.chosen.tolist(), x.rejected.tolist(), x.target.tolist(), x.weight.tolist(), strict=True):
        gain = lambda i, other=ref: s(pi, i) - s(other, i)
        mean = lambda t, w=w, v=v: s(t, w) / n(w) - s(t, v) / n(v)
        gap = gain(w) - gain(v)
        if name == "dpo":
            value = softplus(-0.1 * gap)
        elif name == "ipo":
            value = (gap - 5) ** 2
        elif name == "simpo":
            value = softplus(-(2 * mean(pi) - 1))
        elif name == "orpo":
            p = {i: math.exp(s(pi, i) / n(i)) for i in (w, v)}
            odds = math.log(p[w] / (1 - p[w])) - math.log(p[v] / (1 - p[v]))
            value = -s(pi, w) / n(w) + 0.1 * softplus(-odds)
        elif name == "flex_dpo":
            value = softplus(-(0.1 * gain(w) - 0.08 * gain(v)))
        elif name == "mnpo":
            value = (mean(pi) - 0.33 * mean(ref) - 0.67 * mean(beh) - 1 / 0.015) ** 2
        elif name == "irepo":
            p = min(max(target, 1e-3), 1 - 1e-3)
            value = (0.1 * (gain(w, beh) - gain(v, beh)) - math.log(p / (1 - p))) ** 2
        elif name == "prdp":
            clipped = {}
            for i in (w, v):
                at = x.action_mask[i]
                r, r_old = (pi - ref)[i][at], (old - ref)[i][at]
                clipped[i] = float(torch.minimum(torch.maximum(r, r_old - 0.1), r_old + 0.1).sum())
            value = max((gap - target / 0.5) ** 2, (clipped[w] - clipped[v] - target / 0.5) ** 2)
        elif name == "ranking_hinge":
            value = max(0.5 - 0.1 * gap, 0)
        elif name == "upo":
            h = 0.1 * (gain(w, beh) - gain(v, beh))
            value = (1 - target) * softplus(-h) + target * softplus(h)
        elif name == "trpa":
            c = 2.5 if float(x.rewards[w]) >= 1 else 1.0
            value = softplus(-c * 0.1 * (gain(w) / n(w) - gain(v) / n(v)))
        total += weight * value
    return total


PAIRED = [name for name, entry in registry.GROUP_LOSSES.items() if entry.pairs]


@pytest.mark.parametrize("name", PAIRED)
def test_the_value_is_the_papers_pair_by_pair(name, random_mask, tensor):
    rng = np.random.default_rng(0)
    f = registry.load(registry.LOSSES, name, "k")
    for _ in range(200):
        x = make(rng, random_mask, tensor, pairs=int(rng.integers(1, 6)))
        assert float(f(x).sum.detach()) == pytest.approx(by_hand(name, x), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", registry.GROUP_LOSSES)
def test_the_gradient_is_that_of_finite_differences(name, random_mask, tensor):
    rng = np.random.default_rng(1)
    f = registry.load(registry.LOSSES, name, "k")
    for _ in range(20):
        x = make(rng, random_mask, tensor)

        def loss(logprobs, x=x):
            out = f(GroupInputs(**{**x.__dict__, "logprobs": logprobs}))
            return out.sum + (0 if out.token_loss is None else out.token_loss.sum())

        torch.autograd.gradcheck(loss, x.logprobs, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", registry.GROUP_LOSSES)
def test_what_stands_outside_the_mask_is_never_read(name, random_mask, tensor):
    rng = np.random.default_rng(2)
    f = registry.load(registry.LOSSES, name, "k")
    for _ in range(30):
        x = make(rng, random_mask, tensor)
        hide = lambda t, x=x: torch.where(x.action_mask, t.detach(), torch.nan)
        fields = ("prox_logprobs", "behavior_logprobs", "reference_logprobs")
        dirty = GroupInputs(**{**x.__dict__, "logprobs": hide(x.logprobs).requires_grad_()} | {k: hide(getattr(x, k)) for k in fields})
        a, b = f(x), f(dirty)
        assert float(a.sum.detach()) == float(b.sum.detach())
        assert torch.equal(torch.autograd.grad(a.sum, x.logprobs)[0], torch.autograd.grad(b.sum, dirty.logprobs)[0])


@pytest.mark.parametrize("name", registry.GROUP_LOSSES)
def test_no_rows_and_no_pairs_give_zero_with_a_gradient(name):
    empty = torch.zeros(0, 0, dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.int64)
    x = GroupInputs(
        empty.clone().requires_grad_(),
        empty,
        empty,
        empty,
        empty.bool(),
        none,
        empty[:, :0].sum(-1),
        none,
        none,
        empty.sum(-1),
        empty.sum(-1),
    )
    out = registry.load(registry.LOSSES, name, "k")(x)
    assert float(out.sum.detach()) == 0 and out.sum.requires_grad


def test_at_the_reference_dpo_is_log_2_and_huge_margins_do_not_overflow(random_mask, tensor):
    rng = np.random.default_rng(3)
    x = make(rng, random_mask, tensor, pairs=3)
    same = GroupInputs(**{**x.__dict__, "logprobs": x.reference_logprobs.clone().requires_grad_()})
    assert float(dpo(same).sum) == pytest.approx(float(x.weight.sum()) * math.log(2))
    far = GroupInputs(**{**x.__dict__, "logprobs": (x.logprobs * 1e6).detach().requires_grad_()})
    for f in (dpo, flex_dpo, upo, trpa):
        out = f(far).sum
        assert torch.isfinite(out) and torch.isfinite(torch.autograd.grad(out, far.logprobs)[0]).all()


def test_limits_in_which_two_methods_coincide(random_mask, tensor):
    rng = np.random.default_rng(4)
    for _ in range(100):
        x = make(rng, random_mask, tensor, pairs=4)
        same = lambda a, b: float(a.sum.detach()) == pytest.approx(float(b.sum.detach()), rel=1e-9, abs=1e-12)
        sums = {"per_token": False}
        assert same(mnpo(x, ratio=1.0, eta=0.2, **sums), ipo(x, tau=0.2))
        assert same(mnpo(x, ratio=1.0, distance="logistic", beta=0.3, **sums), dpo(x, beta=0.3))
        assert same(mnpo(x, opponents=0.0, distance="logistic", beta=2.0), simpo(x, beta=2.0, gamma=0.0))
        external = dataclasses.replace(x, opponent_logprobs=x.reference_logprobs)
        assert same(mnpo(external, ratio=0.0, others=1.0, eta=0.2, **sums), ipo(x, tau=0.2))
        assert same(mnpo(external, ratio=0.3, others=0.4), mnpo(x, ratio=0.3 + 0.7 * 0.4))
        previous = GroupInputs(**{**x.__dict__, "reference_logprobs": x.behavior_logprobs})
        assert same(mnpo(x, ratio=0.0, distance="logistic", beta=0.3, **sums), dpo(previous, beta=0.3))
        assert same(flex_dpo(x, beta_chosen=0.2, beta_rejected=0.2), dpo(x, beta=0.2))
        constant = GroupInputs(**{**x.__dict__, "target": torch.full_like(x.target, torch.sigmoid(torch.tensor(2.5, dtype=torch.float64)))})
        assert same(irepo(constant, beta=1.0, anchor="reference"), ipo(x, tau=0.2))
        zero = GroupInputs(**{**x.__dict__, "target": torch.zeros_like(x.target)})
        assert same(upo(zero, anchor="reference"), dpo(x))
        at_old = GroupInputs(**{**x.__dict__, "prox_logprobs": x.logprobs.detach()})
        gain = torch.where(x.action_mask, x.logprobs.detach() - x.reference_logprobs, 0).sum(-1)
        plain = (x.weight * (gain[x.chosen] - gain[x.rejected] - x.target / 0.5).square()).sum()
        assert float(prdp(at_old).sum.detach()) == pytest.approx(float(plain)), "nothing is clipped before the first update"


def test_a_pair_that_is_apart_by_the_margin_has_no_gradient(random_mask, tensor):
    rng = np.random.default_rng(5)
    x = make(rng, random_mask, tensor, pairs=1, rows=2)
    raised = x.reference_logprobs.clone()
    raised[x.chosen] += 100
    far = GroupInputs(**{**x.__dict__, "logprobs": raised.requires_grad_()})
    assert torch.autograd.grad(ranking_hinge(far).sum, far.logprobs)[0].abs().sum() == 0
    assert float(ranking_hinge(GroupInputs(**{**x.__dict__, "logprobs": x.reference_logprobs.clone().requires_grad_()})).sum) > 0


def test_the_rejected_branch_of_flex_dpo_can_be_switched_off(random_mask, tensor):
    rng = np.random.default_rng(6)
    x = make(rng, random_mask, tensor, pairs=1, rows=2)
    gradient = torch.autograd.grad(flex_dpo(x, beta_rejected=0.0, sft=0.5).sum, x.logprobs)[0]
    assert gradient[x.rejected].abs().sum() == 0 < gradient[x.chosen].abs().sum()


def test_flex_dpo_gradients_are_the_printed_ones(random_mask, tensor):
    rng = np.random.default_rng(7)
    for _ in range(50):
        x = make(rng, random_mask, tensor, pairs=1, rows=2)
        gain = torch.where(x.action_mask, x.logprobs.detach() - x.reference_logprobs, 0).sum(-1)
        z = 0.3 * gain[x.chosen] - 0.1 * gain[x.rejected]
        n, weight = int(x.action_mask[x.chosen].sum()), float(x.weight)
        gradient = torch.autograd.grad(flex_dpo(x, beta_chosen=0.3, beta_rejected=0.1, sft=2.0).sum, x.logprobs)[0]
        up, down = -(0.3 * torch.sigmoid(-z) + 2.0 / n) * weight, 0.1 * torch.sigmoid(-z) * weight
        torch.testing.assert_close(gradient[x.chosen][x.action_mask[x.chosen]], up.expand(n))
        torch.testing.assert_close(gradient[x.rejected][x.action_mask[x.rejected]], down.expand(int(x.action_mask[x.rejected].sum())))
    assert float(mass_elsewhere(torch.tensor(math.log(0.3)), torch.tensor(math.log(0.2)))) == pytest.approx(0.5)


def test_trpa_reads_levels_not_numbers_and_its_gradient_adds_up_to_zero(random_mask, tensor):
    rng = np.random.default_rng(8)
    for _ in range(100):
        x = make(rng, random_mask, tensor, pairs=4, rewards=None)
        relabelled = GroupInputs(**{**x.__dict__, "rewards": torch.where(x.rewards >= 1, 1.0, -7.0).double()})
        assert float(trpa(x).sum.detach()) == float(trpa(relabelled).sum.detach())
        means = x.logprobs.detach().clone().requires_grad_()
        total = torch.autograd.grad(trpa(GroupInputs(**{**x.__dict__, "logprobs": means})).sum, means)[0].sum()
        assert abs(float(total)) < 1e-12, "raising every answer alike changes no preference"


def test_trpa_without_any_pair_raises_all_right_and_lowers_all_wrong(random_mask, tensor):
    rng = np.random.default_rng(9)
    for reward, sign in ((1.0, -1), (0.0, 1)):
        x = make(rng, random_mask, tensor, pairs=0, rows=4, rewards=np.full(4, reward))
        gradient = torch.autograd.grad(trpa(x, kl_coef=0.0).sum, x.logprobs)[0]
        assert (gradient[x.action_mask] * sign > 0).all()


def test_kto_equals_its_definition(random_mask, tensor):
    rng = np.random.default_rng(10)
    for _ in range(200):
        x = make(rng, random_mask, tensor, pairs=0)
        s = lambda t, i, x=x: float(t[i][x.action_mask[i]].sum())
        total = 0.0
        for i in range(len(x.rewards)):
            group = [j for j in range(len(x.rewards)) if x.group[j] == x.group[i]]
            z = max(np.mean([s(x.behavior_logprobs, j) - s(x.reference_logprobs, j) for j in group]), 0)
            gain = s(x.logprobs.detach(), i) - s(x.reference_logprobs, i)
            good = float(x.rewards[i]) >= 0.5
            total += (2.0 if good else 0.5) * (1 - 1 / (1 + math.exp(-0.1 * (gain - z if good else z - gain))))
        assert float(kto(x, desirable=2.0, undesirable=0.5).sum.detach()) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("class_weights", [True, False])
def test_the_gradient_of_pacs_is_the_closed_form(class_weights, random_mask, tensor):
    rng = np.random.default_rng(11)
    for _ in range(200):
        x = make(rng, random_mask, tensor, pairs=0)
        gradient = torch.autograd.grad(pacs(x, beta=0.7, class_weights=class_weights).sum, x.logprobs)[0]
        n_rows = len(x.rewards)
        r = [0.7 * float((x.logprobs.detach() - x.prox_logprobs)[i][x.action_mask[i]].sum()) for i in range(n_rows)]
        g, members = [], []
        for i in range(n_rows):
            group = [j for j in range(n_rows) if x.group[j] == x.group[i]]
            members.append(group)
            others = [r[j] for j in group if j != i]
            psi = r[i] - np.mean(others) if others else r[i]
            alike = sum(float(x.rewards[j]) == float(x.rewards[i]) for j in group)
            w = len(group) / (2 * alike) if class_weights and alike < len(group) else 1.0
            g.append(w * (1 / (1 + math.exp(-psi)) - float(x.rewards[i])))
        for i in range(n_rows):
            others = sum(g[j] for j in members[i] if j != i)
            expected = 0.7 * (g[i] - others / max(len(members[i]) - 1, 1))
            torch.testing.assert_close(gradient[i], expected * x.action_mask[i].double(), rtol=1e-8, atol=1e-10)


def test_pacs_starts_as_a_balanced_reinforce_step(random_mask, tensor):
    rng = np.random.default_rng(12)
    x = make(rng, random_mask, tensor, pairs=0, rows=6)
    start = GroupInputs(**{**x.__dict__, "prox_logprobs": x.logprobs.detach(), "group": torch.zeros(6, dtype=torch.int64)})
    out = pacs(start, class_weights=False)
    assert float(out.sum.detach()) == pytest.approx(6 * math.log(2))
    assert float(out.metrics["method/brier"]) == pytest.approx(6 * 0.25)
