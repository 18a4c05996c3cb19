"""The metrics of a run: every name is known here, and a writer fans them out to sinks.

Names are ``role/quantity_unit`` (a quantity without unit has no suffix). Families with names that a configuration invents
(reward components, tasks) have a prefix; any other unknown name is refused, so that reports and documentation stay complete.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple, Protocol


class Metric(NamedTuple):
    unit: str
    """What one is: ``s``, ``tokens``, ``groups``, ``nats`` ... empty for a pure number."""
    description: str


METRICS: dict[str, Metric] = {
    # The first thing to look at when a run goes wrong: do engine and learner compute the same policy?
    "mismatch/abs": Metric("nats", "Mean |learner − engine| log-probability per action token, before the update"),
    "mismatch/abs_max": Metric("nats", "Largest |learner − engine| log-probability of an action token"),
    "mismatch/kl_k1": Metric("nats", "KL(engine ‖ learner) per action token, k1 estimate"),
    "mismatch/kl_k3": Metric("nats", "KL(engine ‖ learner) per action token, k3 estimate"),
    "policy/ratio": Metric("", "Mean probability ratio of the policy being trained to the one that the loss compares with"),
    "policy/ratio_max": Metric("", "Largest such ratio of a token"),
    "policy/clip_low": Metric("", "Share of action tokens clipped from below"),
    "policy/clip_high": Metric("", "Share of action tokens clipped from above"),
    "policy/kl_behavior": Metric("nats", "KL of the policy against the one that sampled, per action token"),
    "policy/kl_old": Metric("nats", "KL of the policy against itself at the start of the step, per action token"),
    "policy/entropy": Metric("nats", "Entropy of the policy per action token"),
    "kl/reference": Metric("nats", "KL of the policy against the reference model, per action token"),
    "correction/ratio": Metric("", "Mean ratio of learner to behaviour policy (off-policy correction)"),
    "correction/ratio_max": Metric("", "Largest such ratio of a token"),
    "correction/weight": Metric("", "Mean importance weight after capping or masking"),
    "correction/weight_sq": Metric("", "Mean squared importance weight"),
    "correction/changed": Metric("", "Share of action tokens whose weight was capped or masked"),
    "correction/undefined": Metric("", "Share of action tokens whose ratio is no number"),
    "advantage/mean": Metric("", "Mean advantage over action tokens"),
    "advantage/std": Metric("", "Standard deviation of the advantage"),
    "advantage/abs_max": Metric("", "Largest |advantage|"),
    "pairs/accuracy": Metric("", "Share of preference pairs that the policy orders as the rewards do"),
    "pairs/margin": Metric("", "Mean margin of the preferred sample over the other, as the loss sees it"),
    "pairs/chosen": Metric("nats", "Mean log-ratio of the preferred samples to the reference"),
    "pairs/rejected": Metric("nats", "Mean log-ratio of the other samples; suppression shows when this and pairs/chosen both fall"),
    "value/mean": Metric("", "Mean predicted value"),
    "value/loss": Metric("", "Loss of the value model"),
    "value/return": Metric("", "Mean return that the value model is fitted to"),
    "value/return_sq": Metric("", "Mean squared return"),
    "value/error": Metric("", "Mean return minus value"),
    "value/error_sq": Metric("", "Mean squared error of the value model"),
    "value/clip": Metric("", "Share of action tokens whose value update was clipped"),
    "value/explained_variance": Metric("", "Of the returns by the value model"),
    "value/grad_norm": Metric("", "Gradient norm of the value model before clipping"),
    "learner/loss": Metric("", "Loss that was minimised"),
    "learner/grad_norm": Metric("", "Global gradient norm before clipping, mean over the step's updates"),
    "learner/lr": Metric("", "Learning rate"),
    "learner/updates": Metric("updates", "Optimiser updates in the step"),
    "learner/trajectories": Metric("trajectories", "Trajectories trained on"),
    "learner/action_tokens": Metric("tokens", "Tokens trained on"),
    "learner/tokens": Metric("tokens", "Tokens computed, prompts included, times epochs"),
    "learner/padding_share": Metric("", "Padding among the tokens computed"),
    "learner/busy_s": Metric("s", "Seconds the learner computed"),
    "learner/wait_s": Metric("s", "Seconds the learner waited for a batch"),
    "learner/frames": Metric("frames", "Frames computed (environment agents)"),
    "learner/frames_per_s": Metric("frames/s", "Frames computed per second of learner work (environment agents)"),
    "learner/tokens_per_s": Metric("tokens/s", "Tokens computed per second of learner work"),
    "reference/busy_s": Metric("s", "Seconds the reference model computed"),
    "rollout/handed_over_bytes": Metric("bytes", "GPU memory that colocated engines gave up for the learner's step, measured"),
    "rollout/tokens": Metric("tokens", "Action tokens (of an environment agent: frames) sampled in the step"),
    "rollout/tokens_per_s": Metric("tokens/s", "Action tokens sampled per second of the step"),
    "rollout/length_mean_tokens": Metric("tokens", "Mean action tokens of a trajectory"),
    "rollout/length_max_tokens": Metric("tokens", "Longest trajectory in action tokens"),
    "rollout/truncated_share": Metric("", "Trajectories that ran into the token limit"),
    "rollout/aborted_share": Metric("", "Trajectories that were cancelled"),
    "rollout/turns_mean": Metric("turns", "Mean policy turns of an episode"),
    "rollout/engine_steps": Metric(
        "steps", "Calls of the engines' step, summed over engines: decoding steps where the engine shares the worker's process"
    ),
    "rollout/busy_s": Metric("s", "Seconds the engines generated, summed over engines"),
    "rollout/wait_s": Metric("s", "Seconds the engines had nothing to do, summed over engines"),
    "inference/busy_s": Metric("s", "Environment agents: seconds that inference actors computed, summed over actors"),
    "inference/passes": Metric("passes", "Forward passes of the inference actors"),
    "inference/steps": Metric("steps", "Environment steps that those passes served"),
    "rollout/workers_count": Metric("workers", "Rollout workers alive"),
    "rewards/busy_s": Metric("s", "Seconds spent scoring"),
    "rewards/wait_s": Metric("s", "Seconds the scorers had nothing to do"),
    "rewards/latency_mean_s": Metric("s", "Mean time of one verifier call"),
    "rewards/failed_count": Metric("samples", "Samples without a usable score in the step"),
    "feedback/asked_count": Metric("questions", "Distinct questions sent to a judge since the run began"),
    "feedback/labelled_count": Metric("questions", "Questions with a label"),
    "feedback/failed_count": Metric("questions", "Questions without a usable answer in all attempts; they have no label"),
    "feedback/evicted_count": Metric("questions", "Times a waiting question lost its place to a more urgent one"),
    "feedback/forgotten_count": Metric("questions", "Questions and texts that fell out of memory without a label"),
    "feedback/refused_count": Metric("questions", "Questions that are none: equal texts, too long a text"),
    "feedback/backlog_questions": Metric("questions", "Questions that wait"),
    "feedback/known_questions": Metric("questions", "Questions without a label that are remembered"),
    "feedback/in_flight_questions": Metric("questions", "Questions at the judge"),
    "feedback/attempts_count": Metric("attempts", "Attempts since the annotator started"),
    "feedback/latency_p50_s": Metric("s", "Median time of the newest answers"),
    "feedback/latency_p95_s": Metric("s", "95th percentile of the time of the newest answers"),
    "feedback/tokens": Metric("tokens", "Tokens of prompts and answers since the run began"),
    "feedback/cost_usd": Metric("USD", "Money spent on answers since the run began"),
    "feedback/version": Metric("", "Id of the newest label that readers see"),
    "feedback/degraded_bool": Metric("", "1 while no question can be answered: no server, breaker open, budget spent"),
    "feedback/breaker_open_bool": Metric("", "1 while the circuit breaker keeps questions back"),
    "feedback/breaker_opened_count": Metric("times", "How often the circuit breaker opened"),
    "feedback/budget_spent_bool": Metric("", "1 when the next question might exceed the budget"),
    "feedback/restarts_count": Metric("times", "How often the annotator was started again"),
    "sync/version": Metric("", "Weight version after the step"),
    "sync/total_s": Metric("s", "Weight update, from packing to the last engine's proof"),
    "sync/paused_s": Metric("s", "Longest pause of an engine's generation"),
    "sync/bytes": Metric("bytes", "Bytes of one weight update"),
    "sync/bytes_per_s": Metric("bytes/s", "Achieved rate of the weight update"),
    "sync/canary_gap_nats": Metric("nats", "Mean |engine − learner| log-probability of the canary prompt"),
    "sync/canary_moved_nats": Metric("nats", "Mean change of the canary's log-probabilities since the last update"),
    "batch/groups": Metric("groups", "Groups in the batch"),
    "batch/trajectories": Metric("trajectories", "Trajectories trained on"),
    "reward/mean": Metric("", "Mean aggregated reward of the samples trained on"),
    "reward/std": Metric("", "Standard deviation of the aggregated reward"),
    "batch/accuracy": Metric("", "Samples of the batch that count as correct"),
    "batch/zero_variance_share": Metric("", "Groups whose samples all have one reward"),
    "batch/staleness_mean_versions": Metric("versions", "Mean staleness of the batch's groups"),
    "batch/staleness_max_versions": Metric("versions", "Largest staleness of the batch's groups"),
    "buffer/restarts_count": Metric("times", "How often the buffer died and went on from its journal"),
    "buffer/live_groups": Metric("groups", "Admitted and not finished"),
    "buffer/queued_groups": Metric("groups", "Prompts that wait for a rollout worker"),
    "buffer/in_flight_groups": Metric("groups", "Prompts being generated"),
    "buffer/unscored_groups": Metric("groups", "Finished groups that wait for rewards"),
    "buffer/ready_groups": Metric("groups", "Groups ready for the learner"),
    "buffer/leased_groups": Metric("groups", "Groups at the learner"),
    "buffer/parked_groups": Metric("groups", "Trained once into weights that were lost, waiting to be trained again"),
    "buffer/trained_groups": Metric("groups", "Groups trained since the run began"),
    "buffer/dropped_groups": Metric("groups", "Groups dropped since the run began"),
    "buffer/held_bytes": Metric("bytes", "Payload held by the buffer"),
    "buffer/full_bool": Metric("", "1 while the buffer is full and leases no prompts"),
    "buffer/times_full_count": Metric("times", "How often the buffer became full"),
    "buffer/reissued_count": Metric("leases", "Prompt leases that expired, failed or lost their worker, and were queued again"),
    "buffer/results_refused_count": Metric("groups", "Results that came second or too late"),
    "buffer/staleness_mean_versions": Metric("versions", "Mean staleness of all groups trained"),
    "step/total_s": Metric("s", "One step, end to end"),
    "step/tokens_per_s": Metric("tokens/s", "Action tokens (of an environment agent: frames) trained on per second of the whole step"),
    "step/generate_wait_s": Metric("s", "The driver's wait for a batch"),
    "step/learn_s": Metric("s", "The driver's wait for the learner"),
    "step/sync_s": Metric("s", "The driver's wait for the weight update"),
    "step/hand_over_s": Metric("s", "Colocated engines falling asleep before the learner's step"),
    "step/save_s": Metric("s", "The driver's wait for a checkpoint"),
    "step/evaluate_s": Metric("s", "The driver's wait for an evaluation"),
    "step/driver_cpu_s": Metric("s", "Processor time of the driver's own process"),
    "archive/bytes": Metric("bytes", "Trajectories written to disk in the step before"),
    "archive/lost_steps": Metric("steps", "Steps whose trajectories died with their process or node before they were written"),
    "archive/cpu_s": Metric("s", "Processor time of writing them"),
    "archive/forgotten_groups": Metric("groups", "Dropped groups that were counted but not written"),
    "checkpoint/paused_s": Metric("s", "Time that training stood still for the newest commit, on the slowest learner rank"),
    "checkpoint/write_s": Metric("s", "From the learner's state to a commit that is safe on disk, beside training"),
    "checkpoint/bytes": Metric("bytes", "Learner state in the newest commit"),
    "checkpoint/failed_count": Metric("commits", "Commits that could not be written since the run was started; older ones are good"),
    "store/used_bytes": Metric("bytes", "Object store in use"),
    "store/fullest_share": Metric("", "Share of the object store in use on the node where it is largest"),
    "store/pressure_bool": Metric("", "1 while rollout is held back because the object store or the buffer is more than 80 % full"),
    "telemetry/spans_lost_count": Metric("spans", "Spans that fell out of a recorder before they were drained"),
}

FAMILIES: dict[str, Metric] = {
    "episode/": Metric(
        "", "Environment agents: mean over the last 100 finished episodes: return, length (steps), and what the environment counts"
    ),
    "intrinsic/": Metric("", "Environment agents: version and number of labels, share of frames with one, share whose rating changed"),
    "agent/": Metric("", "Environment agents: frames trained on and episodes finished"),
    "reward_model/": Metric("", "A reward model's data, fit and held-out quality: reward_model/<name>/<quantity>"),
    "reward/": Metric("", "Mean of one reward component over the batch: reward/<component>"),
    "method/": Metric("", "What a method shows of itself: quantiles, targets, selected shares (algorithms/)"),
    "eval/": Metric("", "Evaluation on held-out prompts: eval/<task>/<quantity>"),
    "buffer/dropped/": Metric("groups", "Groups dropped since the run began, by reason"),
    "buffer/staleness/": Metric("groups", "Groups trained since the run began, by staleness in versions"),
    "buffer/failed_scores/": Metric("samples", "Failed scores since the run began, by component"),
    "feedback/failed/": Metric("questions", "Questions that failed for good, by kind of the last error"),
    "feedback/errors/": Metric("attempts", "Attempts without a usable answer since the annotator started, by kind of error"),
    "memory/": Metric("bytes", "Resident memory by role: memory/<role>_bytes"),
}


def check_name(name: str) -> None:
    """Raises `ValueError` with the nearest known name."""
    if name not in METRICS and not any(name.startswith(prefix) and name != prefix for prefix in FAMILIES):
        near = get_close_matches(name, METRICS, n=1)
        raise ValueError(f"metric {name!r} is not in telemetry/metrics.py" + (f"; did you mean {near[0]!r}?" if near else ""))


class Sink(Protocol):
    def write(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class MetricsWriter:
    """Checks names and hands every write to all sinks. Owned by one thread."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)
        self._checked: set[str] = set()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Values are anything that `float` takes. Raises `ValueError` for an unknown name; sinks raise `StorageError`."""
        for name in metrics.keys() - self._checked:
            check_name(name)
            self._checked.add(name)
        values, now = {name: float(value) for name, value in metrics.items()}, time.time()
        for sink in self._sinks:
            sink.write(step, now, values)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
