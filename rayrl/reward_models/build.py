"""From settings to a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rayrl.config.schema import ModelConfig, RewardModelConfig
from rayrl.errors import ConfigError, ModelError
from rayrl.paths import nearest_files
from rayrl.reward_models import objectives
from rayrl.reward_models.fitter import Fitter

CHAR_CNN_FILE = "char_cnn.safetensors"


def build_fitter(settings: RewardModelConfig, model: ModelConfig, *, seed: int = 0, device: str = "cpu") -> Fitter:
    """A fitter with a fresh head. ``model`` gives the backbone where ``settings.path`` is null.

    Raises `ModelError` for a checkpoint that cannot be loaded, `ConfigError` for a network or objective that does not exist.
    """
    objective = objectives.build(
        settings.objective,
        classes=settings.classes,
        class_balance=settings.class_balance,
        centring=settings.centring,
        ties=settings.ties,
        huber=settings.huber,
    )
    return Fitter(build_network(settings, model, objective.width * settings.heads, seed), objective, settings, seed=seed, device=device)


def build_network(settings: RewardModelConfig, model: ModelConfig, outputs: int, seed: int) -> Any:
    if settings.network == "char_cnn":
        from rayrl.models.char_cnn import CharCnn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = CharCnn(outputs, ranking=settings.objective != "classification")
        return _with_weights(network, settings.path) if settings.path else network
    if settings.network == "transformer":
        from dataclasses import replace

        from rayrl.data.tokenizer import load_tokenizer
        from rayrl.models.reward_heads import SequenceScorer

        path = settings.path or model.path
        tokenizer = load_tokenizer(replace(model, path=path, tokenizer=None if settings.path else model.tokenizer))
        return SequenceScorer.load(
            path, tokenizer, outputs=outputs, max_length=settings.max_length, seed=seed, trust_remote_code=model.trust_remote_code
        )
    raise ConfigError(f"network {settings.network!r} does not exist", "choose transformer or char_cnn")


def _with_weights(network: Any, path: str) -> Any:
    """The character network that `rayrl train-rm` wrote to the folder ``path``."""
    from safetensors.torch import load_file

    file = Path(path) / CHAR_CNN_FILE
    if not file.is_file():
        raise ModelError(f"{path} holds no character network", nearest_files(file))
    try:
        network.load_state_dict(load_file(file))
    except RuntimeError as e:
        first = str(e).splitlines()[0]
        raise ModelError(f"{file} is of another network: {first}", "use the objective, classes and heads it was trained with") from e
    return network
