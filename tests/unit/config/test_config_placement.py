import random

import pytest

from rayrl.config.loading import load
from rayrl.config.placement import bundles, needs_reference, placement_mode, role_resources, run_resources
from rayrl.config.schema import Config, ModelConfig, PlacementConfig


def config(**settings) -> Config:
    made = Config(model=ModelConfig(path="m"))
    for key, value in settings.items():
        section, _, name = key.rpartition("__")
        target = made
        for part in section.split("__"):
            target = getattr(target, part)
        setattr(target, name, value)
    return made


def by_name(made: Config, cpus: int, gpus: float, **kwargs):
    return {r.name: r for r in role_resources(made, cpus, gpus, **kwargs)}


@pytest.mark.parametrize(
    ("gpus", "mode"),
    [(0, "cpu"), (1, "colocated"), (2, "disaggregated"), (8, "disaggregated")],
)
def test_auto_takes_own_gpus_where_there_are_enough_and_shares_them_where_not(gpus, mode):
    assert placement_mode(config(), gpus) == mode


def test_a_reference_needs_a_gpu_of_its_own():
    assert placement_mode(config(algorithm__kl__coef=0.1), 2) == "colocated"
    assert placement_mode(config(algorithm__kl__coef=0.1), 3) == "disaggregated"


def test_on_cpus_the_reservations_never_exceed_the_machine_and_every_role_gets_some():
    rng = random.Random(0)
    for _ in range(500):
        made = config(
            rollout__num_engines=rng.randint(1, 4),
            rollout__cpu_threads=rng.randint(0, 4),
            learner__ranks=rng.randint(1, 4),
            learner__cpu_threads=rng.randint(0, 4),
            algorithm__kl__coef=rng.choice([0.0, 0.1]),
            buffer__max_staleness=rng.randint(0, 2),
        )
        cpus = rng.randint(1, 32)
        roles = role_resources(made, cpus, 0)
        assert sum(b["CPU"] for b in bundles(roles)) <= cpus + 1e-9
        heavy = [r for r in roles if r.bundles]
        assert all(r.cpus > 0 and r.threads >= 1 and r.gpus == 0 for r in heavy)
        assert {r.name for r in heavy} == {"rollout", "learner"} | ({"reference"} if needs_reference(made) else set())
        indices = sorted(i for r in heavy for i in r.bundles)
        assert indices == list(range(sum(r.count for r in heavy))), "every actor has a bundle of its own"


def test_synchronous_roles_take_turns_on_all_cores_and_are_not_pinned():
    roles = by_name(config(), 8, 0)
    assert roles["learner"].threads == 8 and not roles["learner"].cores and not roles["rollout"].cores


def test_a_synchronous_engine_has_the_cores_to_itself_up_to_what_helps_a_small_model():
    assert by_name(config(), 4, 0)["rollout"].threads == 4
    assert by_name(config(rollout__num_engines=2), 4, 0)["rollout"].threads == 2
    assert by_name(config(), 64, 0)["rollout"].threads == 8
    assert by_name(config(rollout__cpu_threads=16), 64, 0)["rollout"].threads == 16
    assert by_name(config(run__deterministic=True), 4, 0)["rollout"].threads == 1
    assert by_name(config(buffer__max_staleness=1), 4, 0)["rollout"].threads == 1


def test_asynchronous_roles_get_cores_of_their_own_from_those_that_may_be_used():
    roles = by_name(config(buffer__max_staleness=1, rollout__num_engines=2), 4, 0, cores=[3, 5, 7, 9])
    assert roles["rollout"].cores == ((3,), (5,)) and roles["learner"].cores == ((7, 9),)
    assert roles["learner"].threads == 2


def test_an_asynchronous_reference_works_on_the_engines_cores_because_the_learner_is_the_bottleneck():
    roles = by_name(config(buffer__max_staleness=1, algorithm__kl__coef=0.1), 4, 0, cores=[3, 5, 7, 9])
    assert roles["reference"].cores == roles["rollout"].cores == ((3,),) and roles["reference"].threads == 1
    assert roles["learner"].cores == ((5, 7, 9),)


def test_nothing_is_pinned_where_no_core_would_be_left_or_where_it_is_not_wanted():
    assert not by_name(config(buffer__max_staleness=1), 1, 0)["learner"].cores
    assert not by_name(config(buffer__max_staleness=1, placement__pin=False), 4, 0)["learner"].cores


def test_a_deterministic_rank_has_one_thread():
    assert by_name(config(run__deterministic=True), 8, 0)["learner"].threads == 1


def test_disaggregated_roles_own_their_gpus():
    made = config(placement__mode="disaggregated", rollout__num_engines=2, rollout__tensor_parallel=2, learner__ranks=4)
    roles = by_name(made, 64, 8)
    assert (roles["rollout"].gpus, roles["learner"].gpus) == (2, 1)
    assert sum(b.get("GPU", 0) for b in bundles(list(roles.values()))) == 8


def test_colocated_engines_and_ranks_share_bundles_of_at_most_one_gpu():
    made = config(placement__mode="colocated", rollout__num_engines=4, learner__ranks=4, algorithm__kl__coef=0.1, reference__actors=4)
    roles = by_name(made, 64, 4)
    assert roles["rollout"].bundles == roles["learner"].bundles == roles["reference"].bundles
    shared = bundles(list(roles.values()))
    assert len(shared) == 4 and all(b["GPU"] <= 1 for b in shared)


def test_declared_resources_win_over_the_machine_at_hand():
    here = run_resources(PlacementConfig(), cores=2, gpus=1)
    assert (here.cpus, here.gpus, here.declared) == (2, 1, False)
    there = run_resources(PlacementConfig(nodes=2, gpus_per_node=8, cpus_per_node=64), cores=2, gpus=1)
    assert (there.cpus, there.gpus, there.declared) == (128, 16, True)
    without_gpus = run_resources(PlacementConfig(nodes=2, cpus_per_node=4), cores=2, gpus=1)
    assert without_gpus.gpus == 0


def test_games_and_policies_stay_on_cores_while_the_learner_has_the_gpu_and_there_is_a_ticket_for_each():
    made = load("oni_nethack", profile="gpu_agent").config
    roles = by_name(made, 16, 1.0)
    assert [(roles[name].count, roles[name].gpus) for name in ("rollout", "learner")] == [(made.agent.workers, 0.0), (1, 1.0)]
    assert made.batch.groups_per_step * (made.buffer.max_staleness + 1) > made.agent.workers


def test_games_stay_on_cores_while_the_learner_and_the_policy_of_all_games_share_a_gpu():
    made = load(
        "oni_nethack", ["agent.inference={actors: 1, gpus: 0.5}", "placement.learner_gpus_per_rank=0.5"], profile="gpu_agent"
    ).config
    roles = by_name(made, 16, 1.0)
    assert (roles["rollout"].count, roles["rollout"].gpus) == (made.agent.workers, 0.0)
    assert (roles["inference"].gpus, roles["learner"].gpus) == (0.5, 0.5)
    asked = bundles(list(roles.values()))
    assert sum(b.get("GPU", 0.0) for b in asked) == 1.0 and sum(b["CPU"] for b in asked) == made.agent.workers + 2


def test_an_agent_whose_gpus_are_not_there_plays_and_learns_on_cores():
    made = load("oni_nethack", ["placement.mode=auto"], profile="gpu_agent").config
    assert [placement_mode(made, gpus) for gpus in (0.0, 0.5, 1.0)] == ["cpu", "cpu", "disaggregated"]
