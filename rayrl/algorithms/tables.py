"""The tables of methods: each name of the configuration, where its function is, its knobs and its needs. One line per method.

To add one: the function in its file, its line here (`entries.Entry`), a recipe, and a test. A published combination of several
parts gets a preset (presets.py). Nothing here imports torch.
"""

from __future__ import annotations

from rayrl.algorithms.entries import Entry, Knob

_ROOM = "rayrl.algorithms."


def _at(path: str, **needs) -> Entry:
    return Entry(_ROOM + path, **needs)


_PAMA = ("weights", "token", "scalar")
_RISK = {
    "alpha": Knob(0.2, "lower quantile: the tail below it is pushed hardest", 0.05, 0.95),
    "beta": Knob(0.8, "upper quantile: bundles above it fall silent", 0.05, 0.95),
    "w": Knob(1.5, "weight of the lower tail against the middle", 0),
    "bundle": Knob(5, "questions whose rewards are added up before quantiles are taken", 1),
    "spread": Knob("uniform", "how responses share a bundle's advantage", choices=("uniform", "std", "score", "sum_mean")),
    "form": Knob("paper", "weights as printed, or scaled by the quantile masses as released", choices=("paper", "repo")),
    "quantile_lr": Knob(0.1, "step of the quantile tracker: larger follows faster and trembles more", 0, 1, open_low=True),
    "seeking": Knob(False, "also reward the upper tail (the ablation that loses entropy)"),
    "divide": Knob(False, "divide by the standard deviation over bundles"),
}

_RIGHT = Knob(0.5, "reward from which an answer is right")

OUTCOME_ADVANTAGES = {
    "none": _at("credit:none"),
    "grpo": _at("credit:grpo", min_group=2),
    "dr_grpo": _at("credit:dr_grpo", min_group=2),
    "rloo": _at("credit:rloo", min_group=2),
    "nsr": _at("group_credit:nsr", min_group=2),
    "psr": _at("group_credit:psr"),
    "right_only": _at("group_credit:right_only", knobs={"threshold": _RIGHT}),
    "gdpo": _at(
        "group_credit:gdpo",
        min_group=2,
        knobs={"batch_norm": Knob(True, "whiten over the batch at the end, so that the size of an update does not grow with components")},
    ),
    "pama": _at(
        "group_credit:pama",
        min_group=2,
        min_components=2,
        knobs={
            "mode": Knob("weights", "how objectives combine: keep credit per sample, take the least, or one number for all", choices=_PAMA),
            "before_clip": Knob(False, "weigh objectives by their means before negative advantages are dropped"),
            "whiten": Knob(True, "divide each objective by its spread in the group, so that scales do not decide"),
        },
    ),
    "riskpo": _at("risk:riskpo", stateful=True, knobs=_RISK),
}
"""``f(OutcomeInputs) -> float32[N]``, from the scalars of the whole batch."""

TOKEN_ADVANTAGES = {
    "gae": _at("token_credit:gae", values=True),
    "gae_raw": _at("token_credit:gae_raw", values=True),
    "reinforce_pp": _at("token_credit:reinforce_pp"),
    "reinforce_pp_baseline": _at("token_credit:reinforce_pp_baseline", min_group=2, baseline=True),
    "pure_rloo": _at(
        "step_credit:pure_rloo",
        min_group=2,
        steps=True,
        knobs={"baseline": Knob("token", "what a step is compared with: the others' pay per token or per step", choices=("token", "step"))},
    ),
}
"""``f(TokenInputs, reduce) -> TokenAdvantages``, from the tokens of one rank."""

ADVANTAGES = OUTCOME_ADVANTAGES | TOKEN_ADVANTAGES

TOKEN_LOSSES = {
    "ppo_clip": _at(
        "losses:ppo_clip",
        knobs={"dual_clip": Knob(0.0, "ratio beyond which a token of a bad answer stops teaching; 0 is none", 0)},
    ),
    "gspo": _at("losses:gspo"),
    "cispo": _at("losses:cispo"),
    "reinforce": _at("losses:reinforce"),
}
"""``f(LossInputs) -> LossOutput``."""

