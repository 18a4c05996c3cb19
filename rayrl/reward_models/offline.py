"""A reward model from a file of preferences: `rayrl train-rm`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayrl.config.schema import ModelConfig, RewardModelConfig
from rayrl.errors import ConfigError, DataError, StorageError
from rayrl.reward_models import preferences
from rayrl.reward_models.build import CHAR_CNN_FILE, build_fitter
from rayrl.reward_models.examples import Pair
from rayrl.reward_models.fitter import Fitter
from rayrl.reward_models.robust import quality, second_stage

REPORT = "reward_model.json"
"""Settings, sizes and held-out quality, beside the checkpoint."""
_PROGRESS_LINES = 10


def train(
    source: str,
    out: Path,
    settings: RewardModelConfig,
    *,
    epochs: int,
    seed: int = 0,
    stages: int = 1,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fits a reward model to all of ``source`` but a held-out share, writes it to ``out`` and returns the report.

    The objective follows from the file's fields, whatever ``settings.objective`` says. ``stages`` 2 fits one head to comparisons and then
    ``settings.heads`` gaussian ones to its scores (`robust`), which are what is written. Raises `DataError` for a bad file,
    `ModelError` for a backbone that cannot be loaded, `StorageError` when ``out`` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise StorageError(f"{out} is not empty", "give a new folder with --out")
    if settings.network == "transformer" and settings.path is None:
        raise ConfigError("a transformer needs a checkpoint to start from", "give --model FOLDER_OR_HUB_NAME, or --network char_cnn")
    model = ModelConfig(path=settings.path or "", dtype="float32")
    data = preferences.read(source, preferences.chat_renderer(_tokenizer(settings, model)))
    settings = dataclasses.replace(settings, objective=data.objective, classes=data.classes, capacity=len(data.examples))
    if stages == 2 and (data.objective != "ranking" or settings.heads < 2):
        raise ConfigError(f"two stages need comparisons and several heads: {data.objective}, {settings.heads}", "give pairs, and --heads 5")
    fitter = build_fitter(dataclasses.replace(settings, heads=1) if stages == 2 else settings, model, seed=seed)
    fitter.examples.add(data.examples)
    train, held_out = fitter.examples.train, fitter.examples.validation
    if not train or (settings.validation_share and not held_out):
        raise DataError(
            f"{source}: {len(train)} examples to learn from and {len(held_out)} held out", "Add rows, or change --validation-share."
        )
    report(f"{data.objective}: {len(train)} examples to learn from, {len(held_out)} held out")
    before = fitter.evaluate(held_out)
    fitter.fit_epochs(epochs, _progress(report))
    after = fitter.evaluate(held_out)
    if stages == 2:
        pairs = [e for e in held_out if isinstance(e, Pair)]
        fitter = second_stage(fitter, settings, model, seed=seed)
        report(f"second stage: {settings.heads} heads on the scores of {len(fitter.examples.train)} texts")
        fitter.fit_epochs(epochs, _progress(report))
        settings = dataclasses.replace(settings, objective="gaussian")
        after |= quality(fitter, pairs) if pairs else {}
    found = {
        "source": source,
        "settings": dataclasses.asdict(settings),
        "stages": stages,
        "epochs": epochs,
        "seed": seed,
        "examples": len(train),
        "held_out_examples": len(held_out),
        "held_out_before": before,
        "held_out": after,
    }
    save(fitter, out)
    (out / REPORT).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, value in after.items():
        begun = f"{before[name]:.3f} -> " if name in before else ""
        report(f"held-out {name.replace('_', ' ')}: {begun}{value:.3f}")
    report(f"reward model: {out}")
    return found


def save(fitter: Fitter, out: Path) -> None:
    """A Hugging Face checkpoint of a transformer; one safetensors file of a character network."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    if hasattr(fitter.network, "save_pretrained"):
        fitter.network.save_pretrained(out)
    else:
        save_file({name: tensor.contiguous() for name, tensor in fitter.network.state_dict().items()}, out / CHAR_CNN_FILE)


def _tokenizer(settings: RewardModelConfig, model: ModelConfig) -> Any:
    if settings.network != "transformer":
        return None
    from rayrl.data.tokenizer import load_tokenizer

    return load_tokenizer(model)


def _progress(report: Callable[[str], None]) -> Callable[[int, int, float], None]:
    started = time.monotonic()

    def tell(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // _PROGRESS_LINES) == 0 or step == steps:
            report(f"step {step}/{steps}  loss {loss:.4f}  {time.monotonic() - started:.0f} s")

    return tell
