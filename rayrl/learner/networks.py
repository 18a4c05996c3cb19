"""The networks that a learner trains, built the same way on every backend and every rank."""

from __future__ import annotations

import os
from typing import Any

import torch

from rayrl.config.schema import Config
from rayrl.data.tokenizer import load_tokenizer
from rayrl.learner.attention import PACKED
from rayrl.learner.forward import PolicyNet
from rayrl.learner.loading import check_vocabulary, load_policy
from rayrl.learner.trainer import needs_critic
from rayrl.models.heads import ValueNet


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


def build_networks(config: Config) -> tuple[PolicyNet, ValueNet | None, Any]:
    """``(policy, critic or None, tokenizer)``. Raises `ModelError` where model and tokenizer cannot be loaded or do not fit."""
    attention = PACKED if config.learner.packing else config.learner.attention
    tokenizer = load_tokenizer(config.model)
    model = load_policy(config.model, attention=attention)
    check_vocabulary(model, tokenizer, config.model)
    critic = ValueNet.from_policy(load_policy(config.model, attention=attention)) if needs_critic(config) else None
    if config.learner.activation_checkpointing:
        for backbone in (model, critic.backbone if critic else None):
            if backbone is not None:
                backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = PolicyNet(model, temperature=config.rollout.sampling.temperature, entropy_grad=config.algorithm.entropy_coef != 0)
    return policy, critic, tokenizer
