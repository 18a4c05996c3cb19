"""Accuracy on held-out prompts: the same episode loop and the same verifiers as training, another sampling.

Pure: how trajectories are generated and scored is given as functions, so it runs on a live run, on a checkpoint, or on fakes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from rayrl.config.reward_sources import main_component
from rayrl.config.schema import Config
from rayrl.evaluation.estimators import anti_concentration, heterogeneity, pass_curve
from rayrl.types import Prompt, PromptTask, RewardRecord, RewardStatus, SamplingParams, Trajectory


@dataclass(frozen=True)
class Sample:
    """One generation as a person reads it."""

    prompt: str
    completion: str
    ground_truth: str | None
    correct: bool


@dataclass(frozen=True)
class Evaluation:
    step: int
    accuracy: float
    """Share of samples whose component reaches the threshold; a failed score counts as wrong."""
    by_task: dict[str, float]
    mean_tokens: float
    count: int
    failed: int
    """Samples whose score failed."""
    pass_at: dict[int, float] = field(default_factory=dict)
    """pass@k for k = 1, 2, 4, …, where every prompt was sampled several times."""
    returns: dict[str, float] = field(default_factory=dict)
    """Diagnostics of ``evaluation.returns``: see `diagnosed`."""
    samples: list[Sample] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        everything = {"eval/accuracy": self.accuracy, "eval/length_tokens": self.mean_tokens, "eval/failed_count": float(self.failed)}
        passed = {f"eval/pass_at_{k}": value for k, value in self.pass_at.items() if k > 1}
        diagnosed = {f"eval/{name}": value for name, value in self.returns.items()}
        return everything | passed | diagnosed | {f"eval/{task}/accuracy": value for task, value in self.by_task.items()}

    def to_json(self) -> dict:
        return asdict(self)


def tasks(config: Config, prompts: Sequence[Prompt]) -> list[PromptTask]:
    """What is asked of the engines: each prompt ``evaluation.samples`` times at the evaluation's temperature."""
    sampling = SamplingParams(
        max_tokens=config.rollout.sampling.max_tokens, temperature=config.evaluation.temperature, stop=tuple(config.rollout.sampling.stop)
    )
    return [PromptTask(prompt, config.evaluation.samples, sampling, lease_id=f"eval-{prompt.ordinal}") for prompt in prompts]


def evaluate(
    config: Config,
    step: int,
    trajectories: Sequence[Trajectory],
    score: Callable[[Sequence[Trajectory]], list[list[RewardRecord]]],
) -> Evaluation:
    """Scores finished trajectories. The first reward component decides, unless ``evaluation.component`` names another."""
    component = main_component(config)
    correct: dict[str, list[bool]] = defaultdict(list)
    of_prompt: dict[int, list[bool]] = defaultdict(list)
    returns: dict[int, list[float]] = defaultdict(list)
    samples, failed = [], 0
    for trajectory, records in zip(trajectories, score(trajectories), strict=True):
        record = next(r for r in records if r.component == component)
        failed += record.status is not RewardStatus.SCORED
        right = record.value is not None and record.value >= config.evaluation.threshold
        correct[trajectory.task].append(right)
        of_prompt[trajectory.ordinal].append(right)
        returns[trajectory.ordinal] += [r.value for r in records if r.component == config.evaluation.returns and r.value is not None]
        if len(samples) < config.telemetry.print_samples:
            samples.append(Sample(trajectory.prompt_text, trajectory.text, trajectory.ground_truth, right))
    everything = [right for values in correct.values() for right in values]
    return Evaluation(
        step=step,
        accuracy=float(np.mean(everything)) if everything else float("nan"),
        by_task={task: float(np.mean(values)) for task, values in sorted(correct.items())},
        mean_tokens=float(np.mean([t.num_action_tokens for t in trajectories])) if trajectories else float("nan"),
        count=len(everything),
        failed=failed,
        pass_at=_pass_at(list(of_prompt.values())),
        returns=diagnosed([values for values in returns.values() if values]),
        samples=samples,
    )


KAPPA = 0.25
"""Size of the ball of policies around the base policy in `diagnosed`: the share of samples above the mean plus half a deviation."""


def diagnosed(returns: Sequence[Sequence[float]]) -> dict[str, float]:
    """What decides between labels and clones of a base policy (arXiv 2502.12118), from the returns of each prompt's samples.

    ``return`` is their mean over all prompts. ``heterogeneity`` and ``anti_concentration`` (at `KAPPA`) are means over the prompts that
    were ever solved; a prompt never solved says nothing of how solutions differ. Empty without returns.
    """
    if not returns:
        return {}
    solved = [values for values in returns if max(values) > 0]
    mean = lambda f: float(np.mean([f(values) for values in solved])) if solved else 0.0
    return {
        "return": float(np.mean([v for values in returns for v in values])),
        "heterogeneity": mean(heterogeneity),
        "anti_concentration": mean(lambda values: anti_concentration(values, KAPPA)),
    }


def _pass_at(marks: Sequence[Sequence[bool]]) -> dict[int, float]:
    """Over prompts that have the most samples; those that lost some say less."""
    most = max(map(len, marks), default=0)
    return pass_curve([sum(m) for m in marks if len(m) == most], most) if most > 1 else {}
