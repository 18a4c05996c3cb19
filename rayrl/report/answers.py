"""The five questions that a page about a run must answer, each in a sentence: did it learn, what did it write, who rewarded it, what
bounds it, did anything fail. And whether the reward can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rayrl.report.bounds import Phase
from rayrl.report.folder import RunData
from rayrl.report.index import Index
from rayrl.telemetry.console import percent

GOOD, NOTE, BAD = "good", "note", "bad"


class Answer(NamedTuple):
    question: str
    text: str
    mood: str
    """good, note or bad."""
    anchor: str
    """Section of the page that shows it."""


def answers(
    run: RunData, index: Index, rewarders: Sequence[dict[str, Any]], phases: Sequence[Phase], excerpts: Sequence[Any] = ()
) -> list[Answer]:
    return [
        _learned(run),
        _lived(run, excerpts) if excerpts else _wrote(index),
        _rewarded_agent(run) if excerpts else _rewarded(rewarders),
        Answer("What bounds it?", phases[0].text if phases else "No step was finished.", NOTE, "speed"),
        _failed(run, rewarders),
    ]


def _learned(run: RunData) -> Answer:
    question = "Did it learn?"
    points = [(e["step"], e["accuracy"]) for e in run.evaluations if isinstance(e.get("accuracy"), int | float)]
    if len(points) >= 2:
        (first, before), (last, after) = points[0], points[-1]
        count = run.evaluations[-1].get("count") or 0
        noise = 2 * float(np.sqrt(max(before * (1 - before), after * (1 - after), 1e-4) / max(count, 1)))
        mood = GOOD if after - before > noise else BAD if before - after > noise else NOTE
        word = {GOOD: "Yes", BAD: "It got worse", NOTE: "Not measurably"}[mood]
        gain = f"{100 * (after - before):+.1f} points"
        return Answer(
            question, f"{word}: held-out accuracy {percent(before)} → {percent(after)} ({gain}, steps {first} to {last}).", mood, "learning"
        )
    returns = [(e["step"], e["mean_return"]) for e in run.evaluations if isinstance(e.get("mean_return"), int | float)]
    if len(returns) >= 2:
        (first, before), (last, after) = returns[0], returns[-1]
        count = run.evaluations[-1].get("count") or 0
        text = f"Mean return of examined episodes {before:.3g} → {after:.3g} ({count} episodes each, steps {first} to {last})."
        return Answer(question, text, GOOD if after > before else BAD if after < before else NOTE, "learning")
    rows = [row["reward/mean"] for row in run.metrics if isinstance(row.get("reward/mean"), int | float)]
    if len(rows) >= 4:
        part = max(1, len(rows) // 5)
        before, after = float(np.mean(rows[:part])), float(np.mean(rows[-part:]))
        text = f"No two held-out evaluations; the training reward went from {before:.3f} to {after:.3f}."
        return Answer(question, text, GOOD if after > before else NOTE, "learning")
    return Answer(question, "Too few steps to say.", NOTE, "learning")


def _wrote(index: Index) -> Answer:
    question = "What did it write?"
    if not len(index):
        return Answer(question, "No trajectory was kept.", NOTE, "trajectories")
    length, finish = index.numbers["length"], index.texts["finish"]
    cut = float((finish.codes == finish.labels.index("length")).mean()) if "length" in finish.labels else 0.0
    text = f"{len(index):,} trajectories, median {np.median(length):.0f} tokens, {percent(cut)} cut off by the token limit."
    return Answer(question, text, BAD if cut > 0.2 else GOOD, "trajectories")


def _lived(run: RunData, excerpts: Sequence[Any]) -> Answer:
    """An environment agent writes nothing: what it did is shown in excerpts."""
    ends = run.evaluations[-1].get("ends", {}) if run.evaluations else {}
    told = ", ".join(f"{end} {count}" for end, count in sorted(ends.items(), key=lambda item: -item[1])[:3])
    text = f"{len(excerpts)} excerpts of its episodes are below" + (f"; examined episodes ended by: {told}." if told else ".")
    return Answer("What did it do?", text, GOOD, "episodes")


def _rewarded(rewarders: Sequence[dict[str, Any]]) -> Answer:
    question = "Who rewarded it?"
    if not rewarders:
        return Answer(question, "Nothing was recorded about rewards.", NOTE, "rewards")
    who = ", ".join(dict.fromkeys(f"{r['component']} by {r['producer']}" for r in rewarders[:4]))
    cost = sum(r["cost_usd"] or 0.0 for r in rewarders)
    text = f"{who}: {sum(r['records'] for r in rewarders):,} records" + (f", ${cost:,.2f} in all." if cost else ".")
    return Answer(question, text, GOOD, "rewards")


def _rewarded_agent(run: RunData) -> Answer:
    """Who rewards an environment agent stands in its settings: the environment, and an intrinsic reward where there is one."""
    kind = str(run.setting("agent.intrinsic.kind", "none"))
    parts = [row for row in run.metrics if isinstance(row.get("reward/extrinsic_part"), int | float)]
    mean = lambda key: float(np.mean([row.get(key) or 0.0 for row in parts])) if parts else 0.0
    text = f"The environment (mean {mean('reward/extrinsic_part'):.3g} a step)"
    text += "." if kind == "none" else f" and the intrinsic reward {kind!r} (mean {mean('reward/intrinsic_part'):.3g})."
    return Answer("Who rewarded it?", text, GOOD, "rewards")


def _failed(run: RunData, rewarders: Sequence[dict[str, Any]]) -> Answer:
    question = "Did anything fail?"
    if run.crash is not None:
        return Answer(question, f"Yes: {run.crash.get('error', '?')} at step {run.crash.get('step', '?')}.", BAD, "events")
    if run.state == "killed":
        return Answer(question, "The process ended without a last word.", BAD, "events")
    replaced = sum(event.get("kind") == "replaced" for event in run.events)
    failed = sum(r["failed"] for r in rewarders)
    records = sum(r["records"] for r in rewarders)
    found = [f"{replaced} worker{'s' * (replaced != 1)} replaced"] if replaced else []
    found += [f"{failed:,} of {records:,} scores failed"] if failed else []
    steps = f"{len(run.steps)} of {run.setting('run.steps', '?')} steps"
    end = {"running": f"still running, {steps} done", "interrupted": f"interrupted after {steps}"}.get(run.state, f"{steps} done")
    text = f"{', '.join(found)}; {end}." if found else f"No: {end}, no restart, no failed score."
    return Answer(question, text, NOTE if found or run.state == "interrupted" else GOOD, "events")


class Trust(NamedTuple):
    """Signs that the reward is not what it stands for."""

    sentences: list[str]
    points: dict[str, list[float]]
    """A sample of trained trajectories: length (tokens), reward, step."""


def trust(run: RunData, index: Index, seed: int = 0, most: int = 1500) -> Trust:
    sentences, rows = [], np.flatnonzero(index.trained & ~np.isnan(index.numbers["reward"])) if len(index) else np.empty(0, int)
    if len(rows) > 8:
        length, reward, step = (index.numbers[name][rows].astype(float) for name in ("length", "reward", "step"))
        late = step >= np.quantile(step, 2 / 3)
        found = _correlation(length[late], reward[late])
        if found is None:
            sentences.append("Length and reward: all late samples have one length or one reward, so they say nothing about each other.")
        else:
            strength = "hardly move together" if abs(found) < 0.2 else "rise together" if found > 0 else "move against each other"
            warning = " A policy that is paid by the token looks like this." if found > 0.5 else ""
            sentences.append(f"Length and reward {strength} in the last third of the run (correlation {found:+.2f}).{warning}")
    sentences.append(_proxy_against_gold(run))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    values = {name: index.numbers[name][rows].tolist() for name in ("length", "reward", "step")}
    return Trust(sentences, {name: [float(f"{x:.5g}") for x in column] for name, column in values.items()})


def _proxy_against_gold(run: RunData) -> str:
    """Whether the reward that is trained on and the held-out accuracy go the same way."""
    gold = [(e["step"], e["accuracy"]) for e in run.evaluations if isinstance(e.get("accuracy"), int | float)]
    rewards = [(row["step"], row["reward/mean"]) for row in run.metrics if isinstance(row.get("reward/mean"), int | float)]
    if len(gold) < 2 or len(rewards) < 4:
        return "Too few held-out evaluations to compare the reward with."
    middle = gold[len(gold) // 2][0] if len(gold) > 2 else gold[0][0]
    late = [a for s, a in gold if s >= middle]
    proxy = [r for s, r in rewards if s >= middle]
    part = max(1, len(proxy) // 4)
    up = float(np.mean(proxy[-part:]) - np.mean(proxy[:part])) if len(proxy) > 1 else 0.0
    gain = late[-1] - late[0] if len(late) > 1 else 0.0
    since = f"since step {middle}" if middle else "over the run"
    if up > 0.01 and gain < -0.01:
        return f"The reward rose {since} while held-out accuracy fell by {-100 * gain:.1f} points: look at what is being rewarded."
    return f"Reward and held-out accuracy do not contradict each other ({since}: reward {up:+.3f}, accuracy {100 * gain:+.1f} points)."


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and a.std() > 0 and b.std() > 0 else None
