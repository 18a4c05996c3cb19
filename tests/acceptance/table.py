"""Which runs there are, and what each paper's page claims of them.

Every run has the same budget of sampled tokens and differs from plain GRPO by its recipe and overrides alone. A claim compares a run
with its control, seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

TOKENS = 20_000
SEEDS = (0, 1, 2)

EXAM_OF_EIGHT = ("evaluation.samples=8", "evaluation.temperature=1", "data.eval_size=64")
"""For pass@8."""
NOISY = ("rewards.components.noise={verifier: random, args: {p: 0.5}, weight: 0.8}",)
"""A scorer that is right in the mean: a fair coin worth .8 beside the truth."""
BRIEF = ("rewards.components.brief={verifier: length, args: {target: 10, penalty: 0.5}, weight: 1.0}",)
"""A shortcut: answers of ten tokens, too few for the working, are paid."""
PROCESS = ("rewards.components.process={verifier: arithmetic_steps, args: {separator: ','}, weight: 0.0}",)
FORMAT = ("rewards.components.format={verifier: format_regex, args: {pattern: '->\\d+'}, weight: 0.5}",)
TWO_SCALES = (
    "rewards.components.brief={verifier: length, args: {target: 18, penalty: 10}, weight: 0.5}",
    "rewards.components.correct.weight=0.5",
)


@dataclass(frozen=True)
class Trial:
    """A recipe with overrides."""

    recipe: str
    overrides: tuple[str, ...] = ()


TRIALS: Mapping[str, Trial] = {
    "grpo": Trial("arithmetic_grpo"),
    "dr_grpo": Trial("methods/16-verifier-based"),
    "rloo": Trial("algorithms/rloo"),
    "dapo": Trial("algorithms/dapo"),
    "gspo": Trial("algorithms/gspo"),
    "cispo": Trial("algorithms/cispo"),
    "reinforce_pp": Trial("algorithms/reinforce_pp"),
    "noise": Trial("arithmetic_control"),
    "pure": Trial("methods/02-pure"),
    "pure, sum": Trial("arithmetic_grpo", (*PROCESS, "algorithm.name=pure", "algorithm.steps=sum", "algorithm.args={separator: ','}")),
    "mnpo": Trial("methods/03-mnpo"),
    "nsr": Trial("methods/04-negative-reinforcement", EXAM_OF_EIGHT),
    "psr": Trial("methods/04-positive-reinforcement", EXAM_OF_EIGHT),
    "grpo, eight": Trial("arithmetic_grpo", EXAM_OF_EIGHT),
    "trpa": Trial("methods/06-trpa"),
    "trpa, isotropic": Trial("methods/06-trpa", ("algorithm.args.anisotropy=1.0",)),
    "pref_grpo": Trial("methods/07-pref-grpo", (*NOISY, "algorithm.args.tie_band=0.9")),
    "grpo, noisy": Trial("arithmetic_grpo", NOISY),
    "harmo": Trial("methods/09-harmo", BRIEF),
    "harmo, no length term": Trial("arithmetic_grpo", (*FORMAT, *BRIEF, "algorithm.name=dr_grpo")),
    "irepo": Trial("methods/10-irepo"),
    "riskpo": Trial("methods/12-riskpo"),
    "prdp": Trial("methods/14-prdp"),
    "prdp, beta 4": Trial("methods/14-prdp", ("algorithm.args.beta=4.0",)),
    "right_only": Trial("methods/16-verifier-free"),
    "ddro": Trial("methods/17-ddro"),
    "pf_ppo": Trial("methods/18-pf-ppo", NOISY),
    "pf_ppo, bon": Trial("methods/18-pf-ppo", (*NOISY, "algorithm.args.rule=bon")),
    "flex_dpo": Trial("methods/19-flex-dpo"),
    "dpo": Trial("methods/dpo"),
    "laser": Trial("methods/20-laser"),
    "laser_d": Trial("methods/20-laser-d"),
    "ranking_hinge": Trial("methods/31-ranking-hinge"),
    "upo": Trial("methods/39-upo"),
    "grpo_lambda": Trial("methods/40-grpo-lambda"),
    "length everywhere": Trial("methods/40-grpo-lambda", ("algorithm.args={lam: 1.0, alpha: 0.9}",)),
    "pama": Trial("methods/42-pama", TWO_SCALES),
    "weighted sum": Trial("arithmetic_grpo", TWO_SCALES),
    "gdpo": Trial("methods/gdpo", TWO_SCALES),
    "pacs": Trial("methods/43-pacs"),
    "clip_delta": Trial("methods/53-clip-delta", ("algorithm.args.coef=0.5",)),
    "clip_delta, sum": Trial(
        "arithmetic_grpo", (*PROCESS, "algorithm.name=clip_delta", "algorithm.steps=sum", "algorithm.args={separator: ',', coef: 0.5}")
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One sentence of a page, as an inequality between two runs of one seed; it holds when it does so in most seeds."""

    paper: int
    claim: str
    arm: str
    control: str
    quantity: str
    """before, after, gain (points of held-out accuracy), or a metric of the run at its end."""
    holds: Callable[[float, float], bool]
    """``(arm, control)`` of one seed."""


