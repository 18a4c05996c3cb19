"""Preference losses on pairs of samples of one prompt. Each is ``f(GroupInputs, **knobs) -> GroupLoss``, see group_loss.py.

Notation: ``gain = log pi - log ref`` of a sample, ``w`` and ``l`` the preferred and the other one, ``gap = gain_w - gain_l``. Log-probs
are sums over action tokens unless a loss says otherwise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rayrl.algorithms.group_loss import (
    PAIR_METRICS,
    GroupInputs,
    GroupLoss,
    difference,
    log_gain,
    means,
    pair_loss,
    pair_metrics,
    reference,
    sums,
)
from rayrl.algorithms.ratios import k3, log_ratio


def dpo(inputs: GroupInputs, *, beta: float = 0.1) -> GroupLoss:
    """``-log sigmoid(beta gap)`` (DPO, arXiv 2305.18290 eq. 7); at the reference the loss is log 2.

    On pairs of fresh samples this is online DPO (arXiv 2402.04792). DDRO (arXiv 2504.05181) is this loss with beta 0.4 on pairs of a
    relevant and an irrelevant answer.
    """
    gain = log_gain(inputs)
    return pair_loss(inputs, lambda z: F.softplus(-z), beta * difference(inputs, gain), gain)


def ipo(inputs: GroupInputs, *, tau: float = 0.1) -> GroupLoss:
    """``(gap - 1 / (2 tau))^2`` (IPO, arXiv 2310.12036 eq. 17): a finite target, so that a sure preference does not push for ever."""
    gain = log_gain(inputs)
    return pair_loss(inputs, lambda gap: (gap - 1 / (2 * tau)).square(), difference(inputs, gain), gain)


def simpo(inputs: GroupInputs, *, beta: float = 2.0, gamma: float = 1.0) -> GroupLoss:
    """``-log sigmoid(beta (mean log pi(w) - mean log pi(l)) - gamma)`` (SimPO, arXiv 2405.14734 eq. 6): no reference."""
    logprobs = means(inputs.logprobs, inputs.action_mask)
    return pair_loss(inputs, lambda z: F.softplus(gamma - z), beta * difference(inputs, logprobs), logprobs)


def orpo(inputs: GroupInputs, *, lam: float = 0.1) -> GroupLoss:
    """``-mean log pi(w) - lam log sigmoid(log odds(w) - log odds(l))``, odds of the mean token probability (ORPO, arXiv 2403.07691).

    No reference: the likelihood of the preferred sample keeps the policy in place.
    """
    logprobs = means(inputs.logprobs, inputs.action_mask)
    bounded = logprobs.clamp(max=-1e-6)  # a probability of 1 has infinite odds
    odds = bounded - torch.log(-torch.expm1(bounded))
    margin = difference(inputs, odds)
    return GroupLoss((inputs.weight * (lam * F.softplus(-margin) - logprobs[inputs.chosen])).sum(), pair_metrics(inputs, margin, logprobs))


def flex_dpo(
    inputs: GroupInputs, *, beta_chosen: float = 0.1, beta_rejected: float = 0.08, sft: float = 0.0, per_token: bool = True
) -> GroupLoss:
    """``softplus(-(b+ gain_w - b- gain_l)) - sft log pi(w) / n`` (Flex-DPO, arXiv 2406.07327); b+ = b-, sft = 0 is DPO.

    Against the three defects of DPO that the paper describes: the rejected answer crashes, then the chosen one falls too, then
    probability leaks to neither. A smaller b- slows the first, the likelihood term (n: tokens of the chosen one with ``per_token``,
    else 1) stops the second; ``pairs/chosen`` and ``pairs/rejected`` show both.
    """
    gain, chosen = log_gain(inputs), inputs.chosen
    margin = beta_chosen * gain[chosen] - beta_rejected * gain[inputs.rejected]
    likelihood = (means if per_token else sums)(inputs.logprobs, inputs.action_mask)[chosen]
    return GroupLoss((inputs.weight * (F.softplus(-margin) - sft * likelihood)).sum(), pair_metrics(inputs, margin, gain))


def mnpo(
    inputs: GroupInputs,
    *,
    ratio: float = 0.33,
    others: float = 0.0,
    eta: float = 0.0075,
    opponents: float = 1.0,
    distance: str = "squared",
    beta: float = 0.1,
    per_token: bool = True,
) -> GroupLoss:
    """``D[(log pi(w) - log pi(l)) - opponents (ratio ref + (1 - ratio) history)(w - l)]`` (MNPO, arXiv 2509.23102 eq. 17-18).

    ``history = others external + (1 - others) previous``. The opponents are the frozen reference, the policy that sampled the pair
    (time-dependent: it moves with the run), and the weighted mean of the policies that the run was given (external: earlier
    checkpoints, policies of other rewards). Raises `ValueError` for ``others`` above 0 without any.
    ``distance`` squared: ``(h - 1 / (2 eta))^2``; logistic: ``-log sigmoid(beta h)``, the backward distance with an infinite target.
    Limits: ratio 1 squared is IPO with tau = eta, ratio 1 logistic is DPO, ratio 0 logistic is DNO/SPIN, opponents 0 has the shape
    of SimPO. ``per_token`` averages log-probs over tokens as the released code does (the paper's tables of limits use sums).
    """
    of = means if per_token else sums
    now = of(inputs.logprobs, inputs.action_mask)
    ref = now.detach() if inputs.reference_logprobs is None else of(inputs.reference_logprobs, inputs.action_mask)
    history = of(inputs.behavior_logprobs, inputs.action_mask)
    if others > 0:
        if inputs.opponent_logprobs is None:
            raise ValueError("mnpo with others above 0 needs the log-probs of opponents (reference.opponents)")
        history = others * of(inputs.opponent_logprobs, inputs.action_mask) + (1 - others) * history
    mixture = ratio * ref + (1 - ratio) * history
    gap = difference(inputs, now - opponents * mixture)
    f = (lambda h: (h - 1 / (2 * eta)).square()) if distance == "squared" else (lambda h: F.softplus(-beta * h))
    return pair_loss(inputs, f, gap, now - ref)


def irepo(inputs: GroupInputs, *, beta: float = 0.1, eps: float = 1e-3, anchor: str = "previous", per_token: bool = False) -> GroupLoss:
    """``(beta gap - logit(p))^2`` with ``p`` the panel's probability that w is better (iREPO, arXiv 2405.15230).

    The anchor of the gap is the previous policy (the one that sampled) or the fixed reference; p is clipped to [eps, 1 - eps]. A
    constant p is IPO with another target; the optimum of each round tilts the anchor by ``exp(r / beta)``. Published without code:
    anchor and normalisation are knobs because the text leaves them open.
    """
    gain = log_gain(inputs, anchor, means if per_token else sums)
    target = torch.logit(inputs.target.clamp(eps, 1 - eps))
    return pair_loss(inputs, lambda margin: (margin - target).square(), beta * difference(inputs, gain), gain)


def prdp(inputs: GroupInputs, *, beta: float = 0.5, eps: float = 0.1) -> GroupLoss:
    """``max(l, l_clipped)``, ``l = (gap - (R_w - R_l) / beta)^2`` (PRDP, arXiv 2402.08714 eq. 9-21, in its form for text: sums).

    In ``l_clipped`` every token's log-ratio to the reference stays within ``eps`` of what it was at the start of the step. At the
    optimum of KL-regularised reward maximisation the residual is 0: no baseline, no normalisation, only R / beta counts.
    """
    tokens = log_gain(inputs, of=lambda x, mask: torch.where(mask, x, 0))
    before = torch.where(inputs.action_mask, inputs.prox_logprobs - reference(inputs), 0)
    target = inputs.target / beta
    gap, clipped = (difference(inputs, x.sum(-1)) for x in (tokens, tokens.clamp(before - eps, before + eps)))
    plain, bounded = (gap - target).square(), (clipped - target).square()
    loss = torch.where(plain >= bounded, plain, bounded)  # at a tie the gradient is the unclipped one
    return GroupLoss((inputs.weight * loss).sum(), pair_metrics(inputs, gap, tokens.sum(-1)))


def ranking_hinge(inputs: GroupInputs, *, beta: float = 0.1, margin: float = 0.5) -> GroupLoss:
    """``max(margin - beta gap, 0)``: demonstrations above the policy's own samples (Diffusion-DRO, arXiv 2510.18353 eq. 15, for text).

    A pair that is apart by the margin has no gradient at all. Text form is an adaptation: -mse there is a log-likelihood here.
    """
    gain = log_gain(inputs)
    return pair_loss(inputs, lambda z: (margin - z).clamp(min=0), beta * difference(inputs, gain), gain)


def upo(inputs: GroupInputs, *, beta: float = 0.1, nll: float = 0.0, norm: str = "length", anchor: str = "previous") -> GroupLoss:
    """``-(1 - a) log sigmoid(beta gap) - a log sigmoid(-beta gap) - nll log pi(w) / norm`` (UPO, arXiv 2409.11212 eq. 12).

    ``a`` is the smoothing of each pair that the builder `pairs.upo` made of its uncertainty. Two printed formulas cannot be meant
    and are not followed: the likelihood term is a penalty here (the print adds log pi), and a = 1/(P + 1) trains towards the
    reversed preference (see the builder). ``norm``: length, reward (its magnitude, at least 1e-6) or none.
    """
    gain, chosen = log_gain(inputs, anchor), inputs.chosen
    margin, a = beta * difference(inputs, gain), inputs.target
    likelihood = sums(inputs.logprobs, inputs.action_mask)[chosen]
    scale = torch.ones_like(likelihood)
    if norm == "length":
        scale = inputs.action_mask.sum(-1)[chosen].to(likelihood.dtype)
    elif norm == "reward":
        scale = inputs.rewards[chosen].abs().clamp(min=1e-6).to(likelihood.dtype)
    loss = (1 - a) * F.softplus(-margin) + a * F.softplus(margin) - nll * likelihood / scale
    return GroupLoss((inputs.weight * loss).sum(), pair_metrics(inputs, margin, gain))


def trpa(inputs: GroupInputs, *, beta: float = 0.1, anisotropy: float = 2.5, top: float = 1.0, kl_coef: float = 1e-3) -> GroupLoss:
    """``-log sigmoid(c beta (rho_w - rho_l))`` over all pairs of levels, ``rho`` the mean log-ratio per token (TRPA, arXiv 2504.04524).

    Rewards are levels: only their order counts, and whether they reach ``top`` (fully right), for which ``c`` is ``anisotropy``. A
    whole update without a pair has ``-log sigmoid(+-rho_i)`` per sample instead: all right is raised, all wrong is lowered. The trust
    region is ``kl_coef`` times the k3 estimate of the KL from the policy at the start of the step, per token, at most 10.
    """
    rho, best = log_gain(inputs, of=means), inputs.rewards >= top
    old = log_ratio(inputs.prox_logprobs, inputs.logprobs, inputs.action_mask)
    trust = kl_coef * k3(old).clamp(max=10)
    if inputs.no_pairs:
        signed = torch.where(best, rho, -rho)
        shown = dict.fromkeys(PAIR_METRICS, rho.new_zeros((), dtype=torch.float64))
        return GroupLoss(F.softplus(-signed).sum(), shown, trust)
    margin = torch.where(best[inputs.chosen], anisotropy, 1.0).to(rho.dtype) * beta * difference(inputs, rho)
    return GroupLoss((inputs.weight * F.softplus(-margin)).sum(), pair_metrics(inputs, margin, rho), trust)


def mass_elsewhere(chosen: Tensor, rejected: Tensor) -> Tensor:
    """``1 - pi(w) - pi(l)``: probability that left both answers, the third D of arXiv 2406.07327; for answers short enough to have any.

    ``chosen``, ``rejected``: log-probs of whole answers.
    """
    return 1 - chosen.exp() - rejected.exp()
