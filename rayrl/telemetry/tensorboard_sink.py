"""Metrics as TensorBoard event files under the names that every sink gets. The only module that imports tensorboardX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rayrl.errors import EnvironmentMissing
from rayrl.telemetry.files import storage_errors


class TensorboardSink:
    def __init__(self, folder: Path) -> None:
        """Adds a file to ``folder`` (a resumed run adds another). Raises `EnvironmentMissing`, `StorageError`."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            hint = 'pip install "rayrl[report]", or set telemetry.tensorboard=false'
            raise EnvironmentMissing("telemetry.tensorboard needs the package tensorboardX", hint) from error
        self._folder = folder
        with storage_errors(folder):
            self._writer = SummaryWriter(str(folder))

    def write(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Numbers that are not finite are left out, as in the other sinks."""
        with storage_errors(self._folder):
            for name, value in metrics.items():
                if math.isfinite(value):
                    self._writer.add_scalar(name, value, step, walltime=time_s)

    def close(self) -> None:
        with storage_errors(self._folder):
            self._writer.close()
