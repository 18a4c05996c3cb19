import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from rayrl import cli
from rayrl.config.loading import load
from rayrl.machine import Gpu, inspect_machine
from rayrl.plan import make_plan, step_arithmetic

HERE = inspect_machine()
LAPTOP = replace(HERE, cores=(0, 1, 2, 3), gpus=(), memory=16 * 2**30)
WORKSTATION = replace(LAPTOP, gpus=tuple(Gpu(i, "card", 80 * 2**30) for i in range(2)))


def plan_of(recipe, *overrides, machine=LAPTOP, profile=None):
    return make_plan(load(recipe, overrides, profile=profile, check=False), machine)


@pytest.fixture
def tiny_model(tmp_path):
    from rayrl.models import tiny

    return str(tiny.save(tmp_path / "tiny"))


def test_the_demo_can_be_planned_on_a_laptop():
    made = plan_of("arithmetic_grpo")
    assert made.mode == "cpu" and made.resources.cpus == 4 and made.problems == ()
    assert {r.name for r in made.roles} == {"rollout", "learner", "scorer", "buffer"}


def test_a_cluster_can_be_planned_on_a_laptop():
    made = plan_of("gsm8k", "data.source=task:arithmetic", profile="gpu_2nodes")
    assert (made.mode, made.resources.gpus, made.resources.declared) == ("disaggregated", 16, True)
    assert made.problems == ()


def test_the_arithmetic_of_a_step():
    config = load(
        "arithmetic_grpo",
        [
            *("batch.groups_per_step=12", "batch.group_size=4", "learner.minibatches=3", "learner.epochs=2", "learner.token_budget=100"),
            *("data.max_prompt_length=16", "rollout.sampling.max_tokens=34", "rollout.max_running=20", "buffer.max_staleness=2"),
        ],
    ).config
    numbers = step_arithmetic(config)
    assert numbers["trajectories per step"] == 48
    assert numbers["longest sequence (tokens)"] == 50
    assert numbers["tokens per step, at most"] == 2400
    assert numbers["generation waves per step"] == 3
    assert numbers["optimiser updates per step"] == 6
    assert numbers["micro-batches per update and rank, at most"] == 8  # 16 trajectories, two of 50 tokens in a budget of 100
    assert numbers["groups admitted and untrained, at most"] == 36


@pytest.mark.parametrize(
    ("expected", "overrides", "machine"),
    [
        ("there is no GPU", ["placement.mode=colocated"], LAPTOP),
        ("the roles ask for 5 GPUs", ["placement.mode=disaggregated", "rollout.num_engines=4"], WORKSTATION),
        ("lower rollout.tensor_parallel", ["placement.nodes=4", "placement.gpus_per_node=2", "rollout.tensor_parallel=4"], LAPTOP),
        ("rewards.components.correct.verifier", ["rewards.components.correct.verifier=arithmetics"], LAPTOP),
        ("rollout.env", ["rollout.env=calculater", "rollout.max_turns=2"], LAPTOP),
        ("data.task_args", ["data.task_args={digit: 2}"], LAPTOP),
        ("there is no file nowhere.jsonl", ["data.source=nowhere.jsonl"], LAPTOP),
        ("batch.group_size", ["batch.group_size=1"], LAPTOP),
    ],
)
def test_what_cannot_work_is_a_problem_of_the_plan(expected, overrides, machine):
    overrides = overrides if any("placement.mode" in o for o in overrides) else [*overrides, "placement.mode=auto"]
    assert any(expected in problem for problem in plan_of("arithmetic_grpo", *overrides, machine=machine).problems)


def test_a_model_on_this_machine_has_its_memory_estimated(tiny_model):
    made = plan_of("arithmetic_grpo", f"model.path={tiny_model}", "algorithm.kl.coef=0.1")
    assert set(made.memory) == {"rollout", "learner", "reference"}
    assert made.problems == ()


@pytest.mark.parametrize(
    ("expected", "overrides"),
    [
        ("exceeds the 1024 positions", ["model.max_length=2048"]),
        ("does not hold one longest sequence", ["rollout.kv_cache_gib=1e-6"]),
        ("roles and object store need", ["placement.object_store_mib=99999"]),
    ],
)
def test_a_model_that_does_not_fit_is_a_problem(tiny_model, expected, overrides):
    made = plan_of("arithmetic_grpo", f"model.path={tiny_model}", *overrides)
    assert any(expected in problem for problem in made.problems)


def test_a_plan_with_a_problem_exits_with_2_and_names_it(capsys):
    assert cli.main(["plan", "arithmetic_grpo", "batch.group_size=1"]) == 2
    assert "problem: batch.group_size is 1" in " ".join(capsys.readouterr().out.split())


def test_a_plan_without_problems_exits_with_0_and_says_so(capsys):
    assert cli.main(["plan", "arithmetic_grpo", "--origins"]) == 0
    out = capsys.readouterr().out
    assert "nothing speaks against it" in out and "conf/recipes/arithmetic_grpo.yaml" in out


def test_json_is_json(capsys):
    assert cli.main(["plan", "arithmetic_async", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch"]["groups admitted and untrained, at most"] > 0


def test_explain_needs_no_recipe(capsys):
    assert cli.main(["plan", "--explain", "buffer.max_staleness"]) == 0
    assert "Bound in weight versions" in capsys.readouterr().out


def test_a_piped_plan_has_no_terminal_codes():
    done = subprocess.run(
        [sys.executable, "-m", "rayrl", "plan", "arithmetic_grpo"],
        capture_output=True,
        text=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CLICOLOR_FORCE")},
    )
    assert done.returncode == 0 and "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 140


def test_live_holds_every_bundle_against_every_node(monkeypatch, capsys):
    from rayrl.config.fitting import Node

    nodes = [Node("10.0.0.1", {"CPU": 8.0}, {"CPU": 8.0}), Node("10.0.0.2", {"CPU": 8.0, "GPU": 8.0}, {"CPU": 8.0, "GPU": 8.0})]
    monkeypatch.setattr("rayrl.runtime.live.live_nodes", lambda placement: nodes)
    words = ["plan", "gsm8k", "data.source=task:arithmetic", "--profile", "gpu_1x8", "--live"]
    assert cli.main(words) == 0
    assert "every bundle has a place" in capsys.readouterr().out
    assert cli.main([*words, "rollout.tensor_parallel=16", "--json"]) == 6
    found = json.loads(capsys.readouterr().out)
    assert any("rollout-0 asks for" in p and "10.0.0.2: GPU 8 free of 8" in p for p in found["problems"])
    assert {row["place"] for row in found["bundles"] if row["who"].startswith("learner")} == {"10.0.0.2"}


def test_live_without_an_address_says_how_to_give_one(monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cli.main(["plan", "arithmetic_grpo", "--live"]) == 2
    assert "placement.ray_address" in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides",
    [
        ["rewards.components.process.verifier=true_equations"],
        ["rewards.components.process={judge: score, verifier: null, weight: 0.0}", "feedback.judge=http"],
    ],
    ids=["a verifier of whole samples", "a judge"],
)
def test_a_method_that_pays_steps_is_refused_where_nothing_scores_steps(overrides):
    found = [p for p in plan_of("methods/02-pure", *overrides).problems if "algorithm.steps" in p]
    assert len(found) == 1 and "rewards.components.process" in found[0] and "arithmetic_steps" in found[0]
    assert not plan_of("methods/02-pure").problems
