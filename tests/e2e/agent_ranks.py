"""One rank of an agent's learner group under test, as its own process: ``python agent_ranks.py JSON``. Rank 0 writes what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "learner"))

import numpy as np
import torch
from agent_cases import batch, config, sampler
from safetensors.torch import save_file

from rayrl import agent_assembly
from rayrl.learner.agent_networks import AgentNetworks
from rayrl.learner.intrinsic import build_intrinsic
from rayrl.runtime.local import LocalStore

STEPS, FRAGMENTS = 3, 4


def batches(made) -> list:
    """The same fragments in every process, from a policy of their own."""
    torch.manual_seed(5)
    playing = sampler(made)
    return [batch(step, [playing.collect(FRAGMENTS * step + i) for i in range(FRAGMENTS)]) for step in range(STEPS)]


def trained(learner, made) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    reports = [dict(learner.step(each, None)) for each in batches(made)]
    return {name: values["master"].clone() for name, values in learner._policy.state()}, reports


def networks(made):
    return lambda c: AgentNetworks(c, agent_assembly.env_spec(made), build_intrinsic(c.agent.intrinsic, None))


if __name__ == "__main__":
    from rayrl.learner.deepspeed import DeepSpeedLearner

    asked = json.loads(sys.argv[1])
    made = config(*asked["overrides"], "learner.backend=deepspeed", f"learner.ranks={asked['ranks']}")
    group = {"rank": asked["rank"], "world_size": asked["ranks"], "master_addr": "127.0.0.1", "master_port": asked["port"]}
    learner = DeepSpeedLearner(made, LocalStore(), **group, build=networks(made))
    state, reports = trained(learner, made)
    update = learner.export_weights(1, np.array([7], np.int32))
    if asked["rank"] == 0:
        save_file(state, asked["out"] + ".safetensors")
        Path(asked["out"] + ".json").write_text(json.dumps({"reports": reports, "canary": update.canary_logprobs.tolist()}))
