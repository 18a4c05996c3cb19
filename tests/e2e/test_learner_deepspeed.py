"""The DeepSpeed learner makes the updates of plain torch, whatever the ZeRO stage and the number of ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit" / "learner"))
sys.path.insert(0, str(HERE))

from learner_cases import DictStore, config, random_batch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from rayrl.learner.torch import TorchLearner  # noqa: E402
from rayrl.models import tiny  # noqa: E402

STEPS = 2
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Of weights after two AdamW updates of at most 0.01 each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model"), tiny.NANO, seed=3)


def launch(ranks: int, model: Path, out: Path, cases: list[dict], limit_s: float = 280) -> None:
    """Runs ``cases`` one after another in one group of ``ranks`` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                str(HERE / "learner_ranks.py"),
                json.dumps({"rank": r, "ranks": ranks, "port": port, "model": str(model), "out": str(out), "cases": cases}),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(ranks)
    ]
    try:
        outputs = [p.communicate(timeout=limit_s)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    for p, output in zip(processes, outputs, strict=True):
        assert p.returncode == 0, output[-4000:]


def plain(model: Path, steps: int, **settings) -> tuple[TorchLearner, list[dict]]:
    """The same run on plain torch."""
    store = DictStore()
    learner = TorchLearner(config(model, **settings), store)
    return learner, [dict(learner.step(random_batch(store, seed=i, groups=5, turns=2, drop=0.2, step=i), None)) for i in range(steps)]


def masters(learner) -> dict[str, torch.Tensor]:
    return {name: values["master"].clone() for name, values in learner._policy.state()}


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [1, 2])
def test_zero_stage_and_ranks_do_not_change_the_update(ranks: int, folder: Path, tmp_path: Path) -> None:
    base = {"token_budget": 100}
    cases = [{"name": f"z{z}", "config": {**base, "zero_stage": z}} for z in range(4)]
    cases += [
        {"name": "packed", "config": {**base, "zero_stage": 3, "packing": True, "activation_checkpointing": True}},
        {
            "name": "minibatches",
            "config": {**base, "zero_stage": 3, "epochs": 2, "minibatches": 2, "algorithm__correction__mode": "truncated"},
        },
        {"name": "ppo", "config": {**base, "zero_stage": 1, "algorithm__name": "ppo"}},
        {"name": "bf16", "config": {**base, "zero_stage": 2, "model__dtype": "bfloat16"}},
    ]
    launch(ranks, folder, tmp_path, cases)
    for case in cases:
        settings = {k: v for k, v in case["config"].items() if k != "zero_stage"}
        learner, reports = plain(folder, STEPS, **settings)
        got = load_file(tmp_path / f"{case['name']}.safetensors")
        tolerance = TOLERANCE[settings.get("model__dtype", "float32")]
        assert furthest(got, masters(learner)) < tolerance, case["name"]
        seen = json.loads((tmp_path / f"{case['name']}.json").read_text())
        for mine, theirs in zip(reports, seen["reports"], strict=True):
            for key in ("learner/loss", "learner/grad_norm", "policy/entropy", "mismatch/abs_max", "policy/clip_low", "advantage/std"):
                assert theirs[key] == pytest.approx(mine[key], rel=20 * tolerance, abs=20 * tolerance), (case["name"], key)
            assert theirs["learner/action_tokens"] == mine["learner/action_tokens"]
            assert theirs["learner/tokens"] == mine["learner/tokens"]
        update = learner.export_weights(7, np.arange(3, 13, dtype=np.int32))
        assert np.allclose(seen["canary"], update.canary_logprobs, atol=20 * tolerance), case["name"]
        assert seen["tensors"] == [t.name for t in update.manifest.tensors]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bfloat16_gradients_of_many_micro_batches_add_up_in_float32(folder: Path, tmp_path: Path) -> None:
    """In bfloat16 256 + 1 is 256: a thousand gradients of one would stop there."""
    toys = [{"name": f"{dtype}{z}", "dtype": dtype, "zero_stage": z} for dtype in TOLERANCE for z in range(4)]
    launch(1, folder, tmp_path, [{"name": "group", "config": {}}, *toys])
    assert {toy["name"]: json.loads((tmp_path / f"{toy['name']}.json").read_text()) for toy in toys} == {t["name"]: 1000.0 for t in toys}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_continues_bit_for_bit_and_at_another_stage_and_size_too(dtype: str, folder: Path, tmp_path: Path) -> None:
    base = {"token_budget": 150, "model__dtype": dtype, "ema_decay": 0.5, "algorithm__name": "ppo" if dtype == "bfloat16" else "grpo"}
    stages = range(4) if dtype == "float32" else (1, 3)
    first = [{"name": f"first{z}", "config": {**base, "zero_stage": z, "save": str(tmp_path / f"half{z}")}} for z in stages]
    whole = [{"name": f"whole{z}", "config": {**base, "zero_stage": z, "steps": 2 * STEPS}} for z in stages]
    # Stage 3 last: it replaces torch's linear layer in the whole process, by one that rounds differently.
    launch(2, folder, tmp_path, sorted([*first, *whole], key=lambda case: case["config"]["zero_stage"]))
    resumed = [{"name": f"resumed{z}", "config": {**base, "zero_stage": z, "resume": str(tmp_path / f"half{z}")}} for z in stages]
    launch(2, folder, tmp_path, [*resumed, {"name": "across", "config": {**base, "zero_stage": 3, "resume": str(tmp_path / "half1")}}])
    launch(1, folder, tmp_path, [{"name": "alone", "config": {**base, "zero_stage": 2, "resume": str(tmp_path / "half3")}}])
    for z in stages:
        a, b = (load_file(tmp_path / f"{name}{z}.safetensors") for name in ("whole", "resumed"))
        assert all(torch.equal(a[name], b[name]) for name in a), z
        one, two = (json.loads((tmp_path / f"{name}{z}.json").read_text()) for name in ("whole", "resumed"))
        assert one["digest"] == two["digest"]
        for report in (*one["reports"], *two["reports"]):
            del report["learner/tokens_per_s"]
        assert one["reports"][STEPS:] == two["reports"]
        for part in ("", "ema"):
            a, b = (load_file(tmp_path / f"{name}{z}" / part / "model.safetensors") for name in ("whole", "resumed"))
            assert all(torch.equal(a[name], b[name]) for name in a), (z, part)
    for name in ("across", "alone"):
        a, b = load_file(tmp_path / "whole1.safetensors"), load_file(tmp_path / f"{name}.safetensors")
        assert furthest(a, b) < 5 * TOLERANCE[dtype], name


