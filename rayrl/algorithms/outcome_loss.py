"""Losses on single samples that look at their siblings: ``f(GroupInputs, **knobs) -> GroupLoss``, sums over trajectories.

``same`` bool[B, B] below is True for samples of one prompt; a micro-batch holds all trained samples of its prompts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rayrl.algorithms.group_loss import GroupInputs, GroupLoss, log_gain, means, reference, sums


def kto(inputs: GroupInputs, *, beta: float = 0.1, threshold: float = 0.5, desirable: float = 1.0, undesirable: float = 1.0) -> GroupLoss:
    """``lambda (1 - sigmoid(+-beta (gain - z)))``, + for samples whose reward reaches ``threshold`` (KTO, arXiv 2402.01306 eq. 8).

    ``z``, the KL of the policy from the reference that a sample is compared with, is the mean log-ratio of the sampling policy over
    the prompt's samples, at least 0: known before the forward pass, so that no split of a batch changes it.
    """
    gain, same = log_gain(inputs), _same(inputs).double()
    drawn = sums(inputs.behavior_logprobs - reference(inputs), inputs.action_mask).double()
    z = ((same @ drawn) / same.sum(-1)).clamp(min=0).to(gain.dtype)
    good = inputs.rewards >= threshold
    margin = beta * torch.where(good, gain - z, z - gain)
    loss = torch.where(good, desirable, undesirable).to(gain.dtype) * (1 - margin.sigmoid())
    return GroupLoss(loss.sum(), {"method/classified": (margin.detach() > 0).double().sum(), "method/kl_point": z.double().sum()})


def pacs(
    inputs: GroupInputs, *, beta: float = 1.0, score: str = "log_ratio", centre: str = "leave_one_out", class_weights: bool = True
) -> GroupLoss:
    """``w_i BCE(sigmoid(psi_i), y_i)``: the policy's own centred score is the logit of "this answer is right" (PACS, arXiv 2509.02522).

    ``psi`` is ``beta sum_t log(pi / old)`` (``score`` mean_logprob: ``beta mean_t log pi``) minus the mean of the siblings' (``centre``
    zscore, none). ``w_i = n / (2 n_class)`` where a prompt has both right and wrong answers, else 1. The gradient of a logit is
    ``w (sigmoid(psi) - y)``: an advantage that shrinks as the policy learns to tell right from wrong. A prompt whose answers share
    one label still trains, unlike GRPO; filter zero_variance drops it.
    """
    same, own = _same(inputs), torch.eye(len(inputs.rewards), dtype=torch.bool, device=inputs.rewards.device)
    if score == "log_ratio":
        r = beta * sums(inputs.logprobs - inputs.prox_logprobs, inputs.action_mask)
    else:
        r = beta * means(inputs.logprobs, inputs.action_mask)
    others = (same & ~own).to(r.dtype)
    psi = r
    if centre == "leave_one_out":
        psi = r - (others @ r) / others.sum(-1).clamp(min=1)
    elif centre == "zscore":
        whole = same.to(r.dtype)
        count = whole.sum(-1)
        centred = r - (whole @ r) / count
        psi = centred / ((whole @ centred.square()) / (count - 1).clamp(min=1)).add(1e-6).sqrt()
    labels = inputs.rewards.to(r.dtype)
    alike = same & (labels[:, None] == labels[None, :])
    size, of_class = same.sum(-1).to(r.dtype), alike.sum(-1).to(r.dtype)
    weights = torch.where(of_class < size, size / (2 * of_class), 1.0) if class_weights else torch.ones_like(psi)
    loss = weights * F.binary_cross_entropy_with_logits(psi, labels, reduction="none")
    probability = psi.detach().sigmoid().double()
    metrics = {
        "method/classified": ((probability > 0.5) == (labels > 0.5)).double().sum(),
        "method/brier": (probability - labels).square().sum(),
    }
    return GroupLoss(loss.sum(), metrics)


def _same(inputs: GroupInputs) -> Tensor:
    return inputs.group[:, None] == inputs.group[None, :]
