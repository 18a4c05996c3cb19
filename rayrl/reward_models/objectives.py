"""What the numbers that a network puts out mean, what they are fitted to, and how good they are.

Every objective allows several heads on one trunk (an ensemble): each head sees its own bootstrap sample of the examples, drawn
from their content hash, so that heads disagree where there is little data.

Legend of shapes: ``B`` examples, ``N`` texts, ``H`` heads, ``C`` classes, ``O`` outputs of the network = H x width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rayrl.errors import ConfigError
from rayrl.reward_models import calibration, losses
from rayrl.reward_models.examples import Example, Label, Pair
from rayrl.reward_models.losses import LossSum
from rayrl.types import FloatArray


class Objective(Protocol):
    width: int
    """Outputs per head."""
    example: type
    """`Label` or `Pair`."""
    parameters: Sequence[nn.Parameter]
    """What is fitted beside the network."""

    def texts(self, examples: Sequence[Example]) -> list[str]:
        """The texts to run through the network, in the order that `loss` and `evaluate` expect the outputs."""

    def loss(self, outputs: Tensor, examples: Sequence[Example], weights: Tensor) -> LossSum:
        """``outputs`` float[N, H, width], ``weights`` float[B, H]."""

    def scores(self, outputs: Tensor) -> Tensor:
        """float[N, H]: one number per text and head, larger is better."""

    def evaluate(self, outputs: Tensor, examples: Sequence[Example]) -> dict[str, float]:
        """Quality on examples that were not fitted, of the mean over heads. Names without prefix."""


class Ranking:
    """Scores from compared pairs, by Bradley–Terry."""

    width, example = 1, Pair

    def __init__(self, centring: float = 0.0, ties: str = "half") -> None:
        """``centring``: weight of the mean squared score. ``ties``: a tie is ``half`` a victory for each side, or an outcome of its own
        whose readiness is learned (``davidson``)."""
        self._centring = centring
        self.parameters = [nn.Parameter(torch.zeros(()))] if ties == "davidson" else []

    def texts(self, examples: Sequence[Example]) -> list[str]:
        """Each text once, however many pairs it is in: the samples of one prompt are compared with one another."""
        return list(dict.fromkeys(text for e in examples for text in (e.first, e.second)))

    def loss(self, outputs: Tensor, examples: Sequence[Example], weights: Tensor) -> LossSum:
        first, second = self._sides(outputs.squeeze(-1), examples)
        preference = torch.tensor([e.preference for e in examples], device=outputs.device)
        loss = self._likelihood(first, second, preference[:, None].expand_as(first), weights)
        if self._centring:
            both = losses.centring(first, weights).sum + losses.centring(second, weights).sum
            loss = loss._replace(sum=loss.sum + self._centring * both / 2)
        return loss

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def evaluate(self, outputs: Tensor, examples: Sequence[Example]) -> dict[str, float]:
        first, second = self._sides(outputs.squeeze(-1).mean(1), examples)
        margin = (first - second).double().cpu().numpy()
        preference = np.array([e.preference for e in examples])
        target = torch.from_numpy(preference).to(first)
        loss = self._likelihood(first, second, target, None)
        readiness = {"tie_log_nu": self.parameters[0].item()} if self.parameters else {}
        return readiness | {
            "loss": loss.mean.item(),
            "accuracy": calibration.pair_accuracy(margin, preference),
            "calibration_error": calibration.reliability(1 / (1 + np.exp(-margin)), preference).expected_error,
            "ties_share": float(np.mean(preference == 0.5)),
        }

    def _likelihood(self, first: Tensor, second: Tensor, preference: Tensor, weights: Tensor | None) -> LossSum:
        if self.parameters:
            flat = (first.reshape(-1), second.reshape(-1), preference.reshape(-1))
            return losses.davidson(*flat, self.parameters[0], None if weights is None else weights.reshape(-1))
        return losses.bradley_terry(first, second, preference, weights)

    def _sides(self, scores: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Scores of the first and of the second text of every pair, from those of `texts`."""
        place = {text: i for i, text in enumerate(self.texts(examples))}
        both = torch.tensor([(place[e.first], place[e.second]) for e in examples], device=scores.device)
        return scores[both[:, 0]], scores[both[:, 1]]


