"""Intrinsic rewards of a model in the learner, against ONI's formulas written down per frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agent_cases import batch, config, learner, sampler, update

from rayrl.agent_types import RatingModel
from rayrl.algorithms import intrinsic
from rayrl.learner.rated import Classified, Ranked
from rayrl.models.char_cnn import CharCnn

TEXTS = {11: b"You kill the newt!", 12: b"There is a fountain here.", 13: b"You hear coins.", 14: b"It's a wall."}


class Answered:
    def __init__(self, value):
        self.value = value

    def wait(self, timeout_s):
        return True

    def result(self, timeout_s):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def network(seed: int, outputs: int, ranking: bool) -> CharCnn:
    torch.manual_seed(seed)
    made = CharCnn(outputs, ranking=ranking).eval()
    with torch.no_grad():  # an untrained network hardly distinguishes texts: spread what it says over them
        said = torch.stack(list(says(made).values()))
        made.head[-1].weight.mul_((1 / said.std(0))[:, None])
        made.head[-1].bias.sub_(torch.stack(list(says(made).values())).mean(0))
    return made


def model(version: int, net: CharCnn) -> RatingModel:
    return RatingModel(version, {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()})


def says(net: CharCnn) -> dict[int, torch.Tensor]:
    with torch.no_grad():
        return dict(zip(TEXTS, net(**net.encode([t.decode() for t in TEXTS.values()])), strict=True))


def test_classification_rates_every_text_by_the_newest_model_and_counts_what_changed():
    nets = {version: network(version, 2, False) for version in (1, 2)}
    answers = iter([Answered(None), Answered(model(1, nets[1])), Answered(RuntimeError("gone")), Answered(model(2, nets[2]))])
    source = Classified(lambda newer_than: next(answers))
    hashes, frames = np.array([0, 11, 12, 13, 14, 99], np.uint64), np.array([3, 1, 2, 1, 1, 2])
    source.refresh(TEXTS)
    assert source.rate(hashes, frames).tolist() == [0] * 6 and source.metrics()["intrinsic/labelled_share"] == 0
    expected = {}
    for version, at in ((1, 1), (1, 1), (2, 2)):
        source.refresh({})
        p = {key: float(out.softmax(-1)[1]) for key, out in says(nets[at]).items()}
        expected[version] = [float(p.get(int(h), 0.0) > 0.5) for h in hashes]
        assert source.rate(hashes, frames).tolist() == expected[version]
        found = source.metrics()
        assert found["intrinsic/version"] == version and found["intrinsic/labelled_share"] == pytest.approx(0.5)
    moved = frames[np.array(expected[1]) != np.array(expected[2])].sum() / frames.sum()
    assert found["intrinsic/changed_share"] == pytest.approx(moved) and found["intrinsic/lost_count"] == 1


def test_ranking_pays_the_standardised_score_and_no_affine_change_of_the_scores_moves_it():
    """Also under R -> kR + c: the normalisation is really applied (ONI's released code adds the raw score)."""
    rng = np.random.default_rng(0)
    net = network(5, 1, True)
    scaled = network(5, 1, True)
    with torch.no_grad():
        scaled.head[-1].weight.mul_(7.0)
        scaled.head[-1].bias.mul_(7.0).add_(3.0)
    sources = [Ranked(lambda newer_than, m=m: Answered(m if newer_than < 1 else None)) for m in (model(1, net), model(1, scaled))]
    raw, seen = {key: float(out[0]) for key, out in says(net).items()}, []
    keys = np.array(sorted(TEXTS), np.uint64)
    for _ in range(20):
        frames = rng.integers(1, 30, len(keys))
        ratings = []
        for source in sources:
            source.refresh(TEXTS)
            ratings.append(source.rate(keys, frames))
        seen += [raw[int(k)] for k, n in zip(keys, frames, strict=True) for _ in range(n)]
    z = {key: (value - np.mean(seen)) / np.std(seen) for key, value in raw.items()}
    wanted = [z[int(k)] if z[int(k)] > -0.5 else 0.0 for k in keys]
    np.testing.assert_allclose(ratings[0], wanted, atol=0.02)  # the statistics pool batches one by one, each with its unbiased variance
    np.testing.assert_allclose(ratings[0], ratings[1], atol=1e-3)


@pytest.mark.parametrize("kind", [Classified, Ranked])
def test_texts_and_statistics_survive_a_checkpoint(kind):
    net = network(2, kind.width, kind.ranking)
    made = [kind(lambda newer_than: Answered(model(1, net) if newer_than < 1 else None)) for _ in range(2)]
    keys, frames = np.array(sorted(TEXTS), np.uint64), np.array([1, 2, 3, 4])
    made[0].refresh(TEXTS)
    made[0].rate(keys, frames)
    made[1].state = made[0].state
    for source in made:
        source.refresh({})
    assert made[0].rate(keys, frames).tolist() == made[1].rate(keys, frames).tolist()


def test_a_batch_is_rewarded_by_r_times_n_to_minus_beta_in_the_learner_itself():
    """Through fragments and the learner's own assembly, frame by frame."""
    made = config("agent.intrinsic={kind: count, coef: 0.3}")
    net, playing = network(9, 2, False), sampler(made)
    fragments = [playing.collect(i) for i in range(2)]
    texts = {key: text for f in fragments for key, text in f.texts.items()}
    with torch.no_grad():
        said = {key: float(net(**net.encode([text.decode("latin-1")])).softmax(-1)[0, 1]) for key, text in texts.items()}
    middle = float(
        np.mean(sorted(said.values())[len(said) // 2 - 1 : len(said) // 2 + 1])
    )  # between two texts, so that rounding tells none apart
    source = Classified(lambda newer_than: Answered(model(1, net) if newer_than < 1 else None), threshold=middle)
    report = learner(made, source).step(batch(0, fragments), None)
    paid = [
        0.3 * (said.get(int(h), 0.0) > middle) * float(n) ** -3
        for f in fragments
        for h, n in zip(f.message_hash.ravel(), f.message_count.ravel(), strict=True)
    ]
    assert report["reward/intrinsic_part"] == pytest.approx(np.mean(paid), rel=1e-5) and np.mean(paid) > 0


def test_relabelling_rates_a_batch_anew_before_each_further_pass():
    passes = {}
    for relabel in ("false", "true"):
        made = config(f"agent.intrinsic={{kind: count, coef: 0.3, relabel: {relabel}}}", "learner.epochs=3")
        asked = []
        source = Classified(lambda newer_than, asked=asked: asked.append(newer_than) or Answered(model(1, network(9, 2, False))))
        learning, playing = learner(made, source), sampler(made)
        update(learning, playing, 0)
        learning.step(batch(0, [playing.collect(0), playing.collect(1)]), None)
        passes[relabel] = len(asked)
    assert passes == {"false": 1, "true": 3}


def test_the_novelty_of_a_text_is_that_of_the_frame():
    assert intrinsic.novelty(np.array([0, 1, 2, 4], np.int32), 3.0).tolist() == [0.0, 1.0, 0.125, 0.015625]
