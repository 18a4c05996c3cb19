"""One rank of a learner group under test, as its own process: ``python learner_ranks.py JSON``. Writes what it saw to files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "learner"))

import numpy as np
import torch
from learner_cases import DictStore, config, random_batch
from safetensors.torch import save_file

from rayrl.learner.deepspeed import DeepSpeedLearner

STEPS = 3


def weights(learner) -> dict[str, torch.Tensor]:
    """Whole float32 master weights by name."""
    return {name: values["master"].clone() for name, values in learner._policy.state()}


def batches(store: DictStore, steps: int = STEPS, first: int = 0) -> list:
    """Uneven groups: more groups than ranks divide, some samples dropped."""
    return [random_batch(store, seed=i, groups=5, turns=2, drop=0.2, step=i) for i in range(first, first + steps)]


def run(rank: int, ranks: int, port: int, model: str, out: str, case: dict) -> None:
    store = DictStore()
    settings = dict(case["config"])
    resume, save = settings.pop("resume", None), settings.pop("save", None)
    learner = DeepSpeedLearner(
        config(Path(model), backend="deepspeed", ranks=ranks, **settings),
        store,
        rank=rank,
        world_size=ranks,
        master_addr="127.0.0.1",
        master_port=port,
    )
    first = 0
    if resume:
        learner.load(Path(resume))
        first = STEPS
    reports = [dict(learner.step(batch, None)) for batch in batches(store, first=first)]
    if save:
        learner.save(Path(save))
    state = weights(learner)
    update = learner.export_weights(7, np.arange(3, 13, dtype=np.int32))
    learner.save_pretrained(Path(out) / case["name"])
    if rank == 0:
        save_file(state, Path(out) / f"{case['name']}.safetensors")
        (Path(out) / f"{case['name']}.json").write_text(
            json.dumps(
                {"reports": reports, "canary": update.canary_logprobs.tolist(), "tensors": [t.name for t in update.manifest.tensors]}
            )
        )
    else:
        assert update is None


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    for case in job.pop("cases"):
        run(**job, case=case)
    torch.distributed.destroy_process_group()
