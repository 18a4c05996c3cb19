"""Rewards that depend on the other samples: ``f(BatchInputs, **knobs) -> Shaped``, before any advantage. numpy only.

Every rank computes the same from the same metadata. A stateful shaping is ``f(state, BatchInputs, **knobs) -> (state, Shaped)``.
"""

from __future__ import annotations

from rayrl.algorithms.batch import BatchInputs, Shaped


def none(inputs: BatchInputs) -> Shaped:
    """The rewards as they are."""
    return Shaped(inputs.rewards)
