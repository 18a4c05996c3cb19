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
    """Seed, threads and determinism of this process as configured; returns the device to train on."""
    torch.manual_seed(config.run.seed)
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    else:
        device = torch.device("cpu")
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(config.learner.cpu_threads or max(1, cores // config.learner.ranks))
    if config.run.deterministic:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
    return device


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
