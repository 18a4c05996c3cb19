import dataclasses
import json
from pathlib import Path

import pytest

from rayrl.config import layers
from rayrl.config.loading import load, reload, save
from rayrl.config.schema import Config, LearnerConfig
from rayrl.errors import ConfigError

RECIPES = layers.recipe_names()


def refused(recipe: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(recipe, overrides)
    return str(caught.value)


def test_a_recipe_becomes_plain_dataclasses_with_the_defaults_of_the_schema(recipe):
    config = load(recipe()).config
    assert type(config) is Config and type(config.learner) is LearnerConfig
    assert config.learner == LearnerConfig()
    assert config.run.dir == "runs/run"
    assert config.rewards.components["correct"].verifier == "arithmetic"


def test_later_layers_win_key_by_key(recipe, tmp_path):
    (tmp_path / "here.yaml").write_text("run: {seed: 1, steps: 11, name: profile}\nrollout: {sampling: {stop: [a, b]}}")
    (tmp_path / "parent.yaml").write_text(recipe().read_text() + "profile: here.yaml\nrun: {seed: 2, steps: 12}\n")
    child = recipe("child", "extends: parent.yaml\nrun: {seed: 3}\nrollout: {sampling: {stop: [c]}}\n")
    config = load(child, ["run.deterministic=true"]).config
    assert (config.run.name, config.run.steps, config.run.seed, config.run.deterministic) == ("profile", 12, 3, True)
    assert config.rollout.sampling.stop == ["c"], "lists are replaced"


def test_the_profile_of_the_command_line_wins_over_the_recipe_and_loses_to_overrides(recipe, tmp_path):
    (tmp_path / "big.yaml").write_text("learner: {ranks: 4, token_budget: 4096}\nrollout: {num_engines: 4}")
    path = recipe("own", recipe().read_text() + "learner: {ranks: 2}\n")
    config = load(path, ["rollout.num_engines=3"], profile=str(tmp_path / "big.yaml")).config
    assert (config.learner.ranks, config.learner.token_budget, config.rollout.num_engines) == (4, 4096, 3)


def test_every_leaf_knows_where_it_was_set(recipe):
    path = recipe()
    origins = load(path, ["run.steps=3", "rewards.components.correct.args={x: 1}", "data.task_args.digits=2"]).origins
    assert origins["run.steps"] == "command line"
    assert origins["model.path"].endswith("recipe.yaml:2")
    assert origins["rewards.components.correct.verifier"].endswith("recipe.yaml:8")
    assert origins["rewards.components.correct.args"] == origins["data.task_args"] == "command line"
    assert origins["learner.optim.lr"] == "default"
    assert origins["telemetry.wandb"].startswith("conf/base.yaml:")


def test_every_mistake_is_reported_at_once_with_its_origin_and_the_nearest_key(recipe):
    path = recipe("wrong", recipe().read_text() + "learner:\n  rank: 2\n  zero_stage: two\n  optim: {lr: 1e-4}\n")
    message = refused(path, "run.step=3", "learning_rate=1", "rewards.components.correct.weigth=2", "run.seed=null")
    for expected in (
        "unknown key 'learner.rank'",
        "did you mean 'learner.ranks'?",
        "learner.zero_stage: 'two' is not a int",
        "wrong.yaml:11",
        "unknown key 'run.step' (set in command line); did you mean 'run.steps'?",
        "did you mean 'learner.optim.lr'?",
        "unknown key 'rewards.components.correct.weigth'",
        "run.seed: None is not a int",
    ):
        assert expected in message


@pytest.mark.parametrize(
    "override",
    [
        "learner.ranks=2.5",
        "run.steps=true",
        "run.deterministic=1",
        "run.name=true",
        "learner.optim.lr=fast",
        "learner.optim.betas=0.9",
        "run.seed={a: 1}",
        "data.task_args=3",
        "learner=3",
        "run.steps=",
    ],
)
def test_values_of_another_type_are_refused_and_never_converted(recipe, override):
    assert override.split("=")[0] in refused(recipe(), override)


@pytest.mark.parametrize(("text", "value"), [("1e-6", 1e-6), ("3", 3.0), ("2.5E-3", 2.5e-3)])
def test_numbers_are_read_as_people_write_them(recipe, text, value):
    assert load(recipe(), [f"learner.optim.lr={text}"]).config.learner.optim.lr == value


def test_a_bare_off_is_the_word_off(recipe):
    assert load(recipe(), ["telemetry.wandb=off"]).config.telemetry.wandb == "off"


def test_missing_mandatory_keys_are_listed_all_at_once(recipe):
    message = refused(recipe("empty", "run: {steps: 3}\nrewards: {components: {a: {}}}\n"))
    assert all(f"{key} must be set" in message for key in ("model.path", "data.source"))


def test_a_section_that_is_commented_out_is_no_mistake(recipe):
    assert load(recipe("hollow", recipe().read_text() + "learner:\n  # ranks: 2\nbuffer:\n")).config.learner == LearnerConfig()


def test_a_dangling_interpolation_names_its_key(recipe):
    assert "run.dir" in refused(recipe(), "run.dir=${run.nam}")


def test_free_arguments_are_merged_and_kept_as_they_are(recipe):
    path = recipe("args", recipe().read_text() + "      args: {x: 1, deep: {a: 1}}\n")
    args = load(path, ["rewards.components.correct.args.deep.b=[1, two]"]).config.rewards.components["correct"].args
    assert args == {"x": 1, "deep": {"a": 1, "b": [1, "two"]}}


def test_an_override_without_a_value_is_refused(recipe):
    assert "'run.steps' is not of the form key=value" in refused(recipe(), "run.steps")


def test_the_last_of_two_overrides_of_a_key_wins(recipe):
    assert load(recipe(), ["run.name=a", "run.name=b"]).config.run.name == "b"


def test_broken_yaml_names_file_and_line(recipe):
    assert "broken.yaml:3" in refused(recipe("broken", "run:\n  steps: 3\n  name: a: b\n"))


def test_recipes_that_extend_each_other_are_refused(recipe):
    recipe("a", "extends: b.yaml\n")
    assert "circle" in refused(recipe("b", "extends: a.yaml\n"))


def test_an_unknown_recipe_is_answered_with_the_list():
    with pytest.raises(ConfigError) as caught:
        load("arithmetic_grop")
    assert "did you mean 'arithmetic_grpo'?" in str(caught.value) and "algorithms/dapo" in str(caught.value)


def test_what_was_saved_loads_again_as_the_same_configuration(recipe, tmp_path):
    loaded = load(recipe(), ["run.steps=7", "data.task_args={digits: 2}", "rollout.sampling.stop=[')']"])
    save(loaded, tmp_path / "run")
    again = reload(tmp_path / "run")
    assert again.config == loaded.config
    assert again.origins == dict(loaded.origins)
    assert json.loads((tmp_path / "run" / "config_origins.json").read_text())["run.steps"] == "command line"


def test_a_reloaded_configuration_takes_overrides_and_says_so(recipe, tmp_path):
    save(load(recipe(), ["run.steps=7"]), tmp_path / "run")
    again = reload(tmp_path / "run", ["run.steps=9"])
    assert again.config.run.steps == 9 and again.origins["run.steps"] == "command line"
    assert again.origins["model.path"].endswith("recipe.yaml:2")


def test_a_folder_without_a_configuration_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="not a run folder"):
        reload(tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_of_the_checkout_is_consistent(name):
    config = load(name, ["data.source=questions.jsonl"] if name == "gsm8k" else []).config
    assert all(dataclasses.is_dataclass(getattr(config, f.name)) or f.name == "reward_models" for f in dataclasses.fields(config))


@pytest.mark.parametrize("profile", sorted(p.stem for p in (layers.conf_folder() / "profiles").glob("*.yaml")))
def test_every_profile_fits_a_recipe(profile):
    turns = ["buffer.max_staleness=0"] if profile == "gpu_1" else []  # who shares one GPU cannot work at the same time
    assert load("gsm8k", ["data.source=questions.jsonl", *turns], profile=profile).config.model.dtype in ("bfloat16", "float32")


def test_every_algorithm_has_a_recipe_that_names_it():
    from rayrl.algorithms.registry import PRESETS

    recipes = [load(name, ["data.source=x.jsonl"] if name == "gsm8k" else []).config for name in RECIPES]
    named = {config.algorithm.name for config in recipes if config.agent.env is None}
    assert named == set(PRESETS)