_BETA = Knob(0.1, "scale of the log-ratio: smaller lets the policy go further from the reference for the same preference", 0, open_low=True)
_ANCHOR = Knob(
    "previous", "what the policy is compared with: the one that sampled, or the frozen reference", choices=("previous", "reference")
)


def _loss(path: str, **needs) -> Entry:
    """A loss over whole groups."""
    return _at(path, groups=True, **{"min_group": 2} | needs)


def _preference(path: str, **needs) -> Entry:
    """A loss on pairs, against the reference unless it says otherwise."""
    return _loss("preference:" + path, **{"pairs": True, "reference": True} | needs)


GROUP_LOSSES = {
    "dpo": _preference("dpo", knobs={"beta": _BETA}),
    "ipo": _preference("ipo", knobs={"tau": Knob(0.1, "the gap that is aimed at is 1 / (2 tau) nats", 0, open_low=True)}),
    "simpo": _preference(
        "simpo",
        reference=False,
        knobs={
            "beta": Knob(2.0, "scale of the mean log-prob per token", 0, open_low=True),
            "gamma": Knob(1.0, "margin that the preferred sample must have", 0),
        },
    ),
    "orpo": _preference("orpo", reference=False, knobs={"lam": Knob(0.1, "weight of the preference against the likelihood", 0)}),
    "flex_dpo": _preference(
        "flex_dpo",
        knobs={
            "beta_chosen": _BETA,
            "beta_rejected": Knob(0.08, "pressure on the rejected answer: smaller stops it from crashing, 0 leaves it alone", 0),
            "sft": Knob(0.0, "weight of the chosen answer's likelihood", 0),
            "per_token": Knob(True, "that likelihood per token, so that long answers do not weigh more"),
        },
    ),
    "mnpo": _preference(
        "mnpo",
        knobs={
            "ratio": Knob(0.33, "share of the frozen reference among the opponents; the rest is their history", 0, 1),
            "others": Knob(0.0, "share of reference.opponents in that history; the rest is the policy that sampled", 0, 1),
            "eta": Knob(0.0075, "the gap that is aimed at is 1 / (2 eta): small values are large, constant pushes", 0, open_low=True),
            "opponents": Knob(1.0, "strength of the opponents; 0 is none", 0, 1),
            "distance": Knob("squared", "to a finite target, or without end", choices=("squared", "logistic")),
            "beta": Knob(0.1, "scale of the gap for distance logistic", 0, open_low=True),
            "per_token": Knob(True, "mean log-probs per token instead of sums"),
        },
    ),
    "irepo": _preference(
        "irepo",
        target="probability",
        knobs={
            "beta": _BETA,
            "eps": Knob(
                1e-3, "probabilities are clipped to [eps, 1 - eps]: a unanimous panel asks for a finite gap", 0, 0.5, open_low=True
            ),
            "anchor": _ANCHOR,
            "per_token": Knob(False, "mean log-probs per token instead of sums"),
        },
    ),
    "prdp": _preference(
        "prdp",
        target="difference",
        knobs={
            "beta": Knob(0.5, "strength of the pull to the reference: the gap aimed at is the reward difference / beta", 0, open_low=True),
            "eps": Knob(0.1, "how far a token's log-ratio may move in one step", 0, open_low=True),
        },
    ),
    "ranking_hinge": _preference(
        "ranking_hinge",
        knobs={"beta": _BETA, "margin": Knob(0.5, "distance after which a pair teaches nothing more", 0, open_low=True)},
    ),
    "upo": _preference(
        "upo",
        target="smoothing",
        knobs={
            "beta": _BETA,
            "nll": Knob(0.0, "weight of the chosen answer's likelihood", 0),
            "norm": Knob("length", "what that likelihood is divided by", choices=("length", "reward", "none")),
            "anchor": _ANCHOR,
        },
    ),
    "trpa": _preference(
        "trpa",
        knobs={
            "beta": _BETA,
            "anisotropy": Knob(2.5, "how much more a win of a fully right answer counts", 0, open_low=True),
            "top": Knob(1.0, "reward from which an answer is fully right"),
            "kl_coef": Knob(1e-3, "weight of the trust region around the policy at the start of the step", 0),
        },
    ),
    "kto": _loss(
        "outcome_loss:kto",
        reference=True,
        knobs={
            "beta": _BETA,
            "threshold": Knob(0.5, "reward from which an answer is desirable"),
            "desirable": Knob(1.0, "weight of desirable answers", 0),
            "undesirable": Knob(1.0, "weight of the others", 0),
        },
    ),
    "pacs": _loss(
        "outcome_loss:pacs",
        binary=True,
        knobs={
            "beta": Knob(1.0, "scale of the score: larger saturates sooner", 0, open_low=True),
            "score": Knob("log_ratio", "the logit before centring", choices=("log_ratio", "mean_logprob")),
            "centre": Knob("leave_one_out", "how a prompt's scores are centred", choices=("leave_one_out", "zscore", "none")),
            "class_weights": Knob(True, "right and wrong answers of a prompt weigh the same in sum"),
        },
    ),
}
"""``f(GroupInputs) -> GroupLoss``: a sum over the pairs or trajectories of whole groups."""

