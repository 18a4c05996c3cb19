"""Loss and gradient of every GRPO-family method against TRL's GRPOTrainer, called as it is on the same log-probs.

TRL's trainer is built around a model; its loss function only asks it for log-probs, so it runs here on a stand-in object.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rayrl.algorithms.credit import OutcomeInputs, grpo
from rayrl.algorithms.kl import penalty
from rayrl.algorithms.losses import LossInputs, cispo, gspo, ppo_clip
from rayrl.algorithms.reductions import denominator, reduce

MAX_TOKENS = 20


@pytest.fixture(scope="module")
def trl_trainer():
    import_utils = pytest.importorskip("trl.import_utils")
    with pytest.MonkeyPatch.context() as patch:
        # Only the loss is wanted; TRL would import vLLM for generation, which takes longer than all tests of this folder.
        patch.setattr(import_utils, "is_vllm_available", lambda *args, **kwargs: False)
        return pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer


def trl_loss(trainer, case, inputs: LossInputs, ref: torch.Tensor, kl_coef: float) -> torch.Tensor:
    name, level, high = case
    entropies = torch.zeros_like(inputs.prox_logprobs)
    gather = lambda x: x
    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (inputs.logprobs, entropies, None),
        accelerator=SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=gather, gather_for_metrics=gather),
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        _metrics={"train": defaultdict(list)},
        loss_type=name,
        importance_sampling_level=level,
        epsilon_low=inputs.clip_low,
        epsilon_high=high,
        beta=kl_coef,
        max_completion_length=MAX_TOKENS,
        current_gradient_accumulation_steps=1,
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
    )
    ids = torch.zeros(inputs.action_mask.shape, dtype=torch.long)
    batch = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": inputs.action_mask.long(),
        "advantages": inputs.advantages[:, 0],
        "old_per_token_logps": inputs.prox_logprobs,
        "ref_per_token_logps": ref,
        "importance_sampling_ratio": inputs.weights,
        "num_items_in_batch": inputs.action_mask.sum(),
    }
    return trainer._compute_loss(stand_in, None, batch)


CASES = {
    "grpo": (("grpo", "token", 0.2), ppo_clip, "sequence_mean", 0.2, 0.2),
    "dr_grpo": (("dr_grpo", "token", 0.2), ppo_clip, "fixed_length", 0.2, 0.2),
    "dapo": (("dapo", "token", 0.28), ppo_clip, "token_mean", 0.2, 0.28),
    "gspo": (("grpo", "sequence", 0.4), gspo, "sequence_mean", 0.3, 0.4),
    "cispo": (("cispo", "token", 5.0), cispo, "token_mean", 1.0, 4.0),
}


@pytest.mark.parametrize("method", CASES)
@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_loss_and_gradient_equal_those_of_trl(method, kl_coef, trl_trainer, random_mask, tensor):
    case, loss, reduction, clip_low, clip_high = CASES[method]
    rng = np.random.default_rng(0)
    for _ in range(40):
        mask = random_mask(rng, 6, 10, allow_empty=False)
        logprobs = -tensor(rng, 6, 10).abs()
        # GSPO goes with sequence-level correction: one weight per row.
        weights = tensor(rng, 6, 10 if loss is not gspo else 1).abs().expand(6, 10)
        inputs = LossInputs(
            logprobs.requires_grad_(),
            logprobs.detach() + tensor(rng, 6, 10, scale=0.5),
            logprobs.detach(),
            tensor(rng, 6, 1).expand(6, 10),
            mask,
            weights,
            clip_low,
            clip_high,
        )
        ref = logprobs.detach() + tensor(rng, 6, 10, scale=0.5)
        token_loss = loss(inputs).token_loss + kl_coef * penalty("k3", inputs.logprobs, ref, mask)
        ours = reduce(reduction, token_loss, mask, MAX_TOKENS).sum / denominator(reduction, mask.sum(-1).numpy(), MAX_TOKENS)
        theirs = trl_loss(trl_trainer, case, inputs, ref, kl_coef)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(*(torch.autograd.grad(x, inputs.logprobs)[0] for x in (ours, theirs)), rtol=1e-10, atol=1e-12)


def test_grpo_advantages_use_the_standard_deviation_of_trl(trl_trainer):
    from trl.trainer.utils import nanstd

    rng = np.random.default_rng(1)
    for _ in range(50):
        rewards = torch.from_numpy(rng.normal(size=(4, 8)))
        rewards[torch.from_numpy(rng.random((4, 8)) < 0.2)] = torch.nan
        flat, group = rewards.flatten().float(), torch.arange(4).repeat_interleave(8)
        ours = grpo(OutcomeInputs(flat, group, torch.full((32,), 3), ~flat.isnan())).view(4, 8)
        theirs = (rewards - rewards.nanmean(1, keepdim=True)) / (nanstd(rewards, dim=1, keepdim=True) + 1e-4)
        torch.testing.assert_close(ours, theirs.nan_to_num(0.0).float(), rtol=1e-4, atol=1e-5)
