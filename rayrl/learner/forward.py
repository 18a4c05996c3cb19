"""From sequences to the log-probs of the tokens that the policy chose.

Only positions that predict an action token go through the output head. Sequences run either as rows padded on the right,
or packed into one row. Neither needs an attention mask: causal attention never looks right, where the padding is.
Legend: ``B`` rows, ``T`` width, ``A`` action tokens of the micro-batch in row order, ``H`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rayrl.data import packing

LOGITS_PER_CHUNK = 1 << 25
"""Most logits that exist at once (128 MiB in float32); more are computed in chunks and again in the backward pass."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """One micro-batch as tensors."""

    input_ids: torch.Tensor
    """int64[B, T]; packed: [1, sum of lengths]."""
    position_ids: torch.Tensor | None
    """int64[1, T] when packed, restarting at 0 in every segment; None counts up from 0."""
    segments: list[int] | None
    """Lengths of the packed sequences; None when padded."""
    index: torch.Tensor
    """int64[A]: flat positions in B*T whose output predicts an action token."""
    targets: torch.Tensor
    """int64[A]: the action tokens themselves."""

    @property
    def processed_tokens(self) -> int:
        return self.input_ids.numel()

    def model_kwargs(self) -> dict[str, Any]:
        """What a Hugging Face backbone is called with."""
        kwargs: dict[str, Any] = {"input_ids": self.input_ids, "use_cache": False}
        if self.segments is not None:
            kwargs |= {"position_ids": self.position_ids, "segments": self.segments}
        return kwargs


def build_inputs(
    token_ids: Sequence[np.ndarray], action_masks: Sequence[np.ndarray], *, packed: bool, device: torch.device, pad_id: int = 0
) -> Inputs:
    """Tensors of the given sequences (int32[T] each, bool[T] each).

    No sequences give a dummy of two tokens and no actions: a rank without work still takes part in every collective call.
    Raises `ValueError` for a sequence whose first token is an action, because nothing precedes it that could predict it.
    """
    if any(mask[0] for mask in action_masks):
        raise ValueError("the first token of a sequence cannot be an action: it has no prefix; prompts need at least one token")
    if not token_ids:
        token_ids, action_masks = [np.full(2, pad_id, np.int32)], [np.zeros(2, np.bool_)]
    lengths = [len(ids) for ids in token_ids]
    actions = [np.flatnonzero(mask) for mask in action_masks]
    targets = np.concatenate([ids[a] for ids, a in zip(token_ids, actions, strict=True)])
    if packed:
        ids = np.concatenate(token_ids)[None, :]
        starts = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
        positions = torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])[None, :]).to(device)
    else:
        ids = np.full((len(lengths), max(lengths)), pad_id, np.int64)
        for row, sequence in enumerate(token_ids):
            ids[row, : len(sequence)] = sequence
        starts, positions = np.arange(len(lengths)) * ids.shape[1], None
    index = np.concatenate([start + a - 1 for start, a in zip(starts, actions, strict=True)])
    return Inputs(
        input_ids=torch.from_numpy(ids.astype(np.int64)).to(device),
        position_ids=positions,
        segments=lengths if packed else None,
        index=torch.from_numpy(index.astype(np.int64)).to(device),
        targets=torch.from_numpy(targets.astype(np.int64)).to(device),
    )


def launch_tokens(net: nn.Module, device: torch.device) -> int:
    """`packing.launch_tokens` of a network on ``device``; sharded parameters (ZeRO-3) count whole, so that all ranks agree."""
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in net.parameters())
    layers = getattr(getattr(getattr(net, "model", None), "config", None), "num_hidden_layers", 1)
    return packing.launch_tokens(device.type, layers, parameters)


class PolicyNet(nn.Module):
    """A causal language model that answers with log-probs instead of logits."""

    def __init__(self, model: Any, *, temperature: float = 1.0, entropy_grad: bool = False) -> None:
        """``temperature`` is the sampling temperature (0, greedy, counts as 1); ``entropy_grad`` lets gradients through the entropy."""
        super().__init__()
        self.model = model
        self.temperature = temperature or 1.0
        self.entropy_grad = entropy_grad
        self._softcap = getattr(model.config, "final_logit_softcapping", None)
        self._logit_scale = getattr(model.config, "logit_scale", None) or 1.0 / (getattr(model.config, "logits_scaling", None) or 1.0)

    def forward(self, inputs: Inputs, temperature: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """``(log-probs float32[A], entropies float32[A])`` of softmax(logits / temperature); None is that of the constructor."""
        hidden = self.model.get_decoder()(**inputs.model_kwargs()).last_hidden_state
        selected = hidden.flatten(0, 1).index_select(0, inputs.index)
        score = partial(self._score, temperature=temperature or self.temperature)
        rows = max(1, LOGITS_PER_CHUNK // self.model.config.vocab_size)
        if len(selected) <= rows:
            return score(selected, inputs.targets)
        parts = [
            checkpoint(score, h, t, use_reentrant=False) for h, t in zip(selected.split(rows), inputs.targets.split(rows), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _score(self, hidden_AH: torch.Tensor, targets_A: torch.Tensor, *, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model.get_output_embeddings()(hidden_AH).float() * self._logit_scale
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        logits = logits / temperature
        normaliser = logits.logsumexp(-1)
        logprobs = logits.gather(-1, targets_A[:, None]).squeeze(-1) - normaliser
        with torch.set_grad_enabled(self.entropy_grad and torch.is_grad_enabled()):
            entropies = normaliser - (logits * (logits - normaliser[:, None]).exp()).sum(-1)
        return logprobs, entropies