LOSSES = TOKEN_LOSSES | GROUP_LOSSES

PAIRS = {
    "best_worst": _at("pairs:best_worst", min_group=2, target="difference"),
    "all_pairs": _at(
        "pairs:all_pairs",
        min_group=2,
        target="difference",
        knobs={"per": Knob("pair", "what weighs the same: every pair, or every prompt", choices=("pair", "prompt"))},
    ),
    "verified": _at(
        "pairs:verified",
        min_group=2,
        target="difference",
        knobs={
            "threshold": Knob(0.5, "reward from which an answer is right"),
            "per_positive": Knob(0, "most wrong answers that one right answer is compared with; 0 is all", 0),
        },
    ),
    "zermelo_best_worst": _at(
        "pairs:zermelo_best_worst",
        min_group=2,
        min_components=2,
        target="probability",
        knobs={
            "smoothing": Knob(0.1, "votes added to every pair in both directions: keeps unanimous rankings finite", 0, open_low=True),
            "drop_ties": Knob(False, "leave out prompts whose answers are all equally strong"),
        },
    ),
    "upo": _at(
        "pairs:upo",
        min_group=2,
        min_components=2,
        target="smoothing",
        knobs={
            "mu": Knob(1.0, "how much certainty decides what is drawn: 0 not at all", 0),
            "share": Knob(1.0, "share of the screened pairs that is drawn", 0, 1, open_low=True),
            "pick": Knob("easy", "prefer certain or uncertain pairs", choices=("easy", "hard")),
            "smooth": Knob("none", "how uncertainty softens a pair's label", choices=("none", "uncertainty", "printed")),
            "temperature": Knob(1.0, "scale of the passes' scores: larger makes them less sure", 0, open_low=True),
        },
    ),
}
"""``f(BatchInputs) -> Pairs``: who is preferred to whom."""

REDUCTIONS = {
    "token_mean": _at("reductions:TOKEN_MEAN"),
    "sequence_mean": _at("reductions:SEQUENCE_MEAN"),
    "fixed_length": _at("reductions:FIXED_LENGTH"),
}
"""`reductions.Reduction`."""

FILTERS = {
    "none": _at("filters:none"),
    "zero_variance": _at("filters:zero_variance", min_group=2),
}
"""``f(rewards, kept) -> reason | None``, in the buffer, per group."""

_FULL = Knob(1.0, "reward from which an answer is right")
_LASER = {
    "bonus": Knob(0.5, "what a right answer within the target earns more", 0),
    "target": Knob(256, "tokens", 1),
}

