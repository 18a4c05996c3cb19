"""The tables of methods: each name of the configuration, where its function is, its knobs and its needs. One line per method.

To add one: the function in its file, its line here (`entries.Entry`), a recipe, and a test. A published combination of several
parts gets a preset (presets.py). Nothing here imports torch.
"""

from __future__ import annotations

from rayrl.algorithms.entries import Entry, Knob

_ROOM = "rayrl.algorithms."


def _at(path: str, **needs) -> Entry:
    return Entry(_ROOM + path, **needs)


OUTCOME_ADVANTAGES = {
    "none": _at("credit:none"),
    "grpo": _at("credit:grpo", min_group=2),
    "dr_grpo": _at("credit:dr_grpo", min_group=2),
    "rloo": _at("credit:rloo", min_group=2),
}
"""``f(OutcomeInputs) -> float32[N]``, from the scalars of the whole batch."""

TOKEN_ADVANTAGES = {
    "gae": _at("token_credit:gae", values=True),
    "gae_raw": _at("token_credit:gae_raw", values=True),
    "reinforce_pp": _at("token_credit:reinforce_pp"),
    "reinforce_pp_baseline": _at("token_credit:reinforce_pp_baseline", min_group=2, baseline=True),
}
"""``f(TokenInputs, reduce) -> TokenAdvantages``, from the tokens of one rank."""

ADVANTAGES = OUTCOME_ADVANTAGES | TOKEN_ADVANTAGES

TOKEN_LOSSES = {
    "ppo_clip": _at("losses:ppo_clip"),
    "gspo": _at("losses:gspo"),
    "cispo": _at("losses:cispo"),
    "reinforce": _at("losses:reinforce"),
}
"""``f(LossInputs) -> LossOutput``."""

_BETA = Knob(0.1, "scale of the log-ratio: smaller lets the policy go further from the reference for the same preference", 0, open_low=True)

GROUP_LOSSES = {
    "dpo": _at("preference:dpo", reference=True, pairs=True, groups=True, min_group=2, knobs={"beta": _BETA}),
}
"""``f(GroupInputs) -> GroupLoss``: a sum over the pairs or trajectories of whole groups."""

LOSSES = TOKEN_LOSSES | GROUP_LOSSES

PAIRS = {
    "best_worst": _at("pairs:best_worst", min_group=2),
    "all_pairs": _at(
        "pairs:all_pairs",
        min_group=2,
        knobs={"per": Knob("pair", "what weighs the same: every pair, or every prompt", choices=("pair", "prompt"))},
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

SHAPINGS = {
    "none": _at("shaping:none"),
}
"""``f(BatchInputs) -> Shaped``: the rewards of a whole batch from its rewards, lengths and groups."""

STEPS = {
    "none": _at("step_credit:none"),
}
"""``f(values [B, S], mask [B, S]) -> [B, S]``: what each step of a trajectory is paid, from what its component says of it."""

RESAMPLINGS = {
    "none": _at("resampling:none"),
}
"""``f(BatchInputs) -> int64[N]``: how often each trajectory is trained on, after advantages are known."""

AGGREGATORS = {
    "weighted_sum": _at("aggregation:weighted_sum"),
}
"""``f(components, weights) -> float32[n]``, in the buffer, per group."""
