"""Speeds are read off a recorded run: a run whose numbers are known gives those numbers back, and the prediction of itself."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrl import cli
from rayrl.config.loading import load, save
from rayrl.errors import ConfigError, DataError
from rayrl.simulation import prediction
from rayrl.simulation.calibrate import line, read_run
from rayrl.simulation.world import simulate

FIXED_S, EACH_S, LEARN_S, LEARN_TOKEN_S = 0.02, 0.0005, 0.2, 0.0004


@pytest.fixture
def recorded(tmp_path):
    """A synchronous run of 20 steps, four groups of two, as a perfect machine would have recorded it."""
    folder, rng = tmp_path / "run", np.random.default_rng(0)
    (folder / "rollouts").mkdir(parents=True)
    loaded = load("arithmetic_grpo", ["batch.groups_per_step=4", "batch.group_size=2", f"run.dir={folder}", "model.path=nowhere"])
    save(loaded, folder)
    rows, table = [], {"step": [], "ordinal": [], "action_mask": []}
    for step in range(1, 21):
        lengths = rng.integers(5, 40, size=(4, 2))
        steps, tokens = int(lengths.max()), int(lengths.sum())
        generate, learn = FIXED_S * steps + EACH_S * tokens, LEARN_S + LEARN_TOKEN_S * tokens
        if step <= 2:
            generate += 30.0  # compiling
        rows.append(
            {
                "step": step,
                "step/total_s": generate + 0.1 + learn + 0.15 + 0.03,
                "step/generate_wait_s": generate + 0.1,
                "step/learn_s": learn,
                "step/sync_s": 0.15,
                "step/driver_cpu_s": 0.04,
                "sync/total_s": 0.15,
                "sync/paused_s": 0.05,
                "rollout/tokens": tokens,
                "rollout/busy_s": generate,
                "rollout/engine_steps": steps,
                "learner/action_tokens": tokens,
                "learner/busy_s": learn,
                "batch/staleness_mean_versions": 0.0,
                "rollout/length_mean_tokens": float(lengths.mean()),
            }
        )
        for group, pair in enumerate(lengths):
            for length in pair:
                table["step"].append(step)
                table["ordinal"].append(step * 4 + group)
                table["action_mask"].append([0, 0] + [1] * int(length))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    masks = pa.array(table["action_mask"], pa.list_(pa.uint8()))
    columns = {"step": pa.array(table["step"]), "ordinal": pa.array(table["ordinal"]), "action_mask": masks}
    pq.write_table(pa.table(columns), folder / "rollouts" / "a.parquet")
    return folder


def test_known_speeds_are_found_again(recorded):
    run = read_run(recorded)
    s = run.scenario
    assert (s.iteration_s, s.sequence_s) == (pytest.approx(FIXED_S, rel=1e-6), pytest.approx(EACH_S, rel=1e-6))
    assert (s.learn_s, s.learn_token_s) == (pytest.approx(LEARN_S, rel=1e-6), pytest.approx(LEARN_TOKEN_S, rel=1e-6))
    assert (s.score_s, s.publish_s, s.pause_s, s.driver_s) == tuple(pytest.approx(x) for x in (0.1, 0.15, 0.05, 0.03))
    assert run.steps == 18 and len(s.lengths) == 80 and all(len(group) == 2 for group in s.lengths)
    assert simulate(s, 60).step_s == pytest.approx(run.step_s, rel=0.05)


def test_waiting_that_has_no_name_is_not_work_of_the_driver(recorded):
    rows = [json.loads(line) | {"step/driver_cpu_s": 0.01} for line in (recorded / "metrics.jsonl").read_text().splitlines()]
    (recorded / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(recorded).scenario.driver_s == pytest.approx(0.01)


def test_other_settings_take_the_recorded_speeds(recorded):
    config = load("arithmetic_async", ["batch.groups_per_step=8", "batch.group_size=3", "learner.ranks=2", "buffer.max_staleness=3"]).config
    predicted = prediction.predict(config, recorded)
    s = predicted.scenario
    assert (s.groups_per_step, s.max_staleness, s.iteration_s) == (8, 3, pytest.approx(FIXED_S))
    assert s.learn_token_s == pytest.approx(LEARN_TOKEN_S / 2) and all(len(group) == 3 for group in s.lengths)
    assert predicted.replayed and predicted.replayed[1] == pytest.approx(predicted.replayed[0], rel=0.05)
    assert predicted.outcome.staleness_max <= 3


def test_a_folder_with_too_little_of_a_run_is_refused(tmp_path, recorded):
    with pytest.raises(DataError, match="holds no run"):
        read_run(tmp_path)
    lines = (recorded / "metrics.jsonl").read_text().splitlines()[:4]
    (recorded / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match="usable steps"):
        read_run(recorded)


def test_a_line_never_has_a_negative_part():
    assert line([1, 2, 3], [2.0, 4.0, 6.0]) == (pytest.approx(0.0, abs=1e-9), pytest.approx(2.0))
    assert line([1, 2, 3], [3.0, 2.0, 1.0]) == (pytest.approx(2.0), 0.0)
    assert line([1, 2, 3], [0.0, 2.0, 4.0])[0] == 0.0


def test_a_gpu_run_is_estimated_without_a_recording_and_a_cpu_run_is_not():
    config = load("gsm8k", ["data.source=task:arithmetic"], profile="gpu_2nodes").config
    predicted = prediction.predict(config)
    assert 0 < predicted.outcome.step_s < 600 and "H100" in predicted.source and predicted.outcome.staleness_max <= 1
    with pytest.raises(ConfigError, match="--from"):
        prediction.predict(load("arithmetic_grpo").config)
    with pytest.raises(ConfigError, match="says no size"):
        prediction.predict(load("gsm8k", ["data.source=task:arithmetic", "model.path=some/model"], profile="gpu_2nodes").config)


def test_larger_models_are_slower_and_recomputation_costs_a_third():
    from rayrl.simulation.hardware import estimate

    overrides = ["data.source=task:arithmetic"]
    small, large = (
        estimate(load("gsm8k", [*overrides, f"model.path=org/model-{size}B"], profile="gpu_2nodes").config) for size in ("1.5", "7")
    )
    assert large.iteration_s > small.iteration_s and large.learn_token_s == pytest.approx(small.learn_token_s * 7 / 1.5)
    plain = estimate(load("gsm8k", [*overrides, "learner.activation_checkpointing=false"], profile="gpu_2nodes").config)
    assert small.learn_token_s / plain.learn_token_s == pytest.approx(8 / 6)


def test_the_command_prints_the_prediction_the_table_and_draws_the_picture(recorded, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prediction, "sweep", partial(prediction.sweep, sizes=(8, 64), shares=(0.5, 0.75), steps=4))
    words = ["plan", "arithmetic_async", "batch.group_size=2", "--from", str(recorded)]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"]["step_s"] > 0
    assert cli.main([*words, "--sweep", "--picture", str(tmp_path / "a.svg")]) == 0
    out = capsys.readouterr().out
    assert "predicted" in out and "the recorded run itself" in out and "advice:" in out and "staleness 8" in out
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