METHODS = ("advantage riskpo", "shaping laser_d", "advantage pure_rloo", "loss mnpo", "pairs upo", "loss pacs", "resample policy_filter")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_methods_update_two_ranks_as_one_and_remember_through_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    """Stateful ones, pairs, steps and resampling, on two real DeepSpeed ranks, against one rank of plain torch."""
    import test_methods_split as methods

    cases = [{"name": name.replace(" ", "_"), "config": {"method": name, "token_budget": 70, "packing": True}} for name in METHODS]
    launch(2, folder, tmp_path, cases)
    for name, case in zip(METHODS, cases, strict=True):
        seen = json.loads((tmp_path / f"{case['name']}.json").read_text())
        assert seen["same"], f"{name}: what was saved and loaded made other updates"
        assert [_timeless(r) for r in seen["again"]] == [_timeless(r) for r in seen["reports"]], name
        assert (seen["state"] != {}) == (name in ("advantage riskpo", "shaping laser_d")), name
        expected, reports = methods.run(name, folder, steps=3)
        got = load_file(tmp_path / f"{case['name']}.safetensors")
        assert furthest(got, expected) < 5e-4, name
        for a, b in zip(reports[1:], seen["reports"], strict=True):
            assert b["learner/loss"] == pytest.approx(a["learner/loss"], rel=5e-3, abs=5e-4), name


def _timeless(report: dict) -> dict:
    return {k: v for k, v in report.items() if "per_s" not in k}
