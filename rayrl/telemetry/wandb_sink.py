"""Metrics to Weights & Biases. The only module that imports wandb, and only when a sink is built.

Offline needs neither account nor network: `wandb sync` uploads the folder later. The console stays quiet.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rayrl.config.schema import TelemetryConfig
from rayrl.errors import ConfigError, EnvironmentMissing


class WandbSink:
    def __init__(self, telemetry: TelemetryConfig, name: str, folder: Path | str, config_yaml: str, run_id: str | None = None) -> None:
        """``folder``: the run folder; wandb writes to its subfolder ``wandb``. ``run_id``: of the run that is continued, if any.

        Raises `ConfigError` for a mode that needs no sink or a refused login, `EnvironmentMissing` without the package.
        """
        mode = telemetry.wandb
        if mode not in ("online", "offline"):
            raise ConfigError(f"telemetry.wandb is {mode!r}", "use online, offline or off")
        try:
            import wandb
        except ImportError as error:
            raise EnvironmentMissing("telemetry.wandb needs the package wandb", "pip install wandb, or set telemetry.wandb=off") from error
        self.run_id = run_id or secrets.token_hex(4)
        """Give it back on resume, and the curve goes on."""
        try:
            self._run = wandb.init(
                mode=mode,
                project=telemetry.wandb_project,
                name=name,
                id=self.run_id,
                resume="allow" if mode == "online" else None,
                dir=str(folder),
                config=OmegaConf.to_container(OmegaConf.create(config_yaml)),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise ConfigError(f"wandb does not start: {error}", "run `wandb login`, or set telemetry.wandb=offline") from error
        # Our own step axis: wandb's counter refuses the steps that a resumed run repeats.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        self._run.log({**metrics, "step": step, "time": time_s})

    def table(self, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Shows rows of plain values under ``name``."""
        import wandb

        texts = [[value if isinstance(value, int | float | bool) or value is None else str(value) for value in row] for row in rows]
        self._run.log({name: wandb.Table(columns=list(columns), data=texts, allow_mixed_types=True), "step": step})

    def attach(self, path: Path) -> None:
        """Keeps a file of the run with it, as an artefact."""
        import wandb

        artifact = wandb.Artifact(f"report-{self.run_id}", type="report")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        self._run.finish()
