"""How the reward components of a group become one reward per sample. numpy only: the buffer runs it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rayrl.types import FloatArray


def weighted_sum(components: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
    """``sum_c weights[c] * components[c]``: float32[n] from float32[n] per component.

    A failed score is never a number: pass only samples whose scores exist, or put the fallback value in their place. Raises
    `ValueError` for a value or a sum that is not finite, for components and weights that do not name the same things, and for
    lengths that differ.
    """
    if components.keys() != weights.keys() or not components:
        raise ValueError(f"components {sorted(components)} and weights {sorted(weights)} must name the same, at least one")
    names = sorted(components)  # a sum of floats depends on its order
    rows = np.stack([np.asarray(components[name], dtype=np.float64) for name in names])
    if not np.isfinite(rows).all():
        component, sample = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(f"component {names[component]!r} of sample {sample} is {rows[component, sample]}: a failed score is not a number")
    total = (np.array([weights[name] for name in names], dtype=np.float64) @ rows).astype(np.float32)
    if not np.isfinite(total).all():
        raise ValueError(f"the weighted sum of {names} overflows float32")
    return total
