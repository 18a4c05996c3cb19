"""The second stage of a reward-robust model (BRME, arXiv 2409.15360): heads that say how sure they are, from a first model's scores.

The first model was fitted to comparisons and gives every text one number. Heads on one trunk, which begins as the first model's, are
fitted to these numbers, each to a bootstrap sample of its own: where there was little to learn from they disagree, and say so. Numbers
are standardised before, so that all heads have one scale and no head is the least one for its scale alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from rayrl.config.schema import ModelConfig, RewardModelConfig
from rayrl.reward_models.build import build_fitter
from rayrl.reward_models.calibration import pair_accuracy
from rayrl.reward_models.examples import Label, Pair
from rayrl.reward_models.fitter import Fitter
from rayrl.types import FloatArray


def second_stage(first: Fitter, settings: RewardModelConfig, model: ModelConfig, *, seed: int) -> Fitter:
    """A fitter of ``settings.heads`` gaussian heads, its examples the texts of ``first``'s pairs with the scores that ``first`` gives
    them; not fitted yet. A text is held out where its first pair was."""
    pairs = [e for e in first.examples if isinstance(e, Pair)]
    group = {text: e.group or str(e.key) for e in reversed(pairs) for text in (e.first, e.second)}
    texts = list(group)
    scores = first.score(texts).value
    fitted = np.array([not first.examples.holds_out(group[text]) for text in texts])
    mean, std = float(scores[fitted].mean()), max(float(scores[fitted].std()), 1e-6)
    second = build_fitter(replace(settings, objective="gaussian", capacity=len(texts)), model, seed=seed)
    _take_trunk(second.network, first.network)
    second.examples.add(Label(t, (float(s) - mean) / std, group=group[t]) for t, s in zip(texts, scores, strict=True))
    return second


def quality(fitter: Fitter, pairs: Sequence[Pair], w: float = 0.6) -> dict[str, float]:
    """How often heads order ``pairs`` rightly: their mean, the surest one of each text, the least one, and ``w`` of the surest with the
    rest of the least, as `ensembles.robust` mixes them. Beside it the mean deviation that heads state, and their mean spread."""
    texts = [text for e in pairs for text in (e.first, e.second)]
    heads, deviations = fitter.heads(texts), fitter.deviations(texts)
    surest = heads[np.arange(len(texts)), deviations.argmin(1)]
    views: dict[str, FloatArray] = {"mean": heads.mean(1), "surest": surest, "least": heads.min(1)}
    views["robust"] = w * views["surest"] + (1 - w) * views["least"]
    preference = np.array([e.preference for e in pairs])
    right = {f"accuracy_{name}": pair_accuracy((v[::2] - v[1::2]).astype(np.float64), preference) for name, v in views.items()}
    return right | {"deviation": float(deviations.mean()), "spread": float(heads.std(1).mean())}


def _take_trunk(network: torch.nn.Module, other: torch.nn.Module) -> None:
    """Copies what both have in the same shape: all but the head."""
    own, theirs = network.state_dict(), other.state_dict()
    network.load_state_dict(own | {name: t for name, t in theirs.items() if name in own and own[name].shape == t.shape})
