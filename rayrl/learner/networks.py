"""The networks that a learner trains, built the same way on every backend and every rank."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rayrl.config.schema import Config
from rayrl.data.tokenizer import load_tokenizer
from rayrl.learner.forward import PolicyNet, build_inputs
from rayrl.learner.loading import check_vocabulary, compute_dtype, load_policy
from rayrl.learner.trainer import Trainer, needs_critic
from rayrl.models.heads import ValueNet
from rayrl.sync import plan as weight_plan
from rayrl.types import FloatArray, IntArray, LearnBatch


def set_up_torch(config: Config) -> torch.device:
    """Seed, threads and determinism of a learner process as configured; returns the device to train on."""
    torch.manual_seed(config.run.seed)
    if config.run.deterministic:
        torch.use_deterministic_algorithms(True)
    return choose_device(1 if config.run.deterministic else config.learner.cpu_threads, config.learner.ranks)


def choose_device(threads: int, processes: int) -> torch.device:
    """The GPU of this process if it has one, else the CPU with so many torch ``threads``.

    0 threads keep what the process was started with (OMP_NUM_THREADS), or divide the cores by ``processes``.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if threads or "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(threads or max(1, cores // processes))
    return torch.device("cpu")


class Networks(Protocol):
    """What is particular to one kind of policy: all that `LearnerBase` and its backends do not know."""

    policy: nn.Module
    """Its ``model`` is what engines get."""
    critic: nn.Module | None
    wire_dtype: torch.dtype
    """In which weights are sent and exported."""

    def wire(self) -> dict[str, Tensor]:
        """The tensors that engines get, by name; the parameter of ``policy`` is called ``model.<name>``."""

    def canary(self, token_ids: IntArray, device: torch.device) -> FloatArray:
        """float32: log-probs of the canary under the present weights, see `WeightUpdate`."""

    def trainer(self, *parts: Any) -> Stepper:
        """The step logic, from ``(config, store, policy, critic, ema, group, device)``."""

    def write(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """The policy for use elsewhere; ``state`` has whole tensors by the names of `wire`."""


class Stepper(Protocol):
    """The step logic of one rank: see `trainer.Trainer`."""

    unit: str
    """What it counts its work in: the report has ``learner/<unit>``."""
    updates: int
    """Optimiser updates made: the position in the learning-rate schedule."""
    token_records: Any

    state: dict[str, Any]
    """What a continuation needs beside the networks; JSON-able. Set it to go on from there."""

    def step(self, batch: LearnBatch, reference: Sequence[Any] | None) -> dict[str, float]: ...


class LanguageNetworks:
    """A causal language model, and the critic where the algorithm has one."""

    def __init__(self, config: Config) -> None:
        """Raises `ModelError` where model and tokenizer cannot be loaded or do not fit."""
        self._config = config
        self._tokenizer = load_tokenizer(config.model)
        model = load_policy(config.model, learner=config.learner)
        check_vocabulary(model, self._tokenizer, config.model)
        self.critic = ValueNet.from_policy(load_policy(config.model, learner=config.learner)) if needs_critic(config) else None
        if config.learner.activation_checkpointing:
            for backbone in (model, self.critic.backbone if self.critic else None):
                if backbone is not None:
                    backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.policy = PolicyNet(model, temperature=config.rollout.sampling.temperature, entropy_grad=config.algorithm.entropy_coef != 0)
        self.wire_dtype = compute_dtype(config.model)

    def wire(self) -> dict[str, Tensor]:
        model = self.policy.model
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        return dict(weight_plan.wire_items(model.named_parameters(), tied=tied))

    @torch.no_grad()
    def canary(self, token_ids: IntArray, device: torch.device) -> FloatArray:
        """float32[P-1]: log-probs of ``token_ids[1:]`` at temperature 1, from the compute weights that are exported."""
        mask = np.ones(len(token_ids), np.bool_)
        mask[0] = False
        inputs = build_inputs([np.asarray(token_ids)], [mask], packed=self._config.learner.packing, device=device)
        logprobs, _ = self.policy(inputs, temperature=1.0)
        return logprobs.float().cpu().numpy()

    def trainer(self, *parts: Any) -> Trainer:
        return Trainer(*parts, lambda token: self._tokenizer.decode([token], skip_special_tokens=True))

    def write(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """A Hugging Face checkpoint with its tokenizer."""
        self.policy.model.save_pretrained(folder, state_dict=dict(state))
        self._tokenizer.save_pretrained(folder)
