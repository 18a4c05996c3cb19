"""Every reward component has one source, and nothing starts that would wait for an answer that cannot come."""

import pytest

from rayrl.config import reward_sources
from rayrl.config.loading import load
from rayrl.config.placement import role_resources
from rayrl.errors import ConfigError
from rayrl.reward_roles import problems

ONLINE = "feedback_online_rm"
CASES = [
    ("has verifier arithmetic and judge score", ["rewards.components.correct.judge=score"]),
    ("rewards.components.correct needs exactly one source and has none", ["rewards.components.correct.verifier=null"]),
    ("'onlin', which is not among reward_models (online)", ["rewards.components.preferred.reward_model=onlin"]),
    ("reward_models.spare is used by no component", ["reward_models.spare={}"]),
    ("feedback.judge is none", ["feedback.judge=none"]),
    ("only a verifier takes arguments", ["rewards.components.preferred.args={a: 1}"]),
    ("rewards.deadline_s 300", ["rewards.deadline_s=300"]),
    ("no component asks a judge", ["rewards.on_failure=rescore"]),
    ("no score can come later", ["rewards.on_failure=rescore", "buffer.max_staleness=0"]),
    ("a model that never learns needs a trained checkpoint", ["reward_models.online.online=false"]),
    ("reward_models.online.max_length 32", ["reward_models.online.max_length=32"]),
    ("only a ranking has ties", ["reward_models.online={ties: davidson, objective: regression}"]),
    ("a list has two samples", ["reward_models.online={listwise: true, objective: regression}"]),
    ("learns from ranked lists", ["reward_models.online={objective: plackett_luce}"]),
    ("only a regression has it", ["reward_models.online={huber: 1.0}"]),
    ("min_labels 200 is more than the first 32 groups ask for", ["reward_models.online.min_labels=200"]),
    ("reward_models.online.lr is 0.0; it must be greater than 0", ["reward_models.online.lr=0"]),
    ("reward_models.online has heads 0 to 0: raise heads", ["rewards.components.preferred.head=1"]),
    ("names a head or a deviation and only a reward model has those", ["rewards.components.correct.head=0"]),
    ("deviation needs rewards.components.preferred.head", ["rewards.components.preferred.deviation=true"]),
    ("min_accuracy is 0.5 and nothing measures it", ["reward_models.online={min_accuracy: 0.5, objective: regression}"]),
    ("min_accuracy is 0.5 and nothing measures it", ["reward_models.online={min_accuracy: 0.5, validation_share: 0.0}"]),
    ("online.dropout is 0: all passes would be equal", ["reward_models.online.passes=4"]),
    ("components name one or the other", ["reward_models.online={passes: 4, dropout: 0.1, heads: 2}"]),
    ("did you mean 'ranking'?", ["reward_models.online.objective=rankin"]),
    ("unknown key 'reward_models.online.learning_rate'", ["reward_models.online.learning_rate=1"]),
]


@pytest.mark.parametrize(("expected", "overrides"), CASES, ids=[c[0] for c in CASES])
def test_a_source_that_cannot_answer_is_refused_by_name(expected, overrides):
    with pytest.raises(ConfigError) as caught:
        load(ONLINE, overrides)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "recipe", "overrides"),
    [
        ("learns from pair questions and feedback.template score", ONLINE, ["feedback.template=score"]),
        (
            "listwise compares samples of one prompt and batch",
            "feedback_judge",
            ["rewards.components.graded.judge=listwise", "algorithm.advantage=none", "batch.group_size=1"],
        ),
        (
            "compares samples of one prompt and batch",
            "feedback_win_rate",
            ["algorithm.advantage=none", "batch.group_size=1"],
        ),
        ("rewards.components.graded.judge: there is no template 'scor'", "feedback_judge", ["rewards.components.graded.judge=scor"]),
    ],
)
def test_a_template_of_another_kind_is_a_problem_of_the_plan(expected, recipe, overrides):
    assert expected in "\n".join(problems(load(recipe, overrides).config))
    assert not list(problems(load(recipe).config))


def test_every_source_is_a_job_and_a_role_of_its_own():
    config = load(ONLINE, ["rewards.components.graded={judge: score}"]).config
    assert {job: list(found) for job, found in reward_sources.jobs(config).items()} == {
        "verifiers": ["correct"],
        "judges": ["graded"],
        "reward_model-online": ["preferred"],
    }
    names = [role.name for role in role_resources(config, 2, 0)]
    assert {"scorer", "judges", "reward_model-online"} <= set(names)


def test_a_reward_model_with_gpus_gets_a_bundle_of_its_own():
    config = load(ONLINE, ["reward_models.online.gpus=1", "placement.mode=disaggregated"]).config
    roles = {role.name: role for role in role_resources(config, 8, 3)}
    taken = [index for name, role in roles.items() if name != "reward_model-online" for index in role.bundles]
    assert roles["reward_model-online"].gpus == 1 and not set(roles["reward_model-online"].bundles) & set(taken)


def test_without_verifiers_there_is_no_verifier_role():
    config = load("feedback_judge", ["rewards.components.correct.judge=score", "rewards.components.correct.verifier=null"]).config
    assert "verifiers" not in reward_sources.jobs(config)
    assert "scorer" not in [role.name for role in role_resources(config, 2, 0)]
