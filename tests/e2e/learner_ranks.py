"""One rank of a learner group under test, as its own process: ``python learner_ranks.py JSON``. Writes what it saw to files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "learner"))

import numpy as np
import test_methods_split as methods
import torch
from learner_cases import DictStore, config, random_batch
from safetensors.torch import save_file

from rayrl.config.schema import Config
from rayrl.learner.deepspeed import DeepSpeedLearner, DeepSpeedTrainable

STEPS = 2


def weights(learner) -> dict[str, torch.Tensor]:
    """Whole float32 master weights by name."""
    return {name: values["master"].clone() for name, values in learner._policy.state()}


def batches(store: DictStore, first: int, steps: int) -> list:
    """Uneven groups: more groups than ranks divide, some samples dropped."""
    return [random_batch(store, seed=i, groups=5, turns=2, drop=0.2, step=i) for i in range(first, first + steps)]


def run(rank: int, ranks: int, port: int, model: str, out: str, case: dict) -> None:
    store = DictStore()
    settings = dict(case["config"])
    resume, save, steps = settings.pop("resume", None), settings.pop("save", None), settings.pop("steps", STEPS)
    if "method" in settings:
        return method(settings.pop("method"), rank, ranks, port, Path(model), Path(out) / case["name"], settings)
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
    reports = [dict(learner.step(batch, None)) for batch in batches(store, first, steps)]
    if save:
        learner.save(Path(save))
    state = weights(learner)
    update = learner.export_weights(7, np.arange(3, 13, dtype=np.int32))
    learner.save_pretrained(Path(out) / case["name"])
    if rank == 0:
        save_file(state, Path(out) / f"{case['name']}.safetensors")
        tensors = [t.name for t in update.manifest.tensors]
        seen = {"reports": reports, "canary": update.canary_logprobs.tolist(), "tensors": tensors, "digest": update.manifest.digest}
        (Path(out) / f"{case['name']}.json").write_text(json.dumps(seen))
    else:
        assert update is None


def method(case: str, rank: int, ranks: int, port: int, model: Path, out: Path, settings: dict) -> None:
    """One line of the method tables: three steps straight on, and the last two again from what was saved after the first."""
    from rayrl.algorithms import registry

    c = methods.settings(case, model, backend="deepspeed", ranks=ranks, **settings)
    store = DictStore()
    found = [methods.batch_for(c, store, i, methods.decoder(c)) for i in range(3)]
    frozen = {b.step: methods.reference_for(store)(b) for b in found} if registry.resolve(c.algorithm).needs_reference else {}
    start = lambda: DeepSpeedLearner(c, store, rank=rank, world_size=ranks, master_addr="127.0.0.1", master_port=port)
    learner = start()
    learner.step(found[0], frozen.get(found[0].step))
    learner.save(out)
    remembered = learner._trainer.assigner.state
    straight = [dict(learner.step(b, frozen.get(b.step))) for b in found[1:]]
    final = weights(learner)
    resumed = start()
    resumed.load(out)
    again = [dict(resumed.step(b, frozen.get(b.step))) for b in found[1:]]
    same = all(torch.equal(value, weights(resumed)[name]) for name, value in final.items())
    if rank == 0:
        save_file(final, out.with_suffix(".safetensors"))
        out.with_suffix(".json").write_text(json.dumps({"reports": straight, "again": again, "same": same, "state": remembered}))


def accumulate(out: str, case: dict) -> None:
    """A weight whose gradient is 1 in each of a thousand backward passes, in an engine of its own; writes the norm it reports."""
    settings = Config()
    settings.model.dtype, settings.learner.zero_stage, settings.learner.optim.grad_clip = case["dtype"], case["zero_stage"], 0.0
    dtype = getattr(torch, case["dtype"])
    trainable = DeepSpeedTrainable(torch.nn.Linear(1, 1, bias=False, dtype=dtype), settings, 1)
    for _ in range(1000):
        trainable.backward(trainable(torch.ones(1, 1, dtype=dtype)).float().sum())
    (Path(out) / f"{case['name']}.json").write_text(json.dumps(trainable.update(0.0)))


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    for case in job.pop("cases"):
        if "config" in case:
            run(**job, case=case)
        else:  # after a case that made the process group
            accumulate(job["out"], case)
    torch.distributed.destroy_process_group()
