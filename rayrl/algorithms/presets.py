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


_DUAL = {"dual_clip": 10.0}
"""As Mirage-or-Method's kit has it (arXiv 2508.21188)."""

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
    # ---- credit: which part of the rewards' distribution teaches, and what steps are paid
    "nsr": Preset(
        "Negative-sample reinforcement", "2506.01347", "nsr", "ppo_clip", "token_mean", "zero_variance", clip_high=0.28, args=_DUAL
    ),
    "psr": Preset(
        "Positive-sample reinforcement", "2506.01347", "psr", "ppo_clip", "token_mean", "zero_variance", clip_high=0.28, args=_DUAL
    ),
    "riskpo": Preset("RiskPO", "2510.00911", "riskpo", "gspo", "sequence_mean", clip_low=3e-4, clip_high=4e-4),
    "pure": Preset("PURE: min-form credit", "2504.15275", "pure_rloo", "ppo_clip", "token_mean", steps="min_form"),
    "clip_delta": Preset("Clip and Delta", "2410.15115", "reinforce_pp", "ppo_clip", "token_mean", steps="clip_delta", args={"coef": 0.02}),
    # ---- several rewards
    "gdpo": Preset("GDPO: per-component normalisation", "2601.05242", "gdpo", "ppo_clip", "sequence_mean"),
    "pama": Preset("Pareto multi-objective alignment", "2508.07768", "pama", "ppo_clip", "token_mean"),
    # ---- preferences between the samples of one prompt, made while the policy trains
    "dpo": Preset("Direct Preference Optimization, online", "2305.18290", "none", "dpo", "token_mean", pairs="best_worst"),
    "ipo": Preset("Identity Preference Optimization, online", "2310.12036", "none", "ipo", "token_mean", pairs="best_worst"),
    "simpo": Preset("Simple Preference Optimization, online", "2405.14734", "none", "simpo", "token_mean", pairs="best_worst"),
    "orpo": Preset("Odds-Ratio Preference Optimization, online", "2403.07691", "none", "orpo", "token_mean", pairs="best_worst"),
    "kto": Preset("Kahneman-Tversky Optimization, online", "2402.01306", "none", "kto", "token_mean"),
    "flex_dpo": Preset("Flex-DPO", "2406.07327", "none", "flex_dpo", "token_mean", pairs="best_worst"),
    "ddro": Preset("DDRO", "2504.05181", "none", "dpo", "token_mean", pairs="verified", args={"beta": 0.4}),
    "mnpo": Preset("Multiplayer Nash Preference Optimization", "2509.23102", "none", "mnpo", "token_mean", pairs="best_worst"),
    "irepo": Preset("iREPO", "2405.15230", "none", "irepo", "token_mean", pairs="zermelo_best_worst"),
    "prdp": Preset(
        "Proximal Reward Difference Prediction", "2402.08714", "none", "prdp", "token_mean", pairs="all_pairs", args={"per": "prompt"}
    ),
    "ranking_hinge": Preset("Diffusion-DRO, for text", "2510.18353", "none", "ranking_hinge", "token_mean", pairs="verified"),
    "upo": Preset("Uncertainty-enhanced Preference Optimization", "2409.11212", "none", "upo", "token_mean", pairs="upo"),
    "trpa": Preset("Trust Region Preference Approximation", "2504.04524", "none", "trpa", "token_mean", pairs="all_pairs"),
    "pacs": Preset("PACS", "2509.02522", "none", "pacs", "token_mean"),
}
