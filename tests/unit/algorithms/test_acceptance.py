"""The papers' own checks, as tabular simulations: softmax policies over a handful of actions, trained by the functions of this room.

    python -m pytest -m slow tests/unit/algorithms/test_acceptance.py      (about a minute and a half)

Each states what the page of the paper asserts; where another outcome was seen, the test says so and holds to what was seen.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from rayrl.algorithms.batch import BatchInputs
from rayrl.algorithms.credit import OutcomeInputs, grpo
from rayrl.algorithms.ensembles import robust, uncertainty_weighted, worst_case
from rayrl.algorithms.group_loss import GroupInputs
from rayrl.algorithms.pairs import zermelo
from rayrl.algorithms.preference import dpo, flex_dpo, irepo, mnpo, prdp
from rayrl.algorithms.risk import riskpo
from rayrl.algorithms.shaping import win_rate
from rayrl.algorithms.step_credit import min_form, pure_rloo, sum_form
from rayrl.algorithms.token_credit import TokenInputs
from rayrl.evaluation.estimators import best_of_n

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)


def one_token(logprobs, reference, chosen, rejected, target, *, old=None) -> GroupInputs:
    """Answers of one token each: rows are answers, the prompt is the same for all."""
    n = len(logprobs)
    column = lambda x: x.reshape(n, 1)
    old = reference if old is None else old
    return GroupInputs(
        column(logprobs),
        column(old),
        column(old),
        column(reference),
        torch.ones(n, 1, dtype=torch.bool),
        torch.zeros(n, dtype=torch.int64),
        torch.zeros(n),
        torch.tensor(chosen),
        torch.tensor(rejected),
        torch.as_tensor(target, dtype=logprobs.dtype),
        torch.ones(len(chosen), dtype=logprobs.dtype),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_02_the_sum_form_is_hacked_and_the_min_form_is_not(seed):
    """Filler step +0.9, right end +0.5, wrong end -0.5, cut off after 10 steps -0.9; 120 updates, groups of 8, token baseline."""

    def train(form):
        rng, logits = np.random.default_rng(seed), torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=0.5)
        for _ in range(120):
            chance = logits.detach().softmax(-1).numpy()
            episodes = []
            for _ in range(8):
                steps = []
                while len(steps) < 10 and (not steps or steps[-1] == 0):
                    steps.append(int(rng.choice(3, p=chance / chance.sum())))
                episodes.append(steps)
            width = max(map(len, episodes))
            actions = torch.tensor([s + [0] * (width - len(s)) for s in episodes])
            mask = torch.tensor([[True] * len(s) + [False] * (width - len(s)) for s in episodes])
            values = torch.tensor([0.9, 0.5, -0.5])[actions]
            for i, s in enumerate(episodes):
                if s[-1] == 0:
                    values[i, len(s) - 1] = -0.9
            zeros = torch.zeros(8)
            inputs = TokenInputs(
                values, mask, group=torch.zeros(8), outcomes=zeros, step_rewards=form(values, mask), step_tokens=mask.long()
            )
            advantages = pure_rloo(inputs).advantages
            loss = -(advantages.double() * logits.log_softmax(-1)[actions] * mask).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        lengths = np.mean([len(s) for s in episodes])
        p = logits.detach().softmax(-1).numpy()
        return lengths, p[1] / (p[1] + p[2])

    length_sum, _ = train(sum_form)
    length_min, right = train(lambda v, m: min_form(v, m, temperature=0.1))
    print(f"seed {seed}: length sum {length_sum:.2f}, min {length_min:.2f}; right answers (min) {right:.3f}")
    assert length_min <= 1.5 and right >= 0.95
    assert length_sum >= 2 * length_min


def test_03_an_opponent_that_only_follows_cycles_and_a_fixed_one_stops_it():
    """Rock, paper, scissors from (.6, .3, .1): the last policy as the only opponent keeps cycling, a share of the uniform start settles.

    All pairs of moves, the gap that is aimed at being the difference of their expected preference (eq. 17 with eta delta).
    """

    def last_deviation(ratio):
        logits = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log().requires_grad_()
        uniform = torch.full((3,), 1 / 3, dtype=torch.float64).log()
        beats = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 2  # paper beats rock, scissors beat paper, rock beats scissors
        deviations = []
        for _ in range(200):
            previous = logits.detach().log_softmax(-1)
            value = beats @ previous.exp().numpy()
            pairs = [(i, j) for i in range(3) for j in range(3) if value[i] > value[j] + 1e-12]
            optimizer = torch.optim.SGD([logits], lr=0.1)
            for _ in range(30):
                terms = [
                    mnpo(
                        one_token(logits.log_softmax(-1), uniform, [i], [j], [0.0], old=previous), ratio=ratio, eta=eta, per_token=False
                    ).sum
                    for i, j in pairs
                    for eta in [0.5 / (value[i] - value[j])]
                ]
                optimizer.zero_grad()
                sum(terms, torch.zeros((), dtype=torch.float64, requires_grad=True)).backward()
                optimizer.step()
            deviations.append(float((logits.detach().softmax(-1) - 1 / 3).abs().max()))
        return max(deviations[-50:])

    alone, anchored = last_deviation(0.0), last_deviation(0.3)
    print(f"largest deviation from uniform over the last 50 rounds: last policy alone {alone:.3f}, with the fixed start {anchored:.3f}")
    assert anchored < 0.05 and alone > 0.3


@pytest.mark.parametrize("beta", [0.5])
def test_14_prdp_reaches_the_optimum_of_kl_regularised_reward(beta):
    """Tabular softmax over 6 outcomes, 300 epochs of 4 updates: the policy is ref * exp(R / beta) / Z."""
    rng = np.random.default_rng(0)
    reward = torch.from_numpy(rng.normal(size=6))
    reference = torch.from_numpy(rng.normal(size=6)).log_softmax(-1)
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.02)
    pairs = [(i, j) for i in range(6) for j in range(6) if reward[i] > reward[j]]
    chosen, rejected = map(list, zip(*pairs, strict=True))
    for epoch in range(300):
        old = logits.detach().log_softmax(-1)
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - epoch / 300)
        for _ in range(4):
            target = (reward[chosen] - reward[rejected]).tolist()
            loss = prdp(one_token(logits.log_softmax(-1), reference, chosen, rejected, target, old=old), beta=beta, eps=0.1).sum / len(
                pairs
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    optimum = (reference + reward / beta).log_softmax(-1)
    gap = float((logits.detach().log_softmax(-1) - optimum).abs().max())
    print(f"largest distance of a log-probability from the optimum: {gap:.1e}")
    assert gap < 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_10_every_round_of_irepo_raises_the_expected_reward(seed):
    """6 answers with latent rewards, beta 1, 5 rounds; hard labels drift further from the start than soft ones."""
    rng = np.random.default_rng(seed)
    reward = rng.uniform(0, 0.64, 6)
    reward[0] = 0.64

    def rounds(hard):
        logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        start, expected = logits.detach().log_softmax(-1), []
        expected.append(float(start.exp().numpy() @ reward))
        for _ in range(5):
            previous = logits.detach().log_softmax(-1)
            optimizer = torch.optim.Adam([logits], lr=0.05)
            votes = 1 / (1 + np.exp(-(reward[:, None] - reward[None, :])))
            np.fill_diagonal(votes, 0)
            strengths = zermelo(100 * votes, 1e-6)
            pairs = [(i, j) for i in range(6) for j in range(6) if strengths[i] > strengths[j]]
            chosen, rejected = map(list, zip(*pairs, strict=True))
            p = [1.0 if hard else strengths[i] / (strengths[i] + strengths[j]) for i, j in pairs]
            for _ in range(200):
                loss = irepo(one_token(logits.log_softmax(-1), previous, chosen, rejected, p, old=previous), beta=1.0).sum / len(pairs)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            expected.append(float(logits.detach().softmax(-1).numpy() @ reward))
        final = logits.detach().log_softmax(-1)
        return expected, float((final.exp() * (final - start)).sum())

    soft, drift_soft = rounds(hard=False)
    _, drift_hard = rounds(hard=True)
    print(f"seed {seed}: expected reward by round {[round(x, 3) for x in soft]}, KL soft {drift_soft:.2f}, hard {drift_hard:.2f}")
    assert all(b > a for a, b in pairwise(soft))
    assert drift_hard > drift_soft


@pytest.mark.parametrize("seed", SEEDS)
def test_12_riskpo_keeps_more_entropy_than_grpo_and_risk_seeking_loses_it(seed):
    """5 questions, 10 actions each, groups of 10; entropy at update 50 and accuracy at update 300."""

    def train(kind):
        rng = np.random.default_rng(seed)
        logits = torch.zeros(5, 10, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=1.0)
        state, entropy = None, 0.0
        for update in range(300):
            table = logits.log_softmax(-1)
            chance = table.detach().exp().numpy()
            actions = np.stack([rng.choice(10, 10, p=chance[q] / chance[q].sum()) for q in range(5)])
            rewards = torch.from_numpy((actions == 0).astype(np.float32).ravel())
            group = torch.arange(5).repeat_interleave(10)
            ones = torch.ones(50, dtype=torch.int64)
            inputs = OutcomeInputs(rewards, group, ones, ones.bool(), rng=rng)
            if kind == "grpo":
                advantages = grpo(inputs)
            else:
                state, advantages = riskpo(state, inputs, seeking=kind == "seeking")
            chosen = table[group, torch.from_numpy(actions.ravel())]
            loss = -(advantages.double() * chosen).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if update == 49:
                entropy = float(-(table.detach().exp() * table.detach()).sum(-1).mean())
        return entropy, float(logits.detach().softmax(-1)[:, 0].mean())

    results = {kind: train(kind) for kind in ("riskpo", "grpo", "seeking")}
    print(f"seed {seed}: (entropy at 50, accuracy at 300) " + ", ".join(f"{k} {e:.2f} {a:.3f}" for k, (e, a) in results.items()))
    assert results["riskpo"][0] > results["grpo"][0]
    assert results["riskpo"][0] > results["seeking"][0]


def test_19_dpo_suppresses_both_answers_and_a_likelihood_term_does_not():
    """One pair and an unseen answer that shares features: phi_unseen is along phi_w - phi_l. Deterministic."""
    phi = torch.tensor([[1.0, 0.2], [0.9, -0.6], [1.4, 1.6]], dtype=torch.float64)

    def train(sft):
        theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        start = (phi @ theta.detach()).log_softmax(-1)
        optimizer = torch.optim.SGD([theta], lr=0.1)
        for _ in range(300):
            x = one_token((phi @ theta).log_softmax(-1), start, [0], [1], [0.0])
            loss = (dpo(x, beta=1.0) if sft == 0 else flex_dpo(x, beta_chosen=1.0, beta_rejected=1.0, sft=sft)).sum
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return start.exp(), (phi @ theta.detach()).softmax(-1)

    start, plain = train(0)
    _, with_sft = train(1.0)
    print(f"start {start.tolist()}, DPO {plain.tolist()}, with likelihood {with_sft.tolist()}")
    assert plain[1] < start[1] and plain[0] < start[0] and plain[2] > start[2]
    assert with_sft[0] > plain[0]


def test_30_conservative_ensembles_do_not_over_optimise_best_of_n():
    """gold N(0,1), 5 members with heavy-tailed errors, N = 2000 answers, 30 seeds: gold at n = 1000, and the fall from the peak."""
    ns = [1, 4, 16, 64, 250, 1000]
    curves: dict[str, list] = {"single": [], "worst": [], "uncertain": []}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        gold = rng.normal(size=2000)
        members = {f"m{i}": (gold + rng.standard_t(2, size=2000)).astype(np.float32) for i in range(5)}
        weights = dict.fromkeys(members, 1.0)
        proxies = {
            "single": members["m0"],
            "worst": worst_case(members, weights),
            "uncertain": uncertainty_weighted(members, weights, lam=0.5),
        }
        for name, proxy in proxies.items():
            curves[name].append([best_of_n(proxy, gold, n) for n in ns])
    means = {name: np.mean(c, axis=0) for name, c in curves.items()}
    print({name: [round(float(v), 2) for v in m] for name, m in means.items()})
    assert means["worst"][-1] > means["single"][-1] + 1 and means["uncertain"][-1] > means["single"][-1] + 1
    assert means["worst"].max() - means["worst"][-1] < 0.1


def test_08_mixing_in_the_worst_head_takes_the_mass_off_the_over_rated_action():
    """5 actions, 5 noisy heads, one over-rates action 5 and claims the least spread: KL-regularised optimum for several weights."""
    true = np.array([0, 0.2, 0.4, 0.6, 0.1])
    rng = np.random.default_rng(0)
    heads = {f"h{i}": (true + rng.normal(0, 0.02, 5)).astype(np.float32) for i in range(5)}
    heads["h4"][4] += 0.8
    spreads = {f"h{i}_std": np.full(5, 0.1 if i == 4 else 0.2, np.float32) for i in range(5)}
    components = heads | spreads
    value = {}
    for w in (1.0, 0.6, 0.4, 0.2):
        r = robust(components, dict.fromkeys(components, 1.0), w=w).astype(float)
        p = np.exp(r / 0.05)
        value[w] = float(p / p.sum() @ true)
    print({w: round(v, 2) for w, v in value.items()})
    assert value[1.0] < 0.15 and value[0.4] > 0.5 and value[0.2] >= value[0.4] - 0.05


def test_07_win_rates_of_a_noisy_scorer_with_ties_are_silent_where_pointwise_advantages_are_not():
    """A hack feature worth +.0005 in the scorer and no true difference: |A| is O(1) point-wise, exactly 0 with ties."""
    rewards = np.array([0.9, 0.9005, 0.9, 0.9005, 0.9, 0.9005, 0.9, 0.9005], np.float32)
    group, ones = np.zeros(8, np.int64), np.ones(8, np.int64)
    tied = win_rate(BatchInputs(rewards, group, ones, ones.astype(bool)), tie_band=0.01).rewards
    as_outcome = lambda r: OutcomeInputs(
        torch.from_numpy(r), torch.from_numpy(group), torch.from_numpy(ones), torch.ones(8, dtype=torch.bool)
    )
    assert grpo(as_outcome(rewards)).abs().max() > 0.5
    assert grpo(as_outcome(tied)).abs().max() == 0
