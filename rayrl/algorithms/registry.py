"""What the names and numbers of `algorithm` stand for: `resolve` fills a configuration from its preset and checks it.

The tables (tables.py) and presets (presets.py) say what exists; `load` imports a function when it is needed, so that listing
methods and planning a run need no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, TypeVar

from rayrl.algorithms.entries import Entry, Value, knobs_of, nearest
from rayrl.algorithms.presets import PRESETS, Preset
from rayrl.algorithms.tables import (
    ADVANTAGES,
    AGGREGATORS,
    FILTERS,
    GROUP_LOSSES,
    LOSSES,
    OUTCOME_ADVANTAGES,
    PAIRS,
    REDUCTIONS,
    RESAMPLINGS,
    SHAPINGS,
    STEPS,
    TOKEN_ADVANTAGES,
    TOKEN_LOSSES,
)
from rayrl.config.schema import AlgorithmConfig, CorrectionConfig, RewardsConfig
from rayrl.errors import ConfigError

__all__ = [
    "ADVANTAGES", "AGGREGATORS", "FILTERS", "GROUP_LOSSES", "LOSSES", "OUTCOME_ADVANTAGES", "PAIRS", "PRESETS", "REDUCTIONS",
    "RESAMPLINGS", "SHAPINGS", "STEPS", "TOKEN_ADVANTAGES", "TOKEN_LOSSES", "Preset", "Resolved", "aggregator", "correction_mode",
    "load", "resolve",
]  # fmt: skip

T = TypeVar("T")

PARTS: dict[str, dict[str, Entry]] = {
    "advantage": ADVANTAGES,
    "loss": LOSSES,
    "filter": FILTERS,
    "shaping": SHAPINGS,
    "steps": STEPS,
    "pairs": PAIRS,
    "resample": RESAMPLINGS,
}
"""The parts of an algorithm that have knobs, by their key under ``algorithm``."""


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
    shaping: str = "none"
    steps: str = "none"
    pairs: str | None = None
    resample: str = "none"
    knobs: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    """Knobs of each part (`PARTS`), complete and checked."""

    @property
    def entries(self) -> dict[str, Entry]:
        """Part -> its line in the tables; without ``pairs`` where there are none."""
        chosen = {part: getattr(self, part) for part in PARTS}
        return {part: PARTS[part][name] for part, name in chosen.items() if name is not None}

    def load(self, part: str) -> Any:
        """The function of a part. Call it with ``**knobs[part]``."""
        return load(PARTS[part], getattr(self, part), f"algorithm.{part}")

    @property
    def is_outcome(self) -> bool:
        """True: advantages come from batch scalars (`OutcomeInputs`); False: from tokens (`TokenInputs`)."""
        return self.advantage in OUTCOME_ADVANTAGES

    @property
    def needs_critic(self) -> bool:
        return ADVANTAGES[self.advantage].values

    @property
    def needs_baseline(self) -> bool:
        """`TokenInputs.baseline` must be filled with `credit.group_mean`."""
        return ADVANTAGES[self.advantage].baseline

    @property
    def needs_reference(self) -> bool:
        """Log-probs of the frozen reference model are read whatever `algorithm.kl.coef` is."""
        return any(entry.reference and self.knobs[part].get("anchor") != "previous" for part, entry in self.entries.items())

    @property
    def whole_groups(self) -> bool:
        """A micro-batch holds all samples of its prompts."""
        return LOSSES[self.loss].groups

    @property
    def min_group_size(self) -> int:
        """Fewest samples of one prompt with which anything is learned."""
        return max(entry.min_group for entry in self.entries.values())


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
        shaping=_known(SHAPINGS, _or(algorithm.shaping, preset.shaping), "algorithm.shaping"),
        steps=_known(STEPS, _or(algorithm.steps, preset.steps), "algorithm.steps"),
        pairs=_pairs(algorithm, preset),
        resample=_known(RESAMPLINGS, _or(algorithm.resample, preset.resample), "algorithm.resample"),
    )
    known = {name for entry in resolved.entries.values() for name in entry.knobs}
    given = {name: value for name, value in preset.args.items() if name in known} | dict(algorithm.args)
    resolved = replace(resolved, knobs=knobs_of(resolved.entries, given, "algorithm.args"))
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


def aggregator(rewards: RewardsConfig) -> tuple[Entry, dict[str, Value]]:
    """The aggregator of ``rewards`` and its knobs. Raises `ConfigError` as `resolve` does."""
    entry = AGGREGATORS[_known(AGGREGATORS, rewards.aggregate, "rewards.aggregate")]
    return entry, knobs_of({"aggregate": entry}, rewards.aggregate_args, "rewards.aggregate_args")["aggregate"]


def load(table: Mapping[str, Entry], name: str, key: str) -> Any:
    """What ``name`` stands for in ``table``. Raises `ConfigError` that names ``key`` where it is unknown."""
    module, _, attribute = table[_known(table, name, key)].path.partition(":")
    return getattr(import_module(module), attribute)


def _pairs(algorithm: AlgorithmConfig, preset: Preset) -> str | None:
    """The pair builder: needed by losses on pairs, refused for others."""
    loss, name = _or(algorithm.loss, preset.loss), _or(algorithm.pairs, preset.pairs)
    if not LOSSES[loss].pairs:
        if algorithm.pairs is not None:
            trains = ", ".join(n for n, e in LOSSES.items() if e.pairs)
            raise ConfigError(f"algorithm.pairs is {name!r} and algorithm.loss {loss} takes no pairs", f"leave it null, or take {trains}")
        return None
    name, need = _known(PAIRS, _or(name, "best_worst"), "algorithm.pairs"), LOSSES[loss].target
    if need and PAIRS[name].target != need:
        fitting = ", ".join(n for n, e in PAIRS.items() if e.target == need)
        raise ConfigError(f"algorithm.loss {loss} needs a {need} for each pair and algorithm.pairs is {name}", f"take {fitting}")
    return name


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _known(table: Iterable[str], name: str, key: str) -> str:
    names = list(table)
    if name in names:
        return name
    raise ConfigError(f"{key} is {name!r}, which is not known", f"{nearest(name, names)}Known: {', '.join(names)}")


def _in_range(key: str, value: float, low: float, high: float = float("inf"), *, exclusive: bool = False) -> None:
    if not (low < value if exclusive else low <= value) or not value <= high:
        bound = f"greater than {low:g}" if exclusive else f"at least {low:g}"
        raise ConfigError(f"{key} is {value}", f"set it to {bound}" + (f" and at most {high:g}" if high != float("inf") else ""))
