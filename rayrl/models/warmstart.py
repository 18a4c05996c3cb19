"""Starting policies: a tiny model that adds two-digit numbers as a careless student does, or does another task. Nothing is downloaded.

`build` supervises a fresh model for about a minute on the demonstrations of a student (`students`), such as ``37+48=`` ->
``7+8=15,3+4+1=8->85``: units, tens plus carry, answer. The adder often forgets the carry and often loses the first digit of a
three-digit answer, so the policy knows every step of the procedure and prefers wrong ones. Its greedy answers are right about one
time in four, while sampling finds the right answer in most groups of eight: a job that a verifier's reward can finish and
imitation cannot.

Only the problems that the caller passes are ever shown; pass training problems, and the held-out ones stay unseen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from rayrl.errors import StorageError
from rayrl.models import tiny
from rayrl.models.students import Habits, completion

_MARKER = "warmstart.json"
_IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """How the student is taught; together with seed and problems it determines the checkpoint."""

    shape: tiny.TinyShape = tiny.SMALL
    steps: int = 400
    """Optimiser steps."""
    batch: int = 64
    """Demonstrations per step, each drawn afresh."""
    lr: float = 3e-3
    """Peak learning rate; linear warm-up over a tenth of the steps, and a cosine to zero."""
    habits: Habits = field(default_factory=Habits)


def build(
    folder: Path | str,
    problems: Sequence[tuple[str, str | None]],
    *,
    seed: int = 0,
    report: Callable[[str], None] = print,
    recipe: Recipe = Recipe(),
) -> Path:
    """Writes the warm-started model (float32) and its tokenizer as a Hugging Face checkpoint; returns the folder. ``problems`` are
    prompts with their ground truths.

    A finished folder of the same recipe, seed and problems is reused. The checkpoint appears under its name only when it is
    complete. Raises `StorageError` when ``folder`` holds something that is not a warm start.
    """
    folder = Path(folder)
    settings = dataclasses.asdict(recipe) | {"seed": seed, "problems": _digest(problems)}
    if _finished_settings(folder) == settings:
        report(f"warm start: {folder} is up to date")
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise StorageError(f"warm start: {folder} is not empty and is no warm start", "Choose another folder, or empty this one.")
    model = _supervise(list(problems), recipe, seed, report)
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    tiny.build_tokenizer().save_pretrained(draft)
    (draft / _MARKER).write_text(json.dumps(settings, indent=2))
    if folder.exists():
        shutil.rmtree(folder)
    draft.rename(folder)
    return folder


def _digest(problems: Sequence[tuple[str, str | None]]) -> str:
    return hashlib.sha256("\n".join(sorted(prompt for prompt, _ in problems)).encode()).hexdigest()


def _finished_settings(folder: Path) -> dict | None:
    marker = folder / _MARKER
    return json.loads(marker.read_text()) if marker.exists() else None


def _supervise(problems: list[tuple[str, str | None]], recipe: Recipe, seed: int, report: Callable[[str], None]) -> torch.nn.Module:
    """Maximum likelihood of freshly drawn demonstrations, on completion tokens only."""
    rng = random.Random(seed)
    tokenizer = tiny.build_tokenizer()
    model = tiny.build_model(recipe.shape, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.01)
    warm_up = max(recipe.steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * done / recipe.steps))
    )
    started = time.monotonic()
    for step in range(1, recipe.steps + 1):
        pairs = [(p, completion(p, truth, rng, recipe.habits)) for p, truth in rng.choices(problems, k=recipe.batch)]
        inputs, targets = _encode(pairs, tokenizer)
        logits = model(input_ids=inputs).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(recipe.steps // 10, 1) == 0:
            report(f"warm start: step {step}/{recipe.steps}  loss {loss.item():.3f} nats/token  {time.monotonic() - started:.0f} s")
    return model


def _encode(pairs: Sequence[tuple[str, str]], tokenizer) -> tuple[Tensor, Tensor]:
    """Right-padded ``inputs`` and next-token ``targets``, int64[B, T-1]; prompt and padding targets are ignored."""
    sequences = [[*tokenizer.encode(prompt + completion), tokenizer.eos_token_id] for prompt, completion in pairs]
    inputs = torch.full((len(pairs), max(map(len, sequences))), tokenizer.pad_token_id)
    targets = torch.full_like(inputs, _IGNORED)
    for row, (sequence, (prompt, _)) in enumerate(zip(sequences, pairs, strict=True)):
        inputs[row, : len(sequence)] = torch.tensor(sequence)
        targets[row, len(prompt) : len(sequence)] = inputs[row, len(prompt) : len(sequence)]
    return inputs[:, :-1], targets[:, 1:]
