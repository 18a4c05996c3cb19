"""Ranked lists as examples and as an objective."""

from dataclasses import replace

import pytest
import torch

from rayrl.annotations import Annotation, Question, QuestionKind, QuestionState
from rayrl.config.schema import ModelConfig, RewardModelConfig
from rayrl.reward_models import objectives
from rayrl.reward_models.build import build_fitter
from rayrl.reward_models.examples import ExampleSet, Pair, Ranked
from rayrl.reward_models.objectives import PlackettLuce, Ranking, Regression
from rayrl.reward_models.worker import to_examples

LISTS = [Ranked(("a", "b", "c")), Ranked(("d", "a")), Ranked(("c", "e", "b", "d"))]


def outputs(objective, examples, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(objective.texts(examples)), heads, 1, generator=generator)


def test_lists_of_two_are_comparisons():
    pairs, lists = [Pair("a", "b", 1.0), Pair("c", "a", 1.0)], [Ranked(("a", "b")), Ranked(("c", "a"))]
    compared, ranked = Ranking(centring=0.01), PlackettLuce(centring=0.01)
    scores, weights = outputs(ranked, lists), torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    assert compared.texts(pairs) == ranked.texts(lists)
    assert torch.allclose(compared.loss(scores, pairs, weights).mean, ranked.loss(scores, lists, weights).mean)
    for name, value in ranked.evaluate(scores, lists).items():
        assert value == pytest.approx(compared.evaluate(scores, pairs)[name], abs=1e-6)


def test_a_list_weighs_the_same_beside_longer_ones_as_alone():
    objective, weights = PlackettLuce(centring=0.01), torch.ones(3, 2)
    scores = dict(zip(objective.texts(LISTS), outputs(objective, LISTS), strict=True))
    together = objective.loss(torch.stack([scores[t] for t in objective.texts(LISTS)]), LISTS, weights)
    alone = [objective.loss(torch.stack([scores[t] for t in objective.texts([e])]), [e], weights[:1]) for e in LISTS]
    assert torch.allclose(together.sum, torch.stack([part.sum for part in alone]).sum())
    assert torch.allclose(together.denominator, torch.stack([part.denominator for part in alone]).sum())


def test_lists_come_back_from_disk_in_their_order_and_have_one_identity(tmp_path):
    kept = ExampleSet(10, 0.2)
    kept.add([*LISTS, Pair("x", "y", 0.5)])
    kept.save(tmp_path / "examples.parquet")
    found = ExampleSet(10, 0.2)
    found.load(tmp_path / "examples.parquet")
    assert list(found) == [*LISTS, Pair("x", "y", 0.5)]
    assert Ranked(("a", "b", "c")).key == Ranked(("c", "a", "b")).key != Ranked(("a", "b")).key
    with pytest.raises(ValueError):
        Ranked(("a", "a"))


def test_a_model_learns_an_order_from_lists():
    settings = replace(RewardModelConfig(), network="char_cnn", objective="plackett_luce", lr=1e-3, batch_size=16, min_labels=1)
    fitter = build_fitter(replace(settings, validation_share=0.0), ModelConfig(path="none"))
    words = ("gold", "silver", "iron", "mud")
    fitter.add([Ranked(tuple(f"{word} in room {i}" for word in words[i % 2 :])) for i in range(32)])
    fitter.owed = 60
    fitter.fit()
    fresh = fitter.score([f"{word} in room 77" for word in words]).value
    assert sorted(fresh.tolist(), reverse=True) == fresh.tolist()


def test_a_wild_score_pulls_less_under_huber():
    examples = [objectives.Label("a", 10.0)]
    pull = []
    for huber in (0.0, 1.0):
        scores = torch.zeros(1, 1, 1, requires_grad=True)
        Regression(huber).loss(scores, examples, torch.ones(1, 1)).mean.backward()
        pull.append(abs(scores.grad.item()))
    assert pull == [10.0, 1.0]


def test_a_judges_ranking_is_a_list_and_its_comparisons():
    question = Question(("low", "high", "middle"), "prompt ")
    made = to_examples(Annotation(1, "k", QuestionKind.RANKING, question, (), QuestionState.LABELLED, (2.0, 0.0, 1.0)))
    assert [e for e in made if isinstance(e, Ranked)] == [Ranked(("prompt high", "prompt middle", "prompt low"), group="prompt ")]
    assert len([e for e in made if isinstance(e, Pair)]) == 3
