"""Policy losses: limits, closed forms and gradients. The comparison with TRL is in test_losses_against_trl.py."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rayrl.algorithms.losses import LossInputs, cispo, gspo, ppo_clip, reinforce
from rayrl.algorithms.reductions import reduce

LOSSES = [ppo_clip, gspo, cispo, reinforce]


@pytest.fixture
def random_inputs(random_mask, tensor):
    def make(rng: np.random.Generator, rows: int = 4, width: int = 8, *, drift: float = 0.3) -> LossInputs:
        logprobs = -tensor(rng, rows, width).abs()
        return LossInputs(
            logprobs=logprobs.requires_grad_(),
            prox_logprobs=logprobs.detach() + tensor(rng, rows, width, scale=drift),
            behavior_logprobs=logprobs.detach() + tensor(rng, rows, width, scale=drift),
            advantages=tensor(rng, rows, 1).expand(rows, width),
            action_mask=random_mask(rng, rows, width),
            weights=tensor(rng, rows, width).abs(),
            clip_low=0.2,
            clip_high=0.28,
        )

    return make


def gradient(loss, inputs: LossInputs) -> torch.Tensor:
    return torch.autograd.grad(loss(inputs).token_loss.sum(), inputs.logprobs)[0]


def scalar_loss(name: str, logp: float, old: float, advantage: float, weight: float, sequence_log_ratio: float) -> tuple[float, float]:
    """One token, no tensors: ``(loss, d loss / d logp)`` with the clip range 0.2, 0.28."""
    ratio = math.exp(sequence_log_ratio if name == "gspo" else logp - old)
    clipped = min(max(ratio, 0.8), 1.28)
    if name == "reinforce":
        return -weight * advantage * logp, -weight * advantage
    if name == "cispo":
        return -weight * clipped * advantage * logp, -weight * clipped * advantage
    free, bound = ratio * advantage, clipped * advantage
    return -weight * min(free, bound), -weight * free if free <= bound else 0.0


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_equal_scalar_formulas(loss, random_inputs):
    rng = np.random.default_rng(0)
    for _ in range(60):
        inputs = random_inputs(rng)
        got, grad = loss(inputs).token_loss.detach(), gradient(loss, inputs)
        for b in range(4):
            at = np.flatnonzero(inputs.action_mask[b])
            sequence = float((inputs.logprobs.detach() - inputs.prox_logprobs)[b, at].mean()) if len(at) else 0.0
            for t in range(8):
                expected = (0.0, 0.0)
                if t in at:
                    token = (float(x[b, t]) for x in (inputs.logprobs.detach(), inputs.prox_logprobs, inputs.advantages, inputs.weights))
                    expected = scalar_loss(loss.__name__, *token, sequence)
                assert (got[b, t].item(), grad[b, t].item()) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", [ppo_clip, cispo, gspo])
def test_on_the_first_update_every_loss_has_the_gradient_of_reinforce(loss, random_inputs):
    rng = np.random.default_rng(1)
    for _ in range(50):
        inputs = random_inputs(rng)
        inputs = replace(inputs, prox_logprobs=inputs.logprobs.detach())
        torch.testing.assert_close(gradient(loss, inputs), gradient(reinforce, inputs))


def test_gspo_of_one_token_sequences_is_ppo(random_inputs):
    rng = np.random.default_rng(2)
    for _ in range(100):
        inputs = random_inputs(rng, width=1)
        torch.testing.assert_close(gspo(inputs).token_loss, ppo_clip(inputs).token_loss)
        torch.testing.assert_close(gradient(gspo, inputs), gradient(ppo_clip, inputs))


def test_gspo_with_sequence_mean_has_the_gradient_of_the_sequence_form(random_inputs):
    """``(1/N) sum_i min(s_i A_i, clip(s_i) A_i)`` differentiated through ``s_i`` (eq. 5), without the stop-gradient trick."""
    rng = np.random.default_rng(3)
    for _ in range(100):
        inputs = replace(random_inputs(rng, drift=1.0), weights=torch.ones(4, 8, dtype=torch.float64))
        mask = inputs.action_mask
        token_form = reduce("sequence_mean", gspo(inputs).token_loss, mask, 8).sum
        lengths = mask.sum(-1)
        mean_log_ratio = torch.where(mask, inputs.logprobs - inputs.prox_logprobs, 0).sum(-1) / lengths.clamp(min=1)
        s, advantage = mean_log_ratio.exp(), inputs.advantages[:, 0]
        sequence_form = -torch.where(lengths > 0, torch.min(s * advantage, s.clamp(0.8, 1.28) * advantage), 0).sum()
        torch.testing.assert_close(token_form, sequence_form)
        torch.testing.assert_close(*(torch.autograd.grad(x, inputs.logprobs)[0] for x in (token_form, sequence_form)))


def test_clipping_stops_exactly_the_gradients_that_lead_further_away():
    ratios = torch.tensor([[0.5, 0.5, 1.0, 1.0, 2.0, 2.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    logprobs = ratios.log().requires_grad_()
    ones = torch.ones_like(ratios)
    inputs = LossInputs(logprobs, torch.zeros_like(ratios), torch.zeros_like(ratios), advantages, ones.bool(), ones, 0.2, 0.2)
    assert gradient(ppo_clip, inputs).ne(0).tolist() == [[True, False, True, True, False, True]]
    metrics = ppo_clip(inputs).metrics
    assert (metrics["policy/clip_low"], metrics["policy/clip_high"]) == (1, 1)
    assert gradient(cispo, inputs).ne(0).all()


def test_cispo_without_a_lower_bound_keeps_small_ratios():
    logprobs = torch.tensor([[math.log(0.01)]], dtype=torch.float64, requires_grad=True)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    grad = gradient(cispo, LossInputs(logprobs, zero, zero, one, one.bool(), one, clip_low=1.0, clip_high=4.0))
    assert grad.item() == pytest.approx(-0.01)


@pytest.mark.parametrize("loss", [ppo_clip, reinforce])
def test_finite_differences_confirm_autograd(loss, random_inputs):
    """The other two stop gradients on purpose: see the scalar formulas and the sequence form."""
    inputs = random_inputs(np.random.default_rng(4), drift=0.05)
    torch.autograd.gradcheck(lambda x: loss(replace(inputs, logprobs=x)).token_loss, (inputs.logprobs,))


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_outside_the_mask_is_read(loss, random_inputs):
    rng = np.random.default_rng(5)
    for _ in range(30):
        inputs = random_inputs(rng)
        mask = inputs.action_mask
        names = ("logprobs", "prox_logprobs", "behavior_logprobs", "advantages", "weights")
        poison = {name: torch.where(mask, getattr(inputs, name).detach(), torch.nan) for name in names}
        poison["logprobs"].requires_grad_()
        poisoned = replace(inputs, **poison)
        expected, got = loss(inputs), loss(poisoned)
        torch.testing.assert_close(got.token_loss, expected.token_loss)
        torch.testing.assert_close(gradient(loss, poisoned), gradient(loss, inputs))
        torch.testing.assert_close(got.metrics, expected.metrics)
        assert got.token_loss[~mask].eq(0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_absurd_ratios_stay_finite(loss):
    logprobs = torch.tensor([[-1e4, 0.0, -1e30]], requires_grad=True)
    prox = torch.tensor([[0.0, -1e4, 0.0]])
    inputs = LossInputs(logprobs, prox, prox, torch.tensor([[1.0, -1.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 3))
    assert loss(inputs).token_loss.isfinite().all() and gradient(loss, inputs).isfinite().all()
    assert all(value.isfinite() for value in loss(inputs).metrics.values())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (2, 4)])
def test_an_empty_micro_batch_gives_zero_with_a_gradient(loss, shape):
    logprobs = torch.zeros(shape, requires_grad=True)
    zeros = torch.zeros(shape)
    out = loss(LossInputs(logprobs, zeros, zeros, zeros, zeros.bool(), zeros))
    total = out.token_loss.sum()
    total.backward()
    assert total == 0 and logprobs.grad.eq(0).all()
    assert all(value == 0 for value in out.metrics.values())


def test_kl_metrics_are_means_of_the_k3_estimate_and_ratio_its_mean(random_inputs):
    inputs = random_inputs(np.random.default_rng(6))
    x = (inputs.logprobs.detach() - inputs.behavior_logprobs)[inputs.action_mask]
    rho = (inputs.logprobs.detach() - inputs.prox_logprobs)[inputs.action_mask].exp()
    for loss in LOSSES:
        metrics = loss(inputs).metrics
        torch.testing.assert_close(metrics["policy/kl_behavior"], (x.exp() - 1 - x).sum())
        torch.testing.assert_close(metrics["policy/kl_old"], (rho - 1 - rho.log()).sum())
        if loss is not gspo:
            torch.testing.assert_close(metrics["policy/ratio"], rho.sum())
            torch.testing.assert_close(metrics["policy/ratio_max"], rho.max())


def test_a_dual_clip_bounds_bad_answers_alone_and_ends_their_gradient(random_inputs):
    for seed in range(50):
        inputs = random_inputs(np.random.default_rng(seed), drift=1.5)
        plain, dual = ppo_clip(inputs).token_loss, ppo_clip(inputs, dual_clip=3.0).token_loss
        signal = torch.where(inputs.action_mask, inputs.weights * inputs.advantages, 0)
        ratio = torch.where(inputs.action_mask, inputs.logprobs - inputs.prox_logprobs, 0).exp()
        bounded = (signal < 0) & (ratio > 3)
        torch.testing.assert_close(dual, torch.where(bounded, -3.0 * signal, plain))
        slope = gradient(lambda x: ppo_clip(x, dual_clip=3.0), inputs)
        torch.testing.assert_close(slope, torch.where(bounded, 0, gradient(ppo_clip, inputs)))
        assert torch.equal(ppo_clip(inputs, dual_clip=0.0).token_loss, plain)
