import pytest

from rayrl.config import fields
from rayrl.config.choices import CHOICES, RANGES
from rayrl.config.schema import Config
from rayrl.errors import ConfigError

LEAVES = [key for key, field in fields.table().items() if not field.section]


@pytest.mark.parametrize("key", LEAVES)
def test_every_field_is_documented(key):
    assert len(fields.table()[key].doc) > 5, f"write a string under {key} in config/schema.py"


@pytest.mark.parametrize("key", [*CHOICES, *RANGES])
def test_choices_and_ranges_name_fields_that_exist(key):
    assert fields.lookup(key) is not None


def test_every_default_is_within_its_choices_and_range():
    for key, allowed in [*CHOICES.items(), *RANGES.items()]:
        default = fields.table()[key].default
        assert default is None or default in allowed, key


def test_every_number_of_the_schema_has_a_range():
    free = {"run.seed", "rewards.fallback_value", "evaluation.threshold", "rewards.components.*.weight", "agent.intrinsic.threshold"}
    numbers = {key for key in LEAVES if fields.table()[key].base in (int, float)}
    assert numbers - free == set(RANGES)


def test_names_of_the_users_choice_and_free_arguments_are_known():
    assert fields.lookup("rewards.components.anything.weight") == fields.table()["rewards.components.*.weight"]
    assert fields.lookup("rollout.env_args.any.thing") == fields.table()["rollout.env_args"]
    assert fields.lookup("rewards.components.anything.wieght") is None
    assert fields.lookup("run.seed.more") is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lr", "learner.optim.lr"),
        ("optim.lr", "learner.optim.lr"),
        ("learner.rank", "learner.ranks"),
        ("learning_rate", "learner.optim.lr"),
    ],
)
def test_the_nearest_key_is_the_one_that_was_meant(written, meant):
    assert fields.nearest(written) == meant


def test_explain_gives_type_default_choices_and_documentation():
    text = fields.explain("rollout.engine")
    assert "str = auto" in text and "one of: auto, vllm, torch, fake" in text and "vllm where it runs" in text
    assert "0.0" in fields.explain("algorithm.kl"), "a zero is shown as a number"


def test_explain_of_a_section_lists_all_its_keys():
    text = fields.explain("learner")
    assert all(key in text for key in LEAVES if key.startswith("learner."))


def test_explain_of_an_unknown_key_suggests_one():
    with pytest.raises(ConfigError, match=r"run\.steps"):
        fields.explain("run.step")


def test_the_overview_lists_every_key():
    text = fields.overview()
    assert all(key in text for key in LEAVES)


def test_defaults_of_the_table_are_those_of_the_dataclasses():
    config = Config()
    for key in LEAVES:
        if "*" not in key:
            value = config
            for part in key.split("."):
                value = getattr(value, part)
            assert value == fields.table()[key].default
