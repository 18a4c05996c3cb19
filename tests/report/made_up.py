"""Run folders without a run: a little of everything that a report shows, as large or as hostile as a test wants."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrl.agent_types import Fragment
from rayrl.data import arrow, fragment_arrow
from rayrl.telemetry.events import EventLog
from rayrl.telemetry.fragments import FragmentWriter
from rayrl.telemetry.jsonl import JsonlSink
from rayrl.telemetry.perfetto import TraceFile
from rayrl.telemetry.rollouts import GroupRows, RolloutWriter, Tokens
from rayrl.telemetry.spans import Span
from rayrl.types import FinishReason, GroupInfo, RewardRecord, RewardStatus, Trajectory, VersionSpan

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'><b>bold</b> &amp; {{7*7}} \x1b[31m \u202e"
START_S = 1_700_000_000.0


def made_up_run(
    path: Path, *, steps: int = 6, groups: int = 4, samples: int = 4, seed: int = 0, text: str = "", state: str = "finished"
) -> Path:
    """Writes a run that learns. ``text`` is put into everything that a policy, a data set or a judge could have written."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    name = path.name + text
    config = {
        "run": {"name": name, "dir": str(path), "seed": seed, "steps": steps},
        "buffer": {"max_staleness": 1},
        "evaluation": {"component": "correct"},
        "data": {"system_prompt": text},
    }
    (path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (path / "config_origins.json").write_text(json.dumps({"run.name": "command line", "run.seed": "default"}))
    status = {"run": name, "recipe": "made_up", "step": steps, "target": steps, "pid": 1, "host": "elsewhere", "state": state}
    (path / "status.json").write_text(json.dumps(status))
    events = EventLog(path / "events.jsonl")
    events.write("began", "made_up" + text, 0)
    events.write("replaced", "rollout-0: died" + text, 1)
    metrics, trace = JsonlSink(path / "metrics.jsonl"), TraceFile(path / "spans.json")
    _evaluation(path, 0, 0.25, text)
    metrics.write(0, START_S, {"eval/accuracy": 0.25})
    for step in range(1, steps + 1):
        metrics.write(step, START_S + 2 * step, _metrics(step, steps, rng))
        start = int((START_S + 2 * step - 2) * 1e9)
        trace.append(
            {
                "driver": [Span("collect", start, 1_200_000_000, 1, None)],
                "rollout-0": [Span("generate", start, 1_200_000_000, 1, None)],
                "learner-0": [Span("step", start + 1_200_000_000, 700_000_000, 1, None)],
            }
        )
    _evaluation(path, steps, 0.9, text)
    metrics.write(steps, START_S + 2 * steps, {"eval/accuracy": 0.9})
    metrics.close()
    trace.close()
    _trajectories(path / "rollouts", steps, groups, samples, rng, text)
    return path


def _metrics(step: int, steps: int, rng: np.random.Generator) -> dict[str, float]:
    reward = 0.3 + 0.5 * step / steps + 0.05 * rng.standard_normal()
    return {
        "reward/mean": reward,
        "reward/correct": reward,
        "reward/style": 1 - reward / 2,
        "batch/accuracy": reward,
        "policy/entropy": 1 / step,
        "mismatch/abs": 1e-3,
        "learner/tokens_per_s": 9000.0,
        "learner/busy_s": 0.7,
        "rollout/busy_s": 1.2,
        "rollout/wait_s": 0.8,
        "batch/staleness_mean_versions": 0.5,
        "batch/staleness_max_versions": 1.0,
        "rollout/length_mean_tokens": 7.0,
        "memory/learner_bytes": 8e8,
        "memory/rollout_bytes": 2e9,
        "sync/version": float(step),
        "sync/bytes": 3e6,
        "step/total_s": 2.0,
        "step/generate_wait_s": 1.2,
        "step/learn_s": 0.7,
        "step/sync_s": 0.1,
        "step/tokens_per_s": 400.0,
    }


def _evaluation(path: Path, step: int, accuracy: float, text: str) -> None:
    sample = {"prompt": "1+1=" + text, "completion": "2" + text, "ground_truth": "2", "correct": accuracy > 0.5}
    row = {"step": step, "accuracy": accuracy, "by_task": {"sums": accuracy}, "count": 200, "failed": 0, "samples": [sample]}
    with (path / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _trajectories(folder: Path, steps: int, groups: int, samples: int, rng: np.random.Generator, text: str) -> None:
    """The first step is built trajectory by trajectory; the others are copies with other numbers: 10^5 take seconds."""
    writer = RolloutWriter(folder)
    first = writer.write(1, 0, [_group(g, samples, rng, text) for g in range(groups)], arrow.encode_records)
    table = pq.read_table(first)
    n = table.num_rows
    for step in range(2, steps + 1):
        ordinals = table["ordinal"].to_numpy() + groups * (step - 1)
        changed = {
            "step": pa.array(np.full(n, step, np.int64)),
            "version": pa.array(np.full(n, step - 1, np.int64)),
            "reward": pa.array((rng.random(n) < 0.3 + 0.6 * step / steps).astype(np.float32)),
            "staleness": pa.array(rng.integers(0, 2, n).astype(np.int32)),
            "length": pa.array(rng.integers(3, 60, n).astype(np.int32)),
            "ordinal": pa.array(ordinals),
            "id": pa.array([f"{o}/{s}" for o, s in zip(ordinals, table["sample"].to_pylist(), strict=True)]),
        }
        for name, column in changed.items():
            table = table.set_column(table.schema.get_field_index(name), name, column)
        pq.write_table(table, folder / f"step-{step:08d}.parquet")


def _group(ordinal: int, n: int, rng: np.random.Generator, text: str) -> GroupRows:
    made = []
    for sample in range(n):
        length = int(rng.integers(5, 9))
        mask = np.arange(length + 3) >= 3
        made.append(
            Trajectory(
                id=f"{ordinal}/{sample}",
                ordinal=ordinal,
                sample=sample,
                token_ids=rng.integers(0, 30, length + 3).astype(np.int32),
                action_mask=mask,
                behavior_logprobs=np.where(mask, -rng.random(length + 3), 0).astype(np.float32),
                version_spans=(VersionSpan(0, 3, 5), VersionSpan(1, 5, length + 3)),
                turns=((3, length + 3),),
                finish_reason=FinishReason.LENGTH if sample == 1 else FinishReason.STOP,
                task="sums" if ordinal % 2 else "products",
                text=f"answer {ordinal}-{sample} {text}",
                prompt_text=f"question {ordinal % 3} {text}",
                ground_truth="42",
                metadata={"note": text} if text else {},
            )
        )
    payload = arrow.encode(made)
    rewards = np.array([float(s % 2) for s in range(n)], np.float32)
    lengths = np.array([t.num_tokens for t in made], np.int32)
    actions = np.array([t.num_action_tokens for t in made], np.int32)
    style = {"producer": "judge" + text, "producer_version": "v1", "cost_usd": 0.001, "answer": "I think " + text}
    records = [
        [RewardRecord("correct", RewardStatus.SCORED, float(r), producer="exact"), RewardRecord("style", RewardStatus.SCORED, 0.5, **style)]
        for r in rewards
    ]
    spread = [-np.linspace(0, 1, a, dtype=np.float32) for a in actions]
    tokens = [Tokens(np.full(len(s), r - 0.5, np.float32), s) for s, r in zip(spread, rewards, strict=True)]
    info = GroupInfo(ordinal, None, 100, lengths, actions, oldest_version=0, newest_version=1)
    dropped = ordinal == 1
    return GroupRows(
        info,
        payload,
        None if dropped else rewards,
        None if dropped else np.ones(n, bool),
        reason="zero_variance" if dropped else "",
        components={"correct": rewards, "style": np.full(n, 0.5, np.float32)},
        records=records,
        tokens=[None] * n if dropped else tokens,
    )


def made_up_fragment(ordinal: int, steps: int = 16, envs: int = 3, text: str = "") -> Fragment:
    """An agent that walks through a room of a dungeon and reads what is written there."""
    chars = np.full((steps + 1, envs, 12, 12), ord("."), np.uint8)
    chars[:, :, 0], chars[:, :, -1] = ord("-"), ord("-")
    colors = np.full(chars.shape, 7, np.uint8)
    messages = np.zeros((steps + 1, envs, 256), np.uint8)
    hashes, counts = np.zeros((steps, envs), np.uint64), np.zeros((steps, envs), np.int32)
    for t in range(steps + 1):
        chars[t, :, 5, 1 + t % 10], colors[t, :, 5, 1 + t % 10] = ord("@"), 15
        chars[t, :, 3, 3], colors[t, :, 3, 3] = ord("$"), 11
        said = f"You see here {t // 4} gold pieces. {text}".encode()[:256] if t % 4 else b""
        messages[t, :, : len(said)] = np.frombuffer(said, np.uint8)
        if t < steps and said:
            hashes[t], counts[t] = 1000 + t // 4, t % 4
    ends = np.zeros((steps, envs), bool)
    ends[-1, 0] = True
    return Fragment(
        ordinal=ordinal,
        observations={"chars": chars, "colors": colors, "message": messages},
        state=np.zeros((envs, 4), np.float32),
        actions=np.tile(np.arange(steps, dtype=np.int16)[:, None] % 8, (1, envs)),
        logprobs=np.full((steps, envs), -2.0, np.float32),
        rewards=np.tile((np.arange(steps) % 5 == 4).astype(np.float32)[:, None], (1, envs)),
        terminated=ends,
        truncated=np.zeros_like(ends),
        final_steps=np.zeros(0, np.int32),
        final_envs=np.zeros(0, np.int32),
        final_observations={},
        message_hash=hashes,
        message_count=counts,
        next_hash=hashes[-1],
        next_count=counts[-1] + 1,
        version_spans=(VersionSpan(0, 0, steps),),
    )


def add_episode(path: Path, step: int = 4, frames: int = 30) -> Path:
    """A watched episode with a whole terminal."""
    fragment = made_up_fragment(0, steps=frames, envs=1)
    chars = np.full((frames + 1, 1, 24, 80), ord(" "), np.uint8)
    colors = np.full(chars.shape, 7, np.int8)
    for t in range(frames + 1):
        chars[t, 0, 12, 40 + t], colors[t, 0, 12, 40 + t] = ord("@"), 15
        chars[t, 0, 23, :4] = np.frombuffer(f"T:{t:02}".encode(), np.uint8)
    shown = {**fragment.observations, "tty_chars": chars, "tty_colors": colors}
    told = {"intrinsic": np.full(frames, 0.5)}
    FragmentWriter(path / "episodes").write(step, step, fragment_arrow.encode(replace(fragment, observations=shown)), told)
    return path


def add_fragments(path: Path, steps: int = 3, text: str = "") -> Path:
    """Makes the run of ``path`` one of an environment agent."""
    for step in range(1, steps + 1):
        fragment = made_up_fragment(step, text=text)
        told = {"intrinsic": np.linspace(0, 1, fragment.frames)}
        FragmentWriter(path / "fragments").write(step, step - 1, fragment_arrow.encode(fragment), told)
    return path
