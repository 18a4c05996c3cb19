"""How often each trajectory is trained on: ``f(BatchInputs, **knobs) -> int64[N]``, after advantages are known. numpy only.

0 leaves a trajectory out, 2 counts it twice: its loss and its share of the denominator are multiplied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayrl.algorithms.batch import BatchInputs


def none(inputs: BatchInputs) -> NDArray[np.int64]:
    """Everything that is kept, once."""
    return inputs.kept.astype(np.int64)
