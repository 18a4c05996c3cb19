"""Which runs there are, and what each paper's page claims of them.

Every run has the same budget of sampled tokens and differs from plain GRPO by its recipe and overrides alone. A claim compares a run
with its control, seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rayrl import study

TOKENS = 20_000
SEEDS = (0, 1, 2)

EXAM_OF_EIGHT = ("evaluation.samples=8", "evaluation.temperature=1", "data.eval_size=64")
"""For pass@8."""
NOISY = ("rewards.components.noise={verifier: random, args: {p: 0.5}, weight: 0.8}",)
"""A scorer that is right in the mean: a fair coin worth .8 beside the truth."""
SLIGHT = ("rewards.components.brief={verifier: length, args: {target: 10, penalty: 0.05}, weight: 1.0}",)
"""A hack worth .005 a token: next to nothing, until a group that agrees otherwise is divided by its spread."""
PROCESS = ("rewards.components.process={verifier: arithmetic_steps, args: {separator: ','}, weight: 0.0}",)
TWO_SCALES = (
    "rewards.components.brief={verifier: length, args: {target: 18, penalty: 10}, weight: 0.5}",
    "rewards.components.correct.weight=0.5",
)


PLANTED = (
    *("data.source=task:planted", "data.task_args={digits: [3], size: 4000}", "run.tokens=30000", "learner.optim.lr=2.0e-4"),
    *("rollout.sampling.max_tokens=40", "rollout.sampling.stop=['.']", "rewards.components.correct.verifier=planted"),
    *("evaluation.samples=4", "evaluation.temperature=1.0"),
)
"""The task whose answers have many lengths, for methods that speak of lengths."""
PLANTED_PROCESS = ("rewards.components.process={verifier: planted_steps, args: {separator: ','}, weight: 0.0}",)
PLANTED_BRIEF = ("rewards.components.brief={verifier: length, args: {target: 2, penalty: 0.5, only_longer: true}, weight: 1.0}",)
"""A shortcut: the fewer tokens the better, and two are too few for an attempt."""
PLANTED_FORMAT = ("rewards.components.format={verifier: format_regex, args: {pattern: '\\d+'}, weight: 0.5}",)
ONE_TOKEN_RECIPE = "tests/acceptance/one_token.yaml"
ONE_TOKEN = ("learner.optim.lr=2.0e-4", "run.steps=100", "run.tokens=1000000", "algorithm.name=dr_grpo", "algorithm.kl.coef=0.02")
FLIPPED = (
    *PLANTED,
    "rewards.components.correct.weight=0.0",
    "rewards.components.model={verifier: 'tests.acceptance.scripted:flipped', weight: 1.0}",
)
"""A reward model that is wrong about three in ten answers to half of the prompts."""
PASSES = tuple(
    f"rewards.components.pass_{i}={{verifier: 'tests.acceptance.scripted:estimate', args: {{index: {i}}}, weight: 1.0e-60}}"
    for i in range(10)
)


@dataclass(frozen=True)
class Trial:
    """A recipe with overrides."""

    recipe: str
    overrides: tuple[str, ...] = ()
    start: str = "arithmetic_grpo"
    """Recipe whose warm start it begins from."""
    ranks: bool = False
    """Also measure how well it retrieves, before and after."""


def _cell(name: str, tokens: int = TOKENS, **place: str) -> Trial:
    """A cell of a study of the checkout, other axes at their first options."""
    found = study.find(name)
    options = tuple(place.get(axis, next(iter(found.axes[axis]))) for axis in found.axes)
    arm = study.arms(found)[options]
    return Trial(arm.recipe, (*arm.overrides, f"run.tokens={tokens}", "learner.optim.lr=2.0e-4"), "planted")


def _planted(recipe: str, *more: str) -> Trial:
    return Trial(recipe, (*PLANTED, *more), "planted")


_COMMA = "algorithm.args={separator: ','}"
_RETRIEVAL = (
    *("run.steps=40", "run.tokens=10000000", "checkpoint.export=true", "learner.optim.lr=3.0e-5"),
    *("batch.groups_per_step=32", "data.eval_size=60"),
)

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
    "pure, sum": Trial("arithmetic_grpo", (*PROCESS, "algorithm.name=pure", "algorithm.steps=sum", _COMMA)),
    "mnpo": Trial("methods/03-mnpo"),
    "nsr": Trial("methods/04-negative-reinforcement", EXAM_OF_EIGHT),
    "psr": Trial("methods/04-positive-reinforcement", EXAM_OF_EIGHT),
    "grpo, eight": Trial("arithmetic_grpo", EXAM_OF_EIGHT),
    "trpa": Trial("methods/06-trpa"),
    "trpa, isotropic": Trial("methods/06-trpa", ("algorithm.args.anisotropy=1.0",)),
    "pref_grpo": Trial("methods/07-pref-grpo", (*SLIGHT, "algorithm.args.tie_band=0.1")),
    "grpo, slight hack": Trial("arithmetic_grpo", SLIGHT),
    "irepo": Trial("methods/10-irepo"),
    "riskpo": Trial("methods/12-riskpo"),
    "prdp": Trial("methods/14-prdp"),
    "prdp, beta 4": Trial("methods/14-prdp", ("algorithm.args.beta=4.0",)),
    "right_only": Trial("methods/16-verifier-free"),
    "ddro": Trial("methods/17-ddro", _RETRIEVAL, "methods/17-ddro", ranks=True),
    "ddro, random": Trial(
        "methods/17-ddro", (*_RETRIEVAL, "rewards.components.correct.verifier=random"), "methods/17-ddro", ranks=True
    ),
    "pf_ppo": Trial("methods/18-pf-ppo", NOISY),
    "pf_ppo, bon": Trial("methods/18-pf-ppo", (*NOISY, "algorithm.args.rule=bon")),
    "flex_dpo": Trial("methods/19-flex-dpo"),
    "dpo": Trial("methods/dpo"),
    "ranking_hinge": Trial("methods/31-ranking-hinge"),
    "upo": Trial("methods/39-upo"),
    "upo, flipped": Trial("planted", (*FLIPPED, *PASSES, "algorithm.name=upo", "algorithm.args={share: 0.5}"), "planted"),
    "random pairs, flipped": Trial("planted", (*FLIPPED, "algorithm.name=dpo", "algorithm.pairs=all_pairs"), "planted"),
    "widest pairs, flipped": Trial("planted", (*FLIPPED, "algorithm.name=dpo", "algorithm.pairs=best_worst"), "planted"),
    "pama": Trial("methods/42-pama", TWO_SCALES),
    "weighted sum": Trial("arithmetic_grpo", TWO_SCALES),
    "gdpo": Trial("methods/gdpo", TWO_SCALES),
    "pacs": Trial("methods/43-pacs"),
    "grpo, known": _cell("alignment", task="known"),
    "grpo, unknown": _cell("alignment", task="unknown"),
    "nsr, known": _cell("alignment", task="known", estimator="nsr"),
    "nsr, unknown": _cell("alignment", task="unknown", estimator="nsr"),
    "random, known": _cell("alignment", task="known", reward="random"),
    "random, unknown": _cell("alignment", task="unknown", reward="random"),
    "robust, w 1": Trial(ONE_TOKEN_RECIPE, (*ONE_TOKEN, "rewards.aggregate_args.w=1.0"), ONE_TOKEN_RECIPE),
    "robust, w .4": Trial(ONE_TOKEN_RECIPE, (*ONE_TOKEN, "rewards.aggregate_args.w=0.4"), ONE_TOKEN_RECIPE),
    "labels, H 16": _cell("verifier", 40_000, horizon="16", prompts="256", side="verifier_based"),
    "clones, H 16": _cell("verifier", 40_000, horizon="16", prompts="256", side="verifier_free"),
    "labels, H 40": _cell("verifier", 40_000, horizon="40", prompts="256", side="verifier_based"),
    "clones, H 40": _cell("verifier", 40_000, horizon="40", prompts="256", side="verifier_free"),
    "grpo, searching": _planted("planted"),
    "laser": _planted("methods/20-laser", "algorithm.args.target=8"),
    "laser_d": _planted("methods/20-laser-d", "algorithm.args.target=12", "algorithm.args.step=4"),
    "grpo_lambda": _planted("methods/40-grpo-lambda"),
    "length everywhere": _planted("methods/40-grpo-lambda", "algorithm.args={lam: 1.0, alpha: 0.9}"),
    "harmo": _planted("methods/09-harmo", *PLANTED_FORMAT, *PLANTED_BRIEF),
    "harmo, no length term": _planted("planted", *PLANTED_FORMAT, *PLANTED_BRIEF, "algorithm.name=dr_grpo"),
    "pure, searching": _planted("methods/02-pure", *PLANTED_PROCESS),
    "pure, sum, searching": _planted("planted", *PLANTED_PROCESS, "algorithm.name=pure", "algorithm.steps=sum", _COMMA),
    "clip_delta": _planted("methods/53-clip-delta", *PLANTED_PROCESS, "algorithm.args.coef=0.5"),
    "clip_delta, sum": _planted(
        "planted", *PLANTED_PROCESS, "algorithm.name=clip_delta", "algorithm.steps=sum", "algorithm.args={separator: ',', coef: 0.5}"
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


def _sixty(a: float, b: float) -> bool:
    return a >= 0.6 * b > 0


LENGTH, ENTROPY, PASS_8 = "rollout/length_mean_tokens", "policy/entropy", "start/eval/pass_at_8"
NOT_WORSE = 0.03
"""Points of accuracy that the pages call equal; 256 held-out problems tell no finer."""

CHECKS: Sequence[Check] = (
    Check(2, "the min form writes fewer tokens than the sum form", "pure", "pure, sum", LENGTH, _less),
    Check(2, "the min form gains more true accuracy than the sum form", "pure", "pure, sum", "gain", _more),
    Check(2, "where answers may be long, the min form writes fewer tokens", "pure, searching", "pure, sum, searching", LENGTH, _less),
    Check(2, "and ends more accurate", "pure, searching", "pure, sum, searching", "after", _more),
    Check(3, "gains more than a reward that knows nothing", "mnpo", "noise", "gain", _more),
    Check(4, "aligned task: negative samples gain 60 % of what GRPO gains", "nsr", "grpo, eight", "gain", _sixty),
    Check(4, "negative samples keep pass@8 at least as high as positive ones", "nsr", "psr", "eval/pass_at_8", lambda a, b: a >= b),
    Check(4, "pass@8 of the start tells both tasks apart: .7 or more, .3 or less",
          "grpo, known", "grpo, unknown", PASS_8, lambda a, b: a >= 0.7 and b <= 0.3),
    Check(4, "known task: true rewards gain more than random ones", "grpo, known", "random, known", "gain", _more),
    Check(4, "unknown task: true rewards gain more than random ones", "grpo, unknown", "random, unknown", "gain", _more),
    Check(4, "known task: negative samples gain 60 % of what GRPO gains", "nsr, known", "grpo, known", "gain", _sixty),
    Check(4, "unknown task: negative samples alone gain less than that", "nsr, unknown", "grpo, unknown", "gain", lambda a, b: a < 0.6 * b),
    Check(6, "gains more than a reward that knows nothing", "trpa", "noise", "gain", _more),
    Check(6, "the right level is as frequent as without anisotropy", "trpa", "trpa, isotropic", "reward/correct", lambda a, b: a >= b),
    Check(7, "beside a slight hack, win rates with ties gain more than points", "pref_grpo", "grpo, slight hack", "gain", _more),
    Check(7, "and give in to it less", "pref_grpo", "grpo, slight hack", LENGTH, _more),
    Check(8, "true value above .5 for w .4, below .15 for w 1",
          "robust, w .4", "robust, w 1", "eval/return", lambda a, b: a > 0.5 and b < 0.15),
    Check(9, "paid for brevity, the length term keeps answers longer", "harmo", "harmo, no length term", LENGTH, _more),
    Check(9, "and accuracy is not lower", "harmo", "harmo, no length term", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(10, "gains more than a reward that knows nothing", "irepo", "noise", "gain", _more),
    Check(12, "keeps more entropy than GRPO", "riskpo", "grpo", ENTROPY, _more),
    Check(12, "ends as accurate as GRPO", "riskpo", "grpo", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(14, "gains more than a reward that knows nothing", "prdp", "noise", "gain", _more),
    Check(14, "a larger beta stays closer to the reference", "prdp", "prdp, beta 4", "pairs/margin", _more),
    Check(16, "labels and RL end above cloning what was right, under one budget", "dr_grpo", "right_only", "after", _more),
    Check(16, "labels return more than clones, 16 tokens", "labels, H 16", "clones, H 16", "eval/return", _more),
    Check(16, "labels return more than clones, 40 tokens", "labels, H 40", "clones, H 40", "eval/return", _more),
    Check(16, "clones alone already return more than the start", "clones, H 40", "clones, H 40", "return_gain", lambda a, b: a > 0),
    Check(17, "held-out pairs: better ordered than by fine-tuning",
          "ddro", "ddro, random", "rank/pairs_right_gain", lambda a, b: a > 0 and a > b),
    Check(17, "and rightly in more than four of five", "ddro", "ddro, random", "rank/pairs_right", lambda a, b: a > 0.8),
    Check(17, "MRR@10 does not fall", "ddro", "ddro, random", "rank/mrr@10_gain", lambda a, b: a >= 0),
    Check(18, "a noisy reward's best and worst still raise true accuracy", "pf_ppo", "noise", "gain", _more),
    Check(18, "the best alone is worse than best and worst", "pf_ppo", "pf_ppo, bon", "after", _more),
    Check(19, "the likelihood term keeps the chosen answer's likelihood higher than DPO", "flex_dpo", "dpo", "pairs/chosen", _more),
    Check(20, "LASER: shorter than GRPO", "laser", "grpo, searching", LENGTH, _less),
    Check(20, "LASER: accuracy within 3 points", "laser", "grpo, searching", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(20, "LASER-D: shorter than GRPO", "laser_d", "grpo, searching", LENGTH, _less),
    Check(20, "LASER-D: accuracy within 3 points", "laser_d", "grpo, searching", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(31, "gains more than a reward that knows nothing", "ranking_hinge", "noise", "gain", _more),
    Check(39, "gains more than a reward that knows nothing", "upo", "noise", "gain", _more),
    Check(39, "a flawed reward model: screened pairs end above random ones", "upo, flipped", "random pairs, flipped", "after", _more),
    Check(39, "and above those of the widest margin", "upo, flipped", "widest pairs, flipped", "after", _more),
    Check(40, "shorter than GRPO", "grpo_lambda", "grpo, searching", LENGTH, _less),
    Check(40, "accuracy within 3 points of GRPO", "grpo_lambda", "grpo, searching", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(40, "a penalty everywhere ends less accurate", "grpo_lambda", "length everywhere", "after", _more),
    Check(42, "with scales ten times apart, more accurate than a fixed 50/50 sum", "pama", "weighted sum", "after", _more),
    Check(42, "and not longer", "pama", "weighted sum", LENGTH, lambda a, b: a <= b + 1),
    Check(43, "within 3 points of GRPO, or better", "pacs", "grpo", "after", lambda a, b: a >= b - NOT_WORSE),
    Check(53, "clip and delta do not lengthen answers more than the raw sum", "clip_delta", "clip_delta, sum", LENGTH, lambda a, b: a <= b),
    Check(53, "success is within 3 points of GRPO", "clip_delta", "grpo, searching", "after", lambda a, b: a >= b - NOT_WORSE),
)  # fmt: skip

COMPARED = (
    *("grpo", "dr_grpo", "rloo", "dapo", "gspo", "cispo", "reinforce_pp"),
    *("right_only", "riskpo", "pacs", "pure", "irepo", "dpo", "mnpo", "gdpo"),
)
"""Runs that are compared with one another on the arithmetic task."""
