"""Each bundle against each node: what fits is placed, what does not is named with what is in its way."""

import random

import pytest

from rayrl.config.fitting import Node, amounts, fit, misfits


def node(name, cpu, gpu=0, used=0, **custom):
    total = {"CPU": cpu, **({"GPU": gpu} if gpu else {}), **custom}
    return Node(name, total, total | ({"GPU": gpu - used} if gpu else {}))


def test_bundles_that_fit_are_placed_without_taking_a_node_twice():
    fits = fit([{"CPU": 1, "GPU": 4}, {"CPU": 1, "GPU": 4}], [node("a", 8, 4), node("b", 8, 4)])
    assert {f.place for f in fits} == {"a", "b"} and misfits(["x", "y"], fits) == []


def test_a_bundle_that_fits_on_no_node_is_named_with_every_obstacle():
    fits = fit([{"CPU": 1, "GPU": 8}], [node("a", 8, 4), node("b", 8)])
    (problem,) = misfits(["rollout-0"], fits)
    assert fits[0].impossible
    assert "rollout-0 asks for CPU 1, GPU 8" in problem and "a: GPU 4 free of 4" in problem and "b: no GPU" in problem


def test_what_others_hold_at_present_is_told_apart_from_what_is_not_there():
    (problem,) = misfits(["x"], fit([{"GPU": 2}], [node("a", 8, 4, used=3)]))
    assert "GPU 1 free of 4" in problem


def test_a_bundle_that_would_fit_alone_is_not_called_impossible():
    fits = fit([{"GPU": 3}, {"GPU": 3}], [node("a", 8, 4)])
    assert [f.impossible for f in fits] == [False, False]
    assert misfits(["x", "y"], fits) == ["y asks for GPU 3 and no node has that left after the others"]


def test_a_group_of_nodes_is_kept_to():
    nodes = [node("a", 8, learner=1), node("b", 8, rollout=1)]
    fits = fit([{"CPU": 1, "rollout": 0.001}, {"CPU": 1, "learner": 0.001}], nodes)
    assert [f.place for f in fits] == ["b", "a"] and fits[0].obstacles["a"] == "no rollout"


def test_without_nodes_nothing_fits():
    assert misfits(["x"], fit([{"CPU": 1}], [])) == ["x asks for CPU 1 and fits on no node (there is none)"]


@pytest.mark.parametrize("seed", range(5))
def test_no_node_is_ever_given_more_than_it_has(seed):
    rng = random.Random(seed)
    nodes = [node(str(i), rng.randint(1, 8), rng.randint(0, 4)) for i in range(4)]
    bundles = [{"CPU": rng.randint(0, 3), "GPU": rng.randint(0, 2)} for _ in range(10)]
    fits = fit(bundles, nodes)
    for n in nodes:
        for kind in ("CPU", "GPU"):
            assert sum(f.bundle[kind] for f in fits if f.place == n.address) <= n.total.get(kind, 0)


def test_amounts_are_readable():
    assert amounts({"CPU": 1.0, "GPU": 0.5}) == "CPU 1, GPU 0.5" and amounts({}) == "nothing"
