"""What the numbers that a network puts out mean, what they are fitted to, and how good they are.

Every objective allows several heads on one trunk (an ensemble): each head sees its own bootstrap sample of the examples, drawn
from their content hash, so that heads disagree where there is little data.

Legend of shapes: ``B`` examples, ``N`` texts, ``H`` heads, ``C`` classes, ``O`` outputs of the network = H x width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rayrl.errors import ConfigError
from rayrl.reward_models import calibration, losses
from rayrl.reward_models.examples import Example, Label, Pair, Ranked
from rayrl.reward_models.losses import LossSum
from rayrl.types import FloatArray


class Objective(Protocol):
    width: int
    """Outputs per head."""
    example: type
    """`Label`, `Pair` or `Ranked`."""
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
            "decided": float(np.sum(preference != 0.5)),
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


class PlackettLuce:
    """Scores from ranked lists, by the likelihood of the whole order."""

    width, example, parameters = 1, Ranked, ()

    def __init__(self, centring: float = 0.0) -> None:
        """``centring``: weight of the mean squared score."""
        self._centring = centring

    def texts(self, examples: Sequence[Example]) -> list[str]:
        """Each text once, however many lists it is in."""
        return list(dict.fromkeys(text for e in examples for text in e.texts))

    def loss(self, outputs: Tensor, examples: Sequence[Example], weights: Tensor) -> LossSum:
        scores, order = self._lists(outputs.squeeze(-1), examples)
        heads = scores.shape[-1]
        flat = scores.permute(0, 2, 1).flatten(0, 1)
        loss = losses.plackett_luce(flat, order.repeat_interleave(heads, 0), weights.reshape(-1))
        if self._centring:
            listed = (order >= 0).to(scores.dtype)
            squares = (scores.square() * listed[..., None]).sum(1) / listed.sum(1, keepdim=True)
            loss = loss._replace(sum=loss.sum + self._centring * (squares * weights).sum())
        return loss

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def evaluate(self, outputs: Tensor, examples: Sequence[Example]) -> dict[str, float]:
        """``accuracy`` and ``calibration_error`` are of the comparisons that the lists imply."""
        scores, order = self._lists(outputs.squeeze(-1).mean(1, keepdim=True), examples)
        margins = [scores[i, a, 0] - scores[i, b, 0] for i, e in enumerate(examples) for a, b in combinations(range(len(e.texts)), 2)]
        margin = torch.stack(margins).double().cpu().numpy()
        return {
            "loss": losses.plackett_luce(scores[..., 0], order).mean.item(),
            "accuracy": calibration.pair_accuracy(margin, np.ones_like(margin)),
            "calibration_error": calibration.reliability(1 / (1 + np.exp(-margin)), np.ones_like(margin)).expected_error,
        }

    def _lists(self, scores: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Scores [B, K, H] of every list, best first, and int64[B, K] its places: 0, 1, ... and -1 where a list is shorter."""
        place = {text: i for i, text in enumerate(self.texts(examples))}
        longest = max(len(e.texts) for e in examples)
        rows = [[place[text] for text in e.texts] + [-1] * (longest - len(e.texts)) for e in examples]
        index = torch.tensor(rows, device=scores.device)
        order = torch.where(index >= 0, torch.arange(longest, device=scores.device), -1)
        return scores[index.clamp_min(0)], order


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

    def __init__(self, huber: float = 0.0) -> None:
        """``huber``: distance beyond which an error counts linearly, so that a judge's wild answers pull less; 0 squares them all."""
        self._huber = huber or None

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return [e.text for e in examples]

    def loss(self, outputs: Tensor, examples: Sequence[Example], weights: Tensor) -> LossSum:
        targets = torch.tensor([e.value for e in examples], dtype=outputs.dtype, device=outputs.device)
        predicted = outputs.squeeze(-1)
        return losses.regression(predicted, targets[:, None].expand_as(predicted), weights, huber=self._huber)

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
    "plackett_luce": PlackettLuce,
    "classification": Classification,
    "regression": Regression,
    "gaussian": Gaussian,
}


def build(
    name: str, *, classes: int = 2, class_balance: bool = False, centring: float = 0.0, ties: str = "half", huber: float = 0.0
) -> Objective:
    """Raises `ConfigError` for an objective that does not exist."""
    if name == "ranking":
        return Ranking(centring, ties)
    if name == "classification":
        return Classification(classes, class_balance)
    if name == "plackett_luce":
        return PlackettLuce(centring)
    if name == "regression":
        return Regression(huber)
    if name == "gaussian":
        return Gaussian()
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
