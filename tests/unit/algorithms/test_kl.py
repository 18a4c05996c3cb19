"""KL estimators against exact sums over a small vocabulary, in value and in gradient; entropy against torch.distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayrl.algorithms.kl import entropy, estimate, penalty
from rayrl.errors import ConfigError

ESTIMATORS = ["k1", "k2", "k3"]
VOCABULARY = 6


@pytest.fixture
def policies(tensor):
    """Logits of a policy (with gradient) and log-probs of a reference, over a vocabulary that can be enumerated."""

    def make(seed: int, scale: float = 1.0):
        rng = np.random.default_rng(seed)
        logits = tensor(rng, VOCABULARY).requires_grad_()
        return logits, (logits.detach() + tensor(rng, VOCABULARY, scale=scale)).log_softmax(-1)

    return make


def on_policy_expectation(estimator, logits, ref):
    """``sum_a sg[pi(a)] * term(a)``: the expected loss, and by autograd its expected gradient, over sampled tokens."""
    logprobs = logits.log_softmax(-1)
    terms = penalty(estimator, logprobs[None], ref[None], torch.ones(1, VOCABULARY, dtype=torch.bool))[0]
    return (logprobs.detach().exp() * terms).sum()


def kl(p_logprobs, q_logprobs):
    return (p_logprobs.exp() * (p_logprobs - q_logprobs)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased_estimates_of_the_kl(estimator, policies):
    for seed in range(50):
        logits, ref = policies(seed)
        torch.testing.assert_close(on_policy_expectation(estimator, logits, ref), kl(logits.log_softmax(-1), ref))


def test_k2_approaches_the_kl_for_close_policies(policies):
    for seed in range(50):
        logits, ref = policies(seed, scale=1e-3)
        exact = kl(logits.log_softmax(-1), ref).item()
        assert on_policy_expectation("k2", logits, ref).item() == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("estimator", ["k1", "k2"])
def test_the_penalty_of_k1_and_k2_has_the_gradient_of_the_kl(estimator, policies):
    for seed in range(50):
        logits, ref = policies(seed)
        got = torch.autograd.grad(on_policy_expectation(estimator, logits, ref), logits)[0]
        torch.testing.assert_close(got, torch.autograd.grad(kl(logits.log_softmax(-1), ref), logits)[0])


def test_the_penalty_of_k3_has_the_gradient_of_the_opposite_kl(policies):
    for seed in range(50):
        logits, ref = policies(seed)
        got = torch.autograd.grad(on_policy_expectation("k3", logits, ref), logits)[0]
        torch.testing.assert_close(got, torch.autograd.grad(kl(ref, logits.log_softmax(-1)), logits)[0])


def test_gradients_of_k2_and_k3_agree_to_first_order(policies):
    logits, ref = policies(0, scale=1e-4)
    k2, k3 = (torch.autograd.grad(on_policy_expectation(name, logits, ref), logits)[0] for name in ("k2", "k3"))
    torch.testing.assert_close(k3, k2, rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimates_are_zero_at_the_reference_masked_and_without_gradient(estimator, random_mask, tensor):
    rng = np.random.default_rng(0)
    mask, logprobs = random_mask(rng, 4, 6), tensor(rng, 4, 6).requires_grad_()
    assert estimate(estimator, logprobs, logprobs.detach(), mask).eq(0).all()
    ref = torch.where(mask, tensor(rng, 4, 6), torch.nan)
    value = estimate(estimator, logprobs, ref, mask)
    assert not value.requires_grad and value[~mask].eq(0).all() and value.isfinite().all()
    loss = penalty(estimator, logprobs, ref, mask)
    torch.testing.assert_close(loss.detach(), value)
    assert torch.autograd.grad(loss.sum(), logprobs)[0].isfinite().all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_absurd_distances_stay_finite(estimator):
    logprobs = torch.tensor([[0.0, -1e30, -200.0]], requires_grad=True)
    loss = penalty(estimator, logprobs, torch.tensor([[-1e30, 0.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool))
    assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), logprobs)[0].isfinite().all()


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ConfigError, match="k4"):
        estimate("k4", torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 5, 7), (0, 7), (2, 0, 7)])
@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_entropy_equals_torch_distributions_in_any_chunking(shape, chunk, tensor):
    logits = tensor(np.random.default_rng(1), *shape, scale=3.0)
    got = entropy(logits, chunk)
    expected = torch.distributions.Categorical(logits=logits).entropy() if logits.numel() else torch.zeros(shape[:-1])
    torch.testing.assert_close(got, expected.to(got.dtype))


def test_entropy_has_the_right_gradient_and_handles_forbidden_tokens(tensor):
    logits = tensor(np.random.default_rng(2), 3, 5).requires_grad_()
    torch.autograd.gradcheck(lambda x: entropy(x, chunk=2), (logits,))
    forbidden = torch.cat([logits.detach(), torch.full((3, 2), -torch.inf, dtype=torch.float64)], -1).requires_grad_()
    torch.testing.assert_close(entropy(forbidden), entropy(logits))
    assert torch.autograd.grad(entropy(forbidden).sum(), forbidden)[0].isfinite().all()


def test_entropy_of_bfloat16_logits_is_computed_in_float32():
    logits = torch.zeros(2, 1000, dtype=torch.bfloat16)
    got = entropy(logits)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.full((2,), 1000.0).log())
