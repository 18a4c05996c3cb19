"""Intrinsic reward from messages (ONI, arXiv 2410.23022, section 3): ``r_t = a·clip(s·r_ext, ±c) + b·r̂(o_t)·N_t^-β``.

``r̂`` belongs to the message of the observation that was acted in; ``N_t`` is its number of sightings in the running episode. Every
rating is computed once per distinct message and spread over the frames by look-up: no Python runs per frame.

Legend of shapes: ``T`` steps, ``B`` environments, ``M`` distinct messages, ``D`` dimensions of a text vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from rayrl.algorithms.running_stats import RunningStats
from rayrl.types import FloatArray, IntArray

Hashes = NDArray[np.uint64]
_TABLE = 4096
"""Counts below this are looked up; an episode rarely shows a message more often."""


def extrinsic(rewards: FloatArray, coef: float, scale: float, clip: float) -> FloatArray:
    """``a·clip(s·r_ext, -c, c)``, float32 of the same shape."""
    return (coef * np.clip(scale * rewards, -clip, clip)).astype(np.float32)


def novelty(counts: IntArray, exponent: float) -> FloatArray:
    """``N^-β`` for sightings N >= 1, float32 of the same shape; 0 where there is no message (N = 0)."""
    table = np.zeros(min(_TABLE, int(counts.max(initial=0)) + 1), np.float64)
    table[1:] = np.arange(1, len(table), dtype=np.float64) ** -exponent
    small = np.minimum(counts, len(table) - 1)
    found = table[small]
    beyond = counts > small
    if beyond.any():
        found[beyond] = counts[beyond].astype(np.float64) ** -exponent
    return found.astype(np.float32)


def per_message(hashes: Hashes, rate: Callable[[Hashes, NDArray[np.int64]], FloatArray]) -> FloatArray:
    """float32, the shape of ``hashes``: ``rate(distinct uint64[M], frames int64[M]) -> float32[M]`` spread over the frames."""
    distinct, places, frames = np.unique(hashes.ravel(), return_inverse=True, return_counts=True)
    return rate(distinct, frames).astype(np.float32)[places].reshape(hashes.shape)


def retrieval(labels: FloatArray) -> FloatArray:
    """The label itself; 0 where there is none (NaN)."""
    return np.nan_to_num(labels, nan=0.0).astype(np.float32)


def classification(probabilities: FloatArray, threshold: float) -> FloatArray:
    """1 where the probability of the positive class is strictly above ``threshold``, else 0 (NaN: not rated, 0)."""
    return (probabilities > threshold).astype(np.float32)


def ranking(scores: FloatArray, stats: RunningStats, threshold: float) -> FloatArray:
    """``z·1[z > threshold]`` of the normalised score ``z = (R - μ) / σ``; 0 where there is no score (NaN)."""
    z = stats.normalize(scores)
    return np.where(z > threshold, z, 0.0).astype(np.float32)


DIMENSIONS = 4096


def text_vectors(texts: Sequence[str], dimensions: int = DIMENSIONS) -> FloatArray:
    """float32[M, D]: bags of hashed words and their character trigrams, each row of length 1 (or 0 for a text without letters).

    A bag of sub-word units as in fastText (Bojanowski et al. 2017), with the units' own hashes for coordinates instead of trained
    vectors (Weinberger et al. 2009): it needs no download, and knows spelling, not meaning.
    """
    rows = np.zeros((len(texts), dimensions), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in re.findall(r"[a-z0-9]+", text.lower()):
            marked = f"<{word}>"
            for unit in (marked, *(marked[i : i + 3] for i in range(len(marked) - 2))):
                key = xxhash.xxh3_64_intdigest(unit.encode())
                row[key % dimensions] += 1.0 if key >> 63 else -1.0
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def cosine(vectors: FloatArray, goal: FloatArray, threshold: float) -> FloatArray:
    """Cosine of ``vectors`` [M, D] to ``goal`` [D] (rows of `text_vectors`); 0 where it is below ``threshold``."""
    similarity = vectors @ goal
    return np.where(similarity < threshold, 0.0, similarity).astype(np.float32)
