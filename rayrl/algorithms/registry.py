"""The one table of methods: what a name in the configuration stands for.

Values are ``module:attribute`` strings, resolved by `load` when the thing is needed: listing methods and planning a run need no
torch. To add a method: one function in its file, one line in its table, and a preset if it is a published algorithm.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from rayrl.config.schema import AlgorithmConfig, CorrectionConfig
from rayrl.errors import ConfigError

T = TypeVar("T")

OUTCOME_ADVANTAGES = {
    "grpo": "rayrl.algorithms.credit:grpo",
    "dr_grpo": "rayrl.algorithms.credit:dr_grpo",
    "rloo": "rayrl.algorithms.credit:rloo",
}
"""``f(OutcomeInputs) -> float32[N]``, from the scalars of the whole batch."""

TOKEN_ADVANTAGES = {
    "gae": "rayrl.algorithms.token_credit:gae",
    "gae_raw": "rayrl.algorithms.token_credit:gae_raw",
    "reinforce_pp": "rayrl.algorithms.token_credit:reinforce_pp",
    "reinforce_pp_baseline": "rayrl.algorithms.token_credit:reinforce_pp_baseline",
}
"""``f(TokenInputs, reduce) -> TokenAdvantages``, from the tokens of one rank."""

ADVANTAGES = OUTCOME_ADVANTAGES | TOKEN_ADVANTAGES

CRITIC_ADVANTAGES = frozenset({"gae", "gae_raw"})
"""Those that read values."""

GROUP_ADVANTAGES = frozenset({"grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"})
"""Those that compare samples of one prompt: with one sample per prompt they are 0."""

LOSSES = {
    "ppo_clip": "rayrl.algorithms.losses:ppo_clip",
    "gspo": "rayrl.algorithms.losses:gspo",
    "cispo": "rayrl.algorithms.losses:cispo",
    "reinforce": "rayrl.algorithms.losses:reinforce",
}
"""``f(LossInputs) -> LossOutput``."""

REDUCTIONS = {
    "token_mean": "rayrl.algorithms.reductions:TOKEN_MEAN",
    "sequence_mean": "rayrl.algorithms.reductions:SEQUENCE_MEAN",
    "fixed_length": "rayrl.algorithms.reductions:FIXED_LENGTH",
}
"""`reductions.Reduction`."""

FILTERS = {
    "none": "rayrl.algorithms.filters:none",
    "zero_variance": "rayrl.algorithms.filters:zero_variance",
}
"""``f(rewards, kept) -> reason | None``."""

AGGREGATORS = {"weighted_sum": "rayrl.algorithms.aggregation:weighted_sum"}
"""``f(components, weights) -> float32[n]``."""


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

    @property
    def needs_critic(self) -> bool:
        return self.advantage in CRITIC_ADVANTAGES


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
}


@dataclass(frozen=True)
class Resolved:
    """An `AlgorithmConfig` without nulls, every name known, every number in range."""

    name: str
    title: str
    advantage: str
    loss: str
    reduction: str
    filter: str
    clip_low: float
    clip_high: float
    gamma: float
    lam: float

    @property
    def is_outcome(self) -> bool:
        """True: advantages come from batch scalars (`OutcomeInputs`); False: from tokens (`TokenInputs`)."""
        return self.advantage in OUTCOME_ADVANTAGES

    @property
    def needs_critic(self) -> bool:
        return self.advantage in CRITIC_ADVANTAGES

    @property
    def needs_baseline(self) -> bool:
        """`TokenInputs.baseline` must be filled with `credit.group_mean`."""
        return self.advantage in GROUP_ADVANTAGES and not self.is_outcome

    @property
    def min_group_size(self) -> int:
        """Fewest samples of one prompt with which anything is learned."""
        return 2 if self.advantage in GROUP_ADVANTAGES or self.filter == "zero_variance" else 1


def resolve(algorithm: AlgorithmConfig) -> Resolved:
    """Fills nulls from the preset. Raises `ConfigError` for an unknown name (with the nearest known one) or a number out of range."""
    preset = PRESETS[_known(PRESETS, algorithm.name, "algorithm.name")]
    clip_low = _or(algorithm.clip_low, preset.clip_low)
    resolved = Resolved(
        name=algorithm.name,
        title=preset.title,
        advantage=_known(ADVANTAGES, _or(algorithm.advantage, preset.advantage), "algorithm.advantage"),
        loss=_known(LOSSES, _or(algorithm.loss, preset.loss), "algorithm.loss"),
        reduction=_known(REDUCTIONS, _or(algorithm.loss_reduction, preset.reduction), "algorithm.loss_reduction"),
        filter=_known(FILTERS, _or(algorithm.filter, preset.filter), "algorithm.filter"),
        clip_low=clip_low,
        clip_high=_or(algorithm.clip_high, _or(preset.clip_high, clip_low)),
        gamma=algorithm.gamma,
        lam=algorithm.lam,
    )
    for key in ("clip_low", "clip_high"):
        _in_range(f"algorithm.{key}", getattr(resolved, key), 0, exclusive=True)
    for key in ("gamma", "lam"):
        _in_range(f"algorithm.{key}", getattr(resolved, key), 0, 1)
    _in_range("algorithm.kl.coef", algorithm.kl.coef, 0)
    _in_range("algorithm.correction.cap", algorithm.correction.cap, 0, exclusive=True)
    if algorithm.correction.mode == "masked":
        _in_range("algorithm.correction.floor", algorithm.correction.floor, 0, algorithm.correction.cap)
    return resolved


def correction_mode(correction: CorrectionConfig, max_staleness: int) -> str:
    """``algorithm.correction.mode`` with ``auto`` settled: none on policy, truncated otherwise."""
    if correction.mode != "auto":
        return correction.mode
    return "none" if max_staleness == 0 else "truncated"


def load(table: Mapping[str, str], name: str, key: str) -> Any:
    """What ``name`` stands for in ``table``. Raises `ConfigError` that names ``key`` where it is unknown."""
    module, _, attribute = table[_known(table, name, key)].partition(":")
    return getattr(import_module(module), attribute)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _known(table: Iterable[str], name: str, key: str) -> str:
    names = list(table)
    if name in names:
        return name
    similarity = {known: difflib.SequenceMatcher(None, name, known).ratio() for known in names}
    nearest = max(names, key=similarity.__getitem__)
    suggestion = f"did you mean {nearest!r}? " if similarity[nearest] > 0.4 else ""
    raise ConfigError(f"{key} is {name!r}, which is not known", f"{suggestion}Known: {', '.join(names)}")


def _in_range(key: str, value: float, low: float, high: float = float("inf"), *, exclusive: bool = False) -> None:
    if not (low < value if exclusive else low <= value) or not value <= high:
        bound = f"greater than {low:g}" if exclusive else f"at least {low:g}"
        raise ConfigError(f"{key} is {value}", f"set it to {bound}" + (f" and at most {high:g}" if high != float("inf") else ""))