class Classification:
    """Classes by cross entropy. The score of a text is the probability of the last class (for two classes: of class 1)."""

    example, parameters = Label, ()

    def __init__(self, classes: int = 2, class_balance: bool = False) -> None:
        """``class_balance``: weigh each class by the inverse of its share in the minibatch."""
        self.width, self._class_balance = classes, class_balance

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return [e.text for e in examples]

    def loss(self, outputs: Tensor, examples: Sequence[Example], weights: Tensor) -> LossSum:
        labels = self._labels(examples)
        class_weights = None
        if self._class_balance:
            count = torch.bincount(labels, minlength=self.width)
            class_weights = (len(examples) / (count.clamp_min(1) * max(1, int((count > 0).sum())))).to(outputs)
        flat = outputs.reshape(-1, self.width)
        repeated = labels.to(outputs.device).repeat_interleave(outputs.shape[1])
        return losses.classification(flat, repeated, weights.reshape(-1), class_weights)

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)[..., -1]

    def evaluate(self, outputs: Tensor, examples: Sequence[Example]) -> dict[str, float]:
        probabilities = outputs.double().softmax(-1).mean(1).cpu().numpy()
        labels = self._labels(examples).numpy()
        shares = calibration.class_shares(labels, self.width)
        return {
            "loss": float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()),
            "accuracy": float(np.mean(probabilities.argmax(1) == labels)),
            "balanced_accuracy": calibration.balanced_accuracy(probabilities.argmax(1), labels),
            "calibration_error": calibration.top_reliability(probabilities, labels).expected_error,
            "positive_share": float(shares[-1]),
        }

    def _labels(self, examples: Sequence[Example]) -> Tensor:
        return torch.tensor([int(e.value) for e in examples])


class Regression:
    """Numbers by squared error. A network that was not fitted yet predicts about 0: bring scores to a scale of about 1."""

    width, example, parameters = 1, Label, ()

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return [e.text for e in examples]

    def loss(self, outputs: Tensor, examples: Sequence[Example], weights: Tensor) -> LossSum:
        targets = torch.tensor([e.value for e in examples], dtype=outputs.dtype, device=outputs.device)
        predicted = outputs.squeeze(-1)
        return losses.regression(predicted, targets[:, None].expand_as(predicted), weights)

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def evaluate(self, outputs: Tensor, examples: Sequence[Example]) -> dict[str, float]:
        predicted = outputs.squeeze(-1).mean(1).double().cpu().numpy()
        targets = np.array([e.value for e in examples])
        error = float(np.mean(np.square(predicted - targets)))
        return {"loss": 0.5 * error, "rmse": error**0.5, "correlation": calibration.correlation(predicted, targets)}


class Gaussian(Regression):
    """Numbers as a mean and a standard deviation per head, by likelihood: a head that is often wrong says so."""

    width = 2

    def loss(self, outputs: Tensor, examples: Sequence[Example], weights: Tensor) -> LossSum:
        targets = torch.tensor([e.value for e in examples], dtype=outputs.dtype, device=outputs.device)
        mean, raw = outputs.unbind(-1)
        return losses.gaussian(mean, raw, targets[:, None].expand_as(mean), weights)

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0]

    def deviations(self, outputs: Tensor) -> Tensor:
        """float[N, H]: how far each head expects to be off."""
        return losses.deviation(outputs[..., 1])

    def evaluate(self, outputs: Tensor, examples: Sequence[Example]) -> dict[str, float]:
        return super().evaluate(outputs[..., :1], examples) | {"deviation": float(self.deviations(outputs).mean())}


OBJECTIVES: Mapping[str, type] = {
    "ranking": Ranking,
    "classification": Classification,
    "regression": Regression,
    "gaussian": Gaussian,
}


def build(name: str, *, classes: int = 2, class_balance: bool = False, centring: float = 0.0, ties: str = "half") -> Objective:
    """Raises `ConfigError` for an objective that does not exist."""
    if name == "ranking":
        return Ranking(centring, ties)
    if name == "classification":
        return Classification(classes, class_balance)
    if name in ("regression", "gaussian"):
        return OBJECTIVES[name]()
    raise ConfigError(f"objective {name!r} does not exist", f"choose one of {', '.join(OBJECTIVES)}")


def bootstrap_weights(examples: Sequence[Example], heads: int) -> FloatArray:
    """float32[B, H]: how often each example is in each head's bootstrap sample (Poisson of mean 1, Oza and Russell 2001).

    A function of the example's content alone. One head sees every example once.
    """
    own = np.array([e.weight for e in examples], np.float32)[:, None]
    if heads == 1:
        return own
    keys = np.array([e.key for e in examples], np.uint64)
    uniform = np.stack([_mix(keys + np.uint64((head + 1) * 0x9E3779B97F4A7C15 % 2**64)) for head in range(heads)], 1) / 2.0**64
    drawn = np.searchsorted(_POISSON_CDF, uniform).astype(np.float32)
    return own * drawn


_POISSON_CDF = np.cumsum([np.exp(-1.0) / np.prod(np.arange(1, k + 1)) if k else np.exp(-1.0) for k in range(8)])


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
