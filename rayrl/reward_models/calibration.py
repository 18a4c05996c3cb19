"""How good a reward model is on examples that it was not fitted to. numpy only.

Legend of shapes: ``B`` examples, ``C`` classes, ``n`` bins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rayrl.types import FloatArray, IntArray


class Reliability(NamedTuple):
    """A reliability diagram: where a model says p, how often is it right?"""

    count: IntArray
    """int[n]: examples per bin of equal width."""
    confidence: FloatArray
    """float[n]: mean predicted probability; NaN in an empty bin."""
    accuracy: FloatArray
    """float[n]: mean outcome; NaN in an empty bin."""

    @property
    def expected_error(self) -> float:
        """Expected calibration error (Naeini et al. 2015): |confidence - accuracy| weighted by count; NaN without examples."""
        total = self.count.sum()
        if total == 0:
            return float("nan")
        return float(np.nansum(self.count * np.abs(self.confidence - self.accuracy)) / total)


def reliability(probability: FloatArray, outcome: FloatArray, bins: int = 10) -> Reliability:
    """``probability`` float[B] in [0, 1] of an event and ``outcome`` float[B] in [0, 1] whether it came (1/2 for a tie)."""
    probability, outcome = np.asarray(probability, np.float64), np.asarray(outcome, np.float64)
    index = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, weights=probability, minlength=bins) / count
        accuracy = np.bincount(index, weights=outcome, minlength=bins) / count
    return Reliability(count, confidence, accuracy)


def top_reliability(probabilities: FloatArray, labels: IntArray, bins: int = 10) -> Reliability:
    """Of the predicted class: ``probabilities`` float[B, C], ``labels`` int[B] (Guo et al. 2017, section 2)."""
    top = probabilities.argmax(1)
    return reliability(probabilities.max(1), (top == labels).astype(np.float64), bins)


def balanced_accuracy(predicted: IntArray, labels: IntArray) -> float:
    """Mean over the classes that occur in ``labels`` of the share predicted right; NaN without labels."""
    classes = np.unique(labels)
    if not len(classes):
        return float("nan")
    return float(np.mean([(predicted[labels == c] == c).mean() for c in classes]))


def class_shares(labels: IntArray, classes: int) -> FloatArray:
    """float[C]: share of each class; NaN without labels."""
    count = np.bincount(np.asarray(labels, int), minlength=classes)
    return count / count.sum() if count.sum() else np.full(classes, np.nan)


def pair_accuracy(margin: FloatArray, preference: FloatArray) -> float:
    """Share of pairs whose sign is right. Ties (preference 1/2) do not count; a margin of exactly 0 is half right."""
    decided = preference != 0.5
    if not decided.any():
        return float("nan")
    agreement = np.sign(margin[decided]) * np.sign(preference[decided] - 0.5)
    return float(np.mean(0.5 + 0.5 * agreement))


def lower_bound(share: float, count: float) -> float:
    """Lower end of the one-sided 95 % interval for a share seen among ``count`` (Wilson 1927); 0 without any."""
    if not count or math.isnan(share):
        return 0.0
    z2 = 1.6449**2
    middle, spread = share + z2 / (2 * count), math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2)))
    return (middle - spread) / (1 + z2 / count)


def correlation(predicted: FloatArray, targets: FloatArray) -> float:
    """Pearson's r; NaN where one side does not vary."""
    if len(targets) < 2 or np.ptp(predicted) == 0 or np.ptp(targets) == 0:
        return float("nan")
    return float(np.corrcoef(predicted, targets)[0, 1])
