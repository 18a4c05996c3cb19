"""How long training stands still for a commit, in copies of the weights.

    python tests/bench/bench_checkpoint.py [--rounds 5]

A model of 19 M parameters trains step after step and is saved in every second one. One copy of the weights is the time to copy the
float32 masters into memory that is there already; the pause is what the learner itself reports: the time that the first update of
the next step waited for the copy of weights and moments (three times as much), and the call that began the save. ``exact``: what was
saved is the state of the moment at which the save began.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from rayrl.learner.torch import TorchLearner
from rayrl.models import tiny

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "unit" / "learner")]
from learner_cases import DictStore, config, random_batch  # noqa: E402
from report import emit  # noqa: E402

SHAPE = tiny.TinyShape(hidden=512, layers=6, heads=8, kv_heads=8, intermediate=1344)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder, store = Path(temporary), DictStore()
        learner = TorchLearner(config(tiny.save(folder / "model", SHAPE)), store)
        step = iter(range(10**6))
        train = lambda: learner.step(random_batch(store, seed=(i := next(step)), groups=16, step=i), None)
        train()
        pauses, copies, whole, exact = [], [], [], True
        for round_ in range(rounds + 1):
            expected = [m.detach().clone() for m in learner._policy.masters()]
            learner.begin_save(folder / "commit")
            train()
            learner._saver.settle()
            saved = learner.saved()
            exact &= not saved["error"]
            copies.append(copy_seconds(learner))
            pauses.append(saved["paused_s"])
            whole.append(saved["write_s"])
            if round_ == 0:  # the first save makes the memory of all later ones
                first = pauses.pop(), copies.pop(), whole.pop()
                other = TorchLearner(learner._config, store)
                other.load(folder / "commit")
                exact &= all(torch.equal(a, b) for a, b in zip(expected, other._policy.masters(), strict=True))
        ratios = {"pause_to_weight_copy": statistics.median(p / c for p, c in zip(pauses, copies, strict=True)), "exact": float(exact)}
        targets = {"pause_to_weight_copy": ("<=", 1.0), "exact": (">=", 1.0)}
        parameters = sum(m.numel() for m in learner._policy.masters())
        details = {
            "parameters": parameters,
            "pause_ms": 1e3 * statistics.median(pauses),
            "weight_copy_ms": 1e3 * statistics.median(copies),
            "write_ms": 1e3 * statistics.median(whole),
            "first_pause_ms": 1e3 * first[0],
            "commit_mib": saved["bytes"] / 2**20,
        }
        sys.exit(0 if emit("checkpoint", ratios, targets, **details) else 1)


@torch.no_grad()
def copy_seconds(learner: TorchLearner) -> float:
    masters = learner._policy.masters()
    room = [torch.empty_like(m) for m in masters]
    for place, master in zip(room, masters, strict=True):
        place.copy_(master)
    started = time.perf_counter()
    for place, master in zip(room, masters, strict=True):
        place.copy_(master)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