def _more(a: float, b: float) -> bool:
    return a > b


def _less(a: float, b: float) -> bool:
    return a < b


LENGTH, ENTROPY = "rollout/length_mean_tokens", "policy/entropy"
NOT_WORSE = 0.03
"""Points of accuracy that the pages call equal; 256 held-out problems tell no finer."""

CHECKS: Sequence[Check] = (
    Check(2, "the min form writes fewer tokens than the sum form", "pure", "pure, sum", LENGTH, _less),
    Check(2, "the min form gains more true accuracy than the sum form", "pure", "pure, sum", "gain", _more),
    Check(3, "gains more than a reward that knows nothing", "mnpo", "noise", "gain", _more),
    Check(4, "aligned task: negative samples gain 60 % of what GRPO gains", "nsr", "grpo, eight", "gain", lambda a, b: a >= 0.6 * b > 0),
    Check(4, "negative samples keep pass@8 at least as high as positive ones", "nsr", "psr", "eval/pass_at_8", lambda a, b: a >= b),
    Check(6, "gains more than a reward that knows nothing", "trpa", "noise", "gain", _more),
    Check(6, "the right level is as frequent as without anisotropy", "trpa", "trpa, isotropic", "reward/correct", lambda a, b: a >= b),
    Check(7, "win rates with ties gain more than point-wise scores of a noisy scorer", "pref_grpo", "grpo, noisy", "gain", _more),
    Check(9, "paid for brevity, the length term keeps answers longer", "harmo", "harmo, no length term", LENGTH, _more),
    Check(9, "and accuracy is not lower", "harmo", "harmo, no length term", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(10, "gains more than a reward that knows nothing", "irepo", "noise", "gain", _more),
    Check(12, "keeps more entropy than GRPO", "riskpo", "grpo", ENTROPY, _more),
    Check(12, "ends as accurate as GRPO", "riskpo", "grpo", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(14, "gains more than a reward that knows nothing", "prdp", "noise", "gain", _more),
    Check(14, "a larger beta stays closer to the reference", "prdp", "prdp, beta 4", "pairs/margin", _more),
    Check(16, "labels and RL end above cloning what was right, under one budget", "dr_grpo", "right_only", "after", _more),
    Check(17, "pairs come into the right order more often than by chance", "ddro", "noise", "pairs/accuracy", lambda a, b: a > 0.5),
    Check(17, "gains more than a reward that knows nothing", "ddro", "noise", "gain", _more),
    Check(18, "a noisy reward's best and worst still raise true accuracy", "pf_ppo", "noise", "gain", _more),
    Check(18, "the best alone is worse than best and worst", "pf_ppo", "pf_ppo, bon", "after", _more),
    Check(19, "the likelihood term keeps the chosen answer's likelihood higher than DPO", "flex_dpo", "dpo", "pairs/chosen", _more),
    Check(20, "LASER: shorter than GRPO", "laser", "grpo", LENGTH, _less),
    Check(20, "LASER: accuracy within 3 points", "laser", "grpo", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(20, "LASER-D: shorter than GRPO", "laser_d", "grpo", LENGTH, _less),
    Check(20, "LASER-D: accuracy within 3 points", "laser_d", "grpo", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(31, "gains more than a reward that knows nothing", "ranking_hinge", "noise", "gain", _more),
    Check(39, "gains more than a reward that knows nothing", "upo", "noise", "gain", _more),
    Check(40, "shorter than GRPO", "grpo_lambda", "grpo", LENGTH, _less),
    Check(40, "accuracy within 3 points of GRPO", "grpo_lambda", "grpo", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(40, "a penalty everywhere ends less accurate", "grpo_lambda", "length everywhere", "after", _more),
    Check(42, "with scales ten times apart, more accurate than a fixed 50/50 sum", "pama", "weighted sum", "after", _more),
    Check(42, "and not longer", "pama", "weighted sum", LENGTH, lambda a, b: a <= b + 1),
    Check(43, "within 3 points of GRPO, or better", "pacs", "grpo", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(53, "clip and delta do not lengthen answers more than the raw sum", "clip_delta", "clip_delta, sum", LENGTH, lambda a, b: a <= b),
    Check(53, "success is within 3 points of GRPO", "clip_delta", "grpo", "after", lambda a, b: a >= b - NOT_WORSE),
)  # fmt: skip

COMPARED = (
    *("grpo", "dr_grpo", "rloo", "dapo", "gspo", "cispo", "reinforce_pp"),
    *("right_only", "riskpo", "pacs", "pure", "irepo", "dpo", "mnpo", "gdpo"),
)
"""Runs that are compared with one another on the arithmetic task."""
