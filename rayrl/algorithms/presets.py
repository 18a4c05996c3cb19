"""Published algorithms as choices from the tables: what ``algorithm.name`` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayrl.algorithms.entries import Value
from rayrl.algorithms.tables import ADVANTAGES


@dataclass(frozen=True)
class Preset:
    """A published algorithm as a choice from the tables above. ``kl_*`` are the paper's habit, a hint: `algorithm.kl` decides."""

    title: str
    arxiv: str
    advantage: str
    loss: str
    reduction: str
    filter: str = "none"
    clip_low: float = 0.2
    clip_high: float | None = None
    """None is as far up as down."""
    kl_place: str | None = None
    """loss, reward, or None where the paper uses no KL penalty."""
    kl_estimator: str | None = None
    shaping: str = "none"
    steps: str = "none"
    pairs: str | None = None
    """None for losses that train on no pairs."""
    resample: str = "none"
    args: Mapping[str, Value] = field(default_factory=dict)
    """Knobs that the algorithm sets otherwise than their own defaults."""

    @property
    def needs_critic(self) -> bool:
        return ADVANTAGES[self.advantage].values


PRESETS = {
    "grpo": Preset(
        "Group Relative Policy Optimization", "2402.03300", "grpo", "ppo_clip", "sequence_mean", kl_place="loss", kl_estimator="k3"
    ),
    "dr_grpo": Preset("GRPO Done Right", "2503.20783", "dr_grpo", "ppo_clip", "fixed_length"),
    # RLOO sums over the tokens of a trajectory; fixed_length is that sum times a constant.
    "rloo": Preset("REINFORCE Leave-One-Out", "2402.14740", "rloo", "reinforce", "fixed_length", kl_place="reward", kl_estimator="k1"),
    "reinforce_pp": Preset("REINFORCE++", "2501.03262", "reinforce_pp", "ppo_clip", "token_mean", kl_place="reward", kl_estimator="k1"),
    "reinforce_pp_baseline": Preset(
        "REINFORCE++ with group baseline",
        "2501.03262",
        "reinforce_pp_baseline",
        "ppo_clip",
        "token_mean",
        kl_place="loss",
        kl_estimator="k2",
    ),
    "ppo": Preset("Proximal Policy Optimization", "1707.06347", "gae", "ppo_clip", "token_mean", kl_place="reward", kl_estimator="k1"),
    "dapo": Preset("DAPO", "2503.14476", "grpo", "ppo_clip", "token_mean", filter="zero_variance", clip_high=0.28),
    # Section 5.1 of the paper: a mean over tokens moves far less than a token's ratio, so the clip range is a thousand times smaller.
    "gspo": Preset("Group Sequence Policy Optimization", "2507.18071", "grpo", "gspo", "sequence_mean", clip_low=3e-4, clip_high=4e-4),
    # The paper bounds the weight only from above and does not print the bound; weight <= 5 is that of ScaleRL (arXiv 2510.13786).
    "cispo": Preset(
        "Clipped IS-weight Policy Optimization", "2506.13585", "grpo", "cispo", "token_mean", "zero_variance", clip_low=1.0, clip_high=4.0
    ),
    # ---- preferences between the samples of one prompt, made while the policy trains
    "dpo": Preset("Direct Preference Optimization, online", "2305.18290", "none", "dpo", "sequence_mean", pairs="best_worst"),
}
