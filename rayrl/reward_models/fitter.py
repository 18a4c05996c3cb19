"""Fits a reward model to labels as they come: bounded data, a held-out share, so many gradient steps per arrival, versions.

No Ray, no clock, no threads. Everything that is drawn (minibatches, dropout) follows from the seed and the number of updates made,
so a fitter that was saved and loaded goes on as if nothing had happened.

A network is an `nn.Module` with ``outputs``, ``encode(texts) -> tensors`` and ``forward(**tensors) -> float32[N, outputs]``:
`models.char_cnn.CharCnn` or `models.reward_heads.SequenceScorer`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rayrl.algorithms.running_stats import RunningStats
from rayrl.config.schema import RewardModelConfig
from rayrl.errors import CheckpointError, Diverged
from rayrl.models.dropout import HeadDropout
from rayrl.reward_models import calibration
from rayrl.reward_models.examples import Example, ExampleSet
from rayrl.reward_models.objectives import Gaussian, Objective, bootstrap_weights
from rayrl.types import FloatArray

_WEIGHTS, _EXAMPLES, _STATE = "fitter.pt", "examples.parquet", "fitter.json"
_FORMAT = 1
_TEXTS_AT_ONCE = 256
_MEASURED = 512
"""Held-out examples that quality is measured on."""


class Scored(NamedTuple):
    """What a model says of N texts."""

    value: FloatArray
    """float32[N]: mean over heads."""
    spread: FloatArray
    """float32[N]: standard deviation over heads; 0 with one head."""


class Fitter:
    """A network, its optimiser and its examples. One thread owns it."""

    def __init__(
        self, network: nn.Module, objective: Objective, settings: RewardModelConfig, *, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        self.network, self.objective, self._settings, self._seed = network.to(device), objective, settings, seed
        self._device = torch.device(device)
        for parameter in objective.parameters:
            parameter.data = parameter.data.to(self._device)
        self.examples = ExampleSet(settings.capacity, settings.validation_share)
        self.stats = RunningStats()
        """Of the scores that were given out; see `normalized`."""
        fitted = [*network.parameters(), *objective.parameters]
        self._optimizer = torch.optim.AdamW(fitted, lr=settings.lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay)
        self.version = 0
        """Grows whenever weights changed: equal versions of one run are equal weights."""
        self.updates = 0
        """Gradient steps made."""
        self.owed = 0
        """Gradient steps that the labels so far ask for and that are not made yet."""
        self.arrived = 0
        """Labels taken in."""
        self._report: dict[str, float] = {}
        self._dropout = HeadDropout(network, settings.dropout, seed) if settings.dropout else None
        network.eval()

    # ---- learning

    def add(self, examples: Iterable[Example]) -> int:
        """Takes labels in; returns how many are about something new. Each call is one arrival: it asks for ``updates_per_arrival``
        steps, unless as many are owed already."""
        examples = list(examples)
        if not examples:
            return 0
        wrong = next((e for e in examples if not isinstance(e, self.objective.example)), None)
        if wrong is not None:
            raise ValueError(f"{type(self.objective).__name__} learns from {self.objective.example.__name__}, not {type(wrong).__name__}")
        new = self.examples.add(examples)
        self.arrived += len(examples)
        self.owed = max(self.owed, self._settings.updates_per_arrival, self._settings.warmup_updates - self.updates)
        return new

    def fit(self, max_updates: int | None = None) -> bool:
        """Makes the steps that are owed, at most ``max_updates``; True when weights changed. Waits for ``min_labels`` first.

        When nothing is owed any more, quality is measured on the newest held-out examples: those of the present policy.
        """
        steps = self.pending if max_updates is None else min(self.pending, max_updates)
        losses = [self._update() for _ in range(steps)]
        if not losses:
            return False
        self.owed -= steps
        self.version += 1
        self._report["fit_loss"] = float(np.mean(losses))
        if not self.owed:
            self.measure()
        return True

    def measure(self) -> None:
        """Quality on the held-out examples, into `metrics`; `fit` does it when nothing is owed any more."""
        self._report |= {f"held_out_{name}": value for name, value in self.evaluate(self.examples.validation[-_MEASURED:]).items()}

    def fit_epochs(self, epochs: int, report: Callable[[int, int, float], None] = lambda step, steps, loss: None) -> None:
        """Passes over all training examples, in a new order each, with a learning rate that falls linearly to 0: for data that is
        complete. ``report(step, steps, loss)`` is called after every step."""
        pool, size = self.examples.train, self._settings.batch_size
        per_epoch = math.ceil(len(pool) / size)
        for step in range(epochs * per_epoch):
            epoch, place = divmod(step, per_epoch)
            order = np.random.default_rng([self._seed, epoch]).permutation(len(pool))
            for group in self._optimizer.param_groups:
                group["lr"] = self._settings.lr * (1 - step / (epochs * per_epoch))
            loss = self._step([pool[i] for i in order[place * size : (place + 1) * size]], self._seed + step)
            report(step + 1, epochs * per_epoch, loss)
        self.version += 1

    @property
    def pending(self) -> int:
        """Gradient steps that `fit` would make now."""
        enough = len(self.examples) >= self._settings.min_labels and len(self.examples.train) > 0
        return self.owed if enough else 0

    @property
    def ready(self) -> bool:
        """Has it learned enough to be listened to?"""
        return self.version > 0 and self.updates >= self._settings.warmup_updates

    @property
    def trusted(self) -> bool:
        """Is it right about more held-out comparisons than ``min_accuracy``, beyond what their number leaves to chance?"""
        accuracy, decided = (self._report.get(f"held_out_{name}", 0.0) for name in ("accuracy", "decided"))
        return not self._settings.min_accuracy or calibration.lower_bound(accuracy, decided) > self._settings.min_accuracy

    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """Quality on ``examples``; empty without any."""
        if not examples:
            return {}
        return self.objective.evaluate(self._heads(self._run(self.objective.texts(examples))), examples)

    def metrics(self) -> dict[str, float]:
        """Of the last fit, and what there is. Names without prefix."""
        held_out = len(self.examples.validation)
        return self._report | {
            "version": float(self.version),
            "updates": float(self.updates),
            "labels": float(len(self.examples)),
            "held_out_labels": float(held_out),
            "evicted_labels": float(self.examples.evicted),
            "trusted_bool": float(self.trusted),
        }

    # ---- scoring

    def score(self, texts: Sequence[str]) -> Scored:
        """Under the present weights, not normalised."""
        heads = self.heads(texts)
        return Scored(heads.mean(1), heads.std(1))

    def heads(self, texts: Sequence[str]) -> FloatArray:
        """float32[N, H]: what each head says."""
        if not texts:
            return np.empty((0, self._settings.heads), np.float32)
        return self.objective.scores(self._heads(self._run(texts))).cpu().numpy().astype(np.float32)

    def estimates(self, texts: Sequence[str]) -> FloatArray:
        """float32[N, E]: what each head says, or each pass with dropout where the settings ask for passes."""
        if self._dropout is None or not self._settings.passes or not texts:
            return self.heads(texts)
        said = []
        for index in range(self._settings.passes):
            with self._dropout.thinned(index):
                said.append(self.heads(texts).mean(1))
        return np.stack(said, 1)

    def deviations(self, texts: Sequence[str]) -> FloatArray:
        """float32[N, H]: each head's own standard deviation (objective gaussian)."""
        if not texts:
            return np.empty((0, self._settings.heads), np.float32)
        assert isinstance(self.objective, Gaussian)
        return self.objective.deviations(self._heads(self._run(texts))).cpu().numpy().astype(np.float32)

    def normalized(self, values: FloatArray) -> FloatArray:
        """float32[N]: standardised by the running statistics of all values given out, these included."""
        return self.stats.update_and_normalize(values)

    # ---- state

    def save(self, folder: Path) -> None:
        """Weights, optimiser, examples, statistics and counters: everything that `load` needs to go on exactly."""
        folder.mkdir(parents=True, exist_ok=True)
        beside = [parameter.detach() for parameter in self.objective.parameters]
        tensors = {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(), "objective": beside}
        torch.save(tensors, folder / _WEIGHTS)
        self.examples.save(folder / _EXAMPLES)
        state = {
            "format": _FORMAT,
            "seed": self._seed,
            "version": self.version,
            "updates": self.updates,
            "owed": self.owed,
            "arrived": self.arrived,
            "evicted": self.examples.evicted,
            "stats": self.stats.state(),
            "report": self._report,
        }
        (folder / _STATE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Raises `CheckpointError` for a folder that `save` did not write, or that is of another network."""
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            tensors = torch.load(folder / _WEIGHTS, map_location=self._device, weights_only=True)
            if state["format"] != _FORMAT:
                raise ValueError(f"format {state['format']}, this rayrl reads {_FORMAT}")
            self.network.load_state_dict(tensors["network"])
            self._optimizer.load_state_dict(tensors["optimizer"])
            with torch.no_grad():
                for parameter, saved in zip(self.objective.parameters, tensors.get("objective", ()), strict=True):
                    parameter.copy_(saved)
            self.examples.load(folder / _EXAMPLES)
        except (OSError, ValueError, KeyError, RuntimeError) as e:
            raise CheckpointError(f"{folder} holds no reward model of this kind: {e}", "resume with the settings of the run") from e
        self._seed, self.version, self.updates = state["seed"], state["version"], state["updates"]
        self.owed, self.arrived, self.examples.evicted = state["owed"], state["arrived"], state["evicted"]
        self.stats.restore(state["stats"])
        self._report = state["report"]

    # ---- inside

    def _update(self) -> float:
        """One gradient step on a minibatch drawn from the training examples.

        Whole groups are drawn: k answers to one prompt are run once for all their comparisons (Ouyang et al. 2022, section 3.5).
        """
        rng = np.random.default_rng([self._seed, self.updates])
        groups, chosen = self.examples.train_groups, list[Example]()
        for i in rng.permutation(len(groups)):
            chosen += groups[i]
            if len(chosen) >= self._settings.batch_size:
                break
        return self._step(chosen[: self._settings.batch_size], int(rng.integers(2**63)))

    def _step(self, examples: Sequence[Example], dropout_seed: int) -> float:
        """One gradient step on ``examples``; returns the loss before it."""
        weights = torch.from_numpy(bootstrap_weights(examples, self._settings.heads)).to(self._device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dropout_seed)
            self.network.train()
            outputs = self._heads(self._forward(self.objective.texts(examples)))
            self.network.eval()
        loss = self.objective.loss(outputs, examples, weights).mean
        if not math.isfinite(loss.item()):
            raise Diverged(f"the reward model's loss is {loss.item()} in update {self.updates}", "lower its lr")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._settings.grad_clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._settings.grad_clip)
        self._optimizer.step()
        self.updates += 1
        return loss.item()

    def _heads(self, outputs: Tensor) -> Tensor:
        """float32[N, H, width] of float32[N, O]."""
        return outputs.unflatten(1, (self._settings.heads, self.objective.width))

    def _forward(self, texts: Sequence[str]) -> Tensor:
        inputs: Mapping[str, Any] = self.network.encode(texts)
        return self.network(**{name: tensor.to(self._device) for name, tensor in inputs.items()})

    @torch.no_grad()
    def _run(self, texts: Sequence[str]) -> Tensor:
        """Texts of similar length together, so that little is padded; results in the order of ``texts``."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [self._forward([texts[i] for i in order[at : at + _TEXTS_AT_ONCE]]) for at in range(0, len(order), _TEXTS_AT_ONCE)]
        outputs = torch.cat(parts)
        result = torch.empty_like(outputs)
        result[torch.tensor(order, device=outputs.device)] = outputs
        return result
