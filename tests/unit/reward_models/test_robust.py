"""The two stages of a reward-robust model, on made-up comparisons: whoever writes more of the letter a is better."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rayrl import cli
from rayrl.config.schema import ModelConfig, RewardModelConfig
from rayrl.models import tiny
from rayrl.reward_models.build import build_fitter
from rayrl.reward_models.examples import Pair
from rayrl.reward_models.robust import quality, second_stage

SETTINGS = RewardModelConfig(heads=5, lr=2e-3, batch_size=32, validation_share=0.2, capacity=10_000)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    return ModelConfig(path=str(tiny.save(tmp_path_factory.mktemp("model"), tiny.NANO)))


def comparisons(count: int, seed: int) -> list[Pair]:
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        first, second = ("".join(rng.choice(list("abcd"), 8)) for _ in range(2))
        if first.count("a") != second.count("a"):
            found.append(Pair(first, second, float(first.count("a") > second.count("a"))))
    return found


def first_stage(nano, count: int, epochs: int):
    settings = RewardModelConfig(objective="ranking", lr=2e-3, batch_size=32, validation_share=0.2, capacity=10_000)
    fitter = build_fitter(settings, nano, seed=0)
    fitter.examples.add(comparisons(count, 1))
    fitter.fit_epochs(epochs)
    return fitter


def test_heads_learn_the_first_models_scores_on_one_scale_and_nothing_of_what_it_held_out(nano):
    first = first_stage(nano, 40, 1)
    second = second_stage(first, SETTINGS, nano, seed=1)
    sides = [{t for e in part for t in (e.first, e.second)} for part in (first.examples.train, first.examples.validation)]
    assert {e.text for e in second.examples.train} <= sides[0] and {e.text for e in second.examples.validation} <= sides[1]
    values = np.array([e.value for e in second.examples.train])
    assert values.mean() == pytest.approx(0, abs=1e-5) and values.std() == pytest.approx(1, abs=1e-5)
    said = first.score([e.text for e in second.examples.train]).value
    assert np.corrcoef(said, values)[0, 1] == pytest.approx(1)
    assert second.heads(["aabb"]).shape == (1, 5)
    for name, tensor in first.network.state_dict().items():
        own = second.network.state_dict()[name]
        assert own.shape != tensor.shape or bool((own == tensor).all()), "the trunk begins as the first model's"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_08_two_stages_order_unseen_pairs_and_heads_disagree_more_off_the_data(nano, seed):
    """Page 08 wants pair accuracy above .9 and sigma larger off the data.

    Seen on three seeds: accuracy 1.00; off the data heads disagree three to four times as much, and the deviation that each one states is
    smaller there (.02 against .03): what was never seen is told by their spread, not by what they say of themselves.
    """
    first = first_stage(nano, 800, 8)
    second = second_stage(first, SETTINGS, nano, seed=seed)
    second.fit_epochs(12)
    seen = quality(second, comparisons(300, 99))
    rng = np.random.default_rng(seed)
    strange = ["".join(rng.choice(list("XYZ0189#"), 8)) for _ in range(300)]
    off = {"deviation": float(second.deviations(strange).mean()), "spread": float(second.heads(strange).std(1).mean())}
    shown = ", ".join(f"{k} {v:.3f}" for k, v in seen.items())
    print(f"08 seed {seed}: {shown}; off the data deviation {off['deviation']:.3f}, spread {off['spread']:.3f}")
    assert min(seen["accuracy_robust"], seen["accuracy_surest"], seen["accuracy_mean"]) > 0.9
    assert off["spread"] > 2 * seen["spread"]


def test_the_command_fits_both_stages_and_refuses_what_has_no_second(nano, tmp_path, capsys):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"chosen": e.first, "rejected": e.second}) + "\n" for e in comparisons(60, 2)))
    words = ["train-rm", str(file), "--model", nano.path, "--lr", "1e-3", "--stages", "2"]
    assert cli.main([*words, "--out", str(tmp_path / "rm"), "--heads", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["objective"] == "gaussian" and 0 <= found["held_out"]["accuracy_robust"] <= 1
    fitter = build_fitter(RewardModelConfig(path=str(tmp_path / "rm"), objective="gaussian", heads=3), nano)
    assert fitter.deviations(["aabb"]).shape == (1, 3), "a run loads it by its path"
    assert cli.main([*words, "--out", str(tmp_path / "other"), "--heads", "1"]) == 2
