import pytest

from rayrl.config.checks import problems
from rayrl.config.loading import load
from rayrl.errors import ConfigError

CASES = [
    ("batch.groups_per_step", ["batch.groups_per_step=30", "learner.ranks=4"]),
    ("learner.minibatches", ["batch.groups_per_step=32", "learner.minibatches=3"]),
    ("buffer.max_groups", ["buffer.max_groups=32", "buffer.max_staleness=2"]),
    ("learner.optim.warmup_steps", ["learner.optim.warmup_steps=100", "learner.optim.schedule=cosine"]),
    ("model.max_length", ["model.max_length=300"]),
    ("learner.token_budget", ["learner.token_budget=100"]),
    ("reference.token_budget", ["reference.token_budget=100", "algorithm.kl.coef=0.1"]),
    ("batch.group_size", ["batch.group_size=1"]),
    ("algorithm.filter zero_variance", ["batch.group_size=1", "algorithm.advantage=gae", "algorithm.filter=zero_variance"]),
    ("learner.critic is false", ["algorithm.name=ppo", "learner.critic=false"]),
    ("learner.critic is true", ["learner.critic=true"]),
    ("reference.path", ["reference.path=some/model"]),
    ("learner.optim.betas", ["learner.optim.betas=[0.9]"]),
    ("algorithm.correction.floor", ["algorithm.correction.mode=masked", "algorithm.correction.floor=3"]),
    ("rollout.sampling.temperature", ["rollout.sampling.temperature=0"]),
    ("rollout.env is 'calculator'", ["rollout.env=calculator"]),
    ("rollout.env is null", ["rollout.max_turns=2"]),
    ("rollout.length_limits", ["rollout.length_limits=l.jsonl", "rollout.env=calculator", "rollout.max_turns=2"]),
    ("every weight", ["rewards.components.correct.weight=0"]),
    ("rewards.components.correct.weight is nan", ["rewards.components.correct.weight=.nan"]),
    ("evaluation.component is 'corect'", ["evaluation.component=corect"]),
    ("evaluation.returns is 'retrun'", ["evaluation.returns=retrun", "evaluation.samples=4"]),
    ("evaluation.samples is 1", ["evaluation.returns=correct"]),
    ("placement.mode is disaggregated", ["placement.runtime=in_process", "placement.mode=disaggregated"]),
    ("several nodes", ["placement.runtime=in_process", "placement.nodes=2"]),
    ("learner.ranks is 2", ["placement.runtime=in_process", "learner.ranks=2"]),
    ("feedback.budget.tokens is 0", ["feedback.judge=http", "feedback.budget.tokens=0"]),
    ("both prices are 0", ["feedback.judge=http", "feedback.budget.usd=1"]),
    ("feedback.replay is null", ["feedback.judge=replay"]),
    ("feedback.replay is set", ["feedback.judge=http", "feedback.replay=a.sqlite"]),
    ("is not an address", ["feedback.judge=http", "feedback.base_url=localhost:8000"]),
    ("feedback.max_known", ["feedback.judge=http", "feedback.max_known=10"]),
    ("feedback.flush_s", ["feedback.judge=http", "feedback.flush_s=5"]),
    ("not a regular expression", ["data.answer_pattern='(a'"]),
    ("has no group", ["data.answer_pattern=abc"]),
    ("data.answer_field is null", ["data.answer_pattern='(a)'", "data.answer_field=null"]),
    ("learner.backend torch has one rank", ["learner.backend=torch", "learner.ranks=2"]),
    ("ZeRO belongs to deepspeed", ["learner.backend=torch", "learner.zero_stage=2"]),
    ("learner.offload", ["learner.offload=true"]),
    ("run.deterministic is true and buffer.max_staleness", ["run.deterministic=true", "buffer.max_staleness=1"]),
    ("run.deterministic is true and placement.mode", ["run.deterministic=true", "placement.mode=colocated"]),
    ("engines sleep", ["placement.mode=colocated", "buffer.max_staleness=1"]),
    ("shared GPU", ["placement.mode=colocated", "rollout.tensor_parallel=2"]),
    ("counts GPUs", ["placement.mode=cpu", "rollout.tensor_parallel=2"]),
    ("did you mean 'deepspeed'?", ["learner.backend=depspeed"]),
    ("did you mean 'dapo'?", ["algorithm.name=dapoo"]),
    ("buffer.max_staleness is -1; it must be at least 0", ["buffer.max_staleness=-1"]),
    ("run.steps is 0", ["run.steps=0"]),
    ("rollout.sampling.top_p is 1.5", ["rollout.sampling.top_p=1.5"]),
    ("learner.ema_decay is 1.0; it must be at least 0 and below 1", ["learner.ema_decay=1"]),
    ("learner.zero_stage is 4", ["learner.zero_stage=4"]),
    ("deadlines.sync_s is 0", ["deadlines.sync_s=0"]),
    ("learner.optim.lr is nan", ["learner.optim.lr=.nan"]),
    ("algorithm.loss dpo needs whole groups", ["algorithm.name=dpo", "learner.token_budget=400", "reference.token_budget=400"]),
    ("takes no importance weights", ["algorithm.name=dpo", "algorithm.correction.mode=truncated", "learner.token_budget=99999"]),
    ("algorithm.advantage grpo compares samples", ["algorithm.shaping=win_rate", "batch.group_size=1"]),
    ("algorithm.loss pacs compares samples of one prompt: raise it to 2", ["algorithm.name=pacs", "batch.group_size=1"]),
    ("algorithm.shaping win_rate compares samples", ["algorithm.advantage=gae", "algorithm.shaping=win_rate", "batch.group_size=1"]),
    ("algorithm.pairs upo needs 2 weighted reward components", ["algorithm.name=upo"]),
    ("algorithm.pairs zermelo_best_worst needs 2 weighted", ["algorithm.name=irepo"]),
    ("reference.opponents names none: set", ["algorithm.name=mnpo", "algorithm.args.others=0.5"]),
    ("algorithm.args.others is 0, which ignores them", ["algorithm.name=mnpo", "reference.opponents.old={path: m}"]),
    ("algorithm.loss compares with none", ["algorithm.name=dpo", "reference.opponents.old={path: m}"]),
    ("reference.opponents.old.path is empty", ["algorithm.name=mnpo", "algorithm.args.others=0.5", "reference.opponents.old={}"]),
    (
        "reference.opponents.old.weight is -1",
        ["algorithm.name=mnpo", "reference.opponents.old={path: m, weight: -1}"],
    ),
    ("algorithm.advantage pure_rloo reads one reward per step", ["algorithm.advantage=pure_rloo"]),
    ("'process', which is not among rewards.components", ["algorithm.steps=min_form"]),
    ("a second time beside algorithm.steps sum", ["algorithm.steps=sum", "algorithm.args.component=correct"]),
    ("algorithm.advantage pama needs 2 weighted reward components", ["algorithm.name=pama"]),
    ("rewards.aggregate worst_case combines at least 2", ["rewards.aggregate=worst_case"]),
    ("did you mean 'lam'?", ["rewards.aggregate=uncertainty_weighted", "rewards.aggregate_args.lm=1"]),
    ("did you mean 'tie_band'?", ["algorithm.shaping=win_rate", "algorithm.args.tie_bnd=0.1"]),
    ("needs a probability for each pair", ["algorithm.name=irepo", "algorithm.pairs=best_worst"]),
    ("alpha is the lower quantile", ["algorithm.name=riskpo", "algorithm.args={alpha: 0.9, beta: 0.5}"]),
    ("more questions than batch.groups_per_step", ["algorithm.name=riskpo", "algorithm.args.bundle=99"]),
    ("nothing is settable here", ["algorithm.name=rloo", "algorithm.args.beta=1"]),
]