SHAPINGS = {
    "none": _at("shaping:none"),
    "win_rate": _at(
        "shaping:win_rate",
        min_group=2,
        knobs={"tie_band": Knob(0.0, "differences up to this are a tie: wider bands ignore more noise", 0)},
    ),
    "majority": _at("shaping:majority", min_group=2),
    "short_wrong": _at(
        "shaping:short_wrong",
        min_group=2,
        knobs={
            "penalty": Knob(0.5, "what an empty wrong answer loses", 0),
            "tau": Knob(1.0, "share of the right answers' mean length that a wrong one must have", 0, open_low=True),
            "threshold": _FULL,
        },
    ),
    "laser": _at(
        "shaping:laser",
        knobs=_LASER
        | {"kind": Knob("reward", "pay short right answers, charge long ones, or both", choices=("reward", "penalty", "hybrid"))}
        | {"threshold": _FULL},
    ),
    "laser_d": _at(
        "shaping:laser_d",
        min_group=2,
        stateful=True,
        knobs=_LASER
        | {"step": Knob(32, "grid of targets in tokens", 1), "every": Knob(20, "steps between two estimates of the targets", 1)}
        | {"threshold": _FULL},
    ),
    "grpo_lambda": _at(
        "shaping:grpo_lambda",
        min_group=2,
        binary=True,
        knobs={
            "lam": Knob(0.2, "share of the batch's groups, best first, in which length costs", 0, 1),
            "alpha": Knob(0.6, "how much of its reward the longest right answer loses", 0, 1),
        },
    ),
}
"""``f(BatchInputs) -> Shaped``: the rewards of a whole batch from its rewards, lengths and groups."""

_STEP = {
    "component": Knob("process", "the reward component that scores steps; its weight is 0, so that it is not paid twice"),
    "separator": Knob("\n\n", "what ends a step, as for the component"),
    "coef": Knob(1.0, "what a step's pay is multiplied by, against the outcome's weight of 1", 0),
}
_ETA = Knob(0.9, "threshold: steps that score less are punished; set it so that most steps are paid 0")

STEPS = {
    "none": _at("step_credit:none"),
    "sum": _at("step_credit:sum_form", knobs=_STEP),
    "min_form": _at(
        "step_credit:min_form",
        knobs=_STEP | {"temperature": Knob(0.1, "0 is the worst step alone; large shares evenly", 0, open_low=True)},
    ),
    "strict_min": _at("step_credit:strict_min", knobs=_STEP),
    "clip": _at("step_credit:clip", knobs=_STEP | {"eta": _ETA}),
    "delta": _at("step_credit:delta", knobs=_STEP),
    "clip_delta": _at("step_credit:clip_delta", knobs=_STEP | {"eta": _ETA}),
}
"""``f(values [B, S], mask [B, S]) -> [B, S]``: what each step of a trajectory is paid, from what its component says of it."""

RESAMPLINGS = {
    "none": _at("resampling:none"),
    "policy_filter": _at(
        "resampling:policy_filter",
        min_group=2,
        knobs={
            "rule": Knob("bw", "which ranks are trained on", choices=("bon", "br", "bw", "pow", "uniform")),
            "mode": Knob("filter", "keep the chosen once, or draw a whole batch by weight", choices=("filter", "reweight")),
            "power": Knob(2.0, "of |reward|, for rule pow", 0),
        },
    ),
}
"""``f(BatchInputs) -> int64[N]``: how often each trajectory is trained on, after advantages are known."""

AGGREGATORS = {
    "weighted_sum": _at("aggregation:weighted_sum"),
    "mean": _at("ensembles:mean", gaps=True),
    "worst_case": _at("ensembles:worst_case", min_components=2, gaps=True),
    "uncertainty_weighted": _at(
        "ensembles:uncertainty_weighted",
        min_components=2,
        gaps=True,
        knobs={
            "lam": Knob(0.1, "price of disagreement: 0 is the mean", 0),
            "ddof": Knob(0, "1 is the sample variance, 0 that of the population", 0, 1),
        },
    ),
    "robust": _at(
        "ensembles:robust",
        min_components=2,
        gaps=True,
        knobs={
            "w": Knob(0.6, "trust in the nominal member; the rest goes to the worst", 0, 1),
            "deviation": Knob("_std", "ending of the component that holds a member's standard deviation"),
        },
    ),
}
"""``f(components, weights) -> float32[n]``, in the buffer, per group."""