@pytest.mark.parametrize(("expected", "overrides"), CASES, ids=[c[0] for c in CASES])
def test_a_combination_that_cannot_work_is_refused_by_name(recipe, expected, overrides):
    with pytest.raises(ConfigError) as caught:
        load(recipe(), overrides)
    assert expected in str(caught.value)


def test_a_run_without_a_reward_is_refused(recipe):
    path = recipe("bare", "model: {path: m}\ndata: {source: task:arithmetic}\n")
    with pytest.raises(ConfigError, match=r"rewards\.components is empty"):
        load(path)


def test_all_problems_are_reported_in_one_error(recipe):
    overrides = ["batch.group_size=1", "rollout.sampling.temperature=0", "evaluation.component=x", "learner.offload=true"]
    found = problems(load(recipe(), overrides, check=False).config)
    assert len(found) == len(overrides)


def test_what_is_possible_passes(recipe):
    overrides = ["algorithm.name=ppo", "batch.group_size=1", "learner.critic=true", "buffer.max_staleness=3", "buffer.max_groups=200"]
    assert problems(load(recipe(), overrides).config) == []


AGENT = "agent: {env: chain}\nlearner: {backend: torch}\n"
AGENT_CASES = [
    ("model.path is 'm'", ["model.path=m"]),
    ("data.source is 'task:arithmetic'", ["data.source=task:arithmetic"]),
    ("rewards.components names correct", ["rewards.components.correct.verifier=arithmetic"]),
    ("rollout.env is 'calculator'", ["rollout.env=calculator"]),
    ("algorithm.kl.coef is 0.1", ["algorithm.kl.coef=0.1"]),
    ("placement.mode is colocated", ["placement.mode=colocated"]),
    ("learner.ema_decay", ["learner.ema_decay=0.9"]),
    ("learner.ranks is 2", ["learner.ranks=2"]),
    ("agent.intrinsic.goal is empty", ["agent.intrinsic.kind=cosine"]),
    ("nobody would label", ["agent.intrinsic.kind=retrieval"]),
    ("nothing to learn from", ["agent.extrinsic_coef=0"]),
    ("second value head", ["agent.separate_values=true"]),
    ("did you mean 'retrieval'?", ["agent.intrinsic.kind=retreival"]),
    ("agent.gamma is 1.5", ["agent.gamma=1.5"]),
    (
        "reward_models.m.min_accuracy is 0.5",
        [
            "agent.intrinsic={kind: ranking, reward_model: m}",
            "reward_models.m={network: char_cnn, objective: ranking, min_accuracy: 0.5}",
            *("feedback.judge=http", "feedback.base_url=http://127.0.0.1:9/v1", "feedback.template=message_pair"),
        ],
    ),
]


@pytest.mark.parametrize(("expected", "overrides"), AGENT_CASES, ids=[c[0] for c in AGENT_CASES])
def test_an_agent_that_cannot_work_is_refused_by_name(recipe, expected, overrides):
    with pytest.raises(ConfigError) as caught:
        load(recipe("agent", AGENT), overrides)
    assert expected in str(caught.value)


def test_an_agent_needs_neither_model_path_nor_prompts(recipe):
    config = load(recipe("agent", AGENT)).config
    assert (config.model.path, config.data.source) == ("", "")
