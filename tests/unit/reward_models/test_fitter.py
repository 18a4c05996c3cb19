"""Online fitting: nothing is lost, nothing is drawn twice differently, bounded work per call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from messages import messages
from torch import nn

from rayrl.config.schema import ModelConfig, RewardModelConfig
from rayrl.errors import CheckpointError, Diverged
from rayrl.models import tiny
from rayrl.reward_models.build import build_fitter
from rayrl.reward_models.examples import Label, Pair
from rayrl.reward_models.fitter import Fitter
from rayrl.reward_models.objectives import bootstrap_weights, build


class CharacterCounts(nn.Module):
    """As quick as a network can be: how often each character occurs, dropout, one layer."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Dropout(0.2), nn.Linear(128, outputs))

    def encode(self, texts):
        return {
            "counts": torch.stack([torch.bincount(torch.tensor([*t.encode()], dtype=torch.int64), minlength=128).float() for t in texts])
        }

    def forward(self, counts):
        return self.layers(counts)


def fitter(objective: str = "classification", **settings) -> Fitter:
    settings = {"network": "char_cnn", "objective": objective, "lr": 0.01, "min_labels": 8, "updates_per_arrival": 10} | settings
    config = RewardModelConfig(**settings)
    made = build(objective, classes=config.classes, class_balance=config.class_balance, ties=config.ties)
    return Fitter(CharacterCounts(made.width * config.heads), made, config, seed=3)


def labels(start: int, stop: int) -> list[Label]:
    return [Label(f"{'z' * (i % 7)} {'a' * (i % 5)} {i}", float(i % 5 > i % 7)) for i in range(start, stop)]


def pairs(count: int) -> list[Pair]:
    return [Pair("a" * (i % 9 + 1) + f" {i}", "a" * (i % 4 + 1) + f" {i}!", 1.0 if i % 9 > i % 4 else 0.0) for i in range(count)]


def same_weights(a: Fitter, b: Fitter) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True))


def test_a_fitter_that_was_saved_goes_on_bit_for_bit(tmp_path):
    straight, broken = fitter(), fitter()
    for f in (straight, broken):
        f.add(labels(0, 100))
        f.fit(4)
        f.normalized(np.arange(5.0))
    broken.save(tmp_path / "rm")
    loaded = fitter()
    loaded.load(tmp_path / "rm")
    for f in (straight, loaded):
        f.fit()
        f.add(labels(100, 150))
        f.fit()
    assert same_weights(straight, loaded)
    assert straight.metrics() == loaded.metrics()
    assert straight.normalized(np.arange(3.0)).tolist() == loaded.normalized(np.arange(3.0)).tolist()
    assert (straight.version, straight.updates, straight.owed) == (3, 20, 0)


def test_steps_follow_arrivals_and_may_be_made_in_slices():
    f = fitter(updates_per_arrival=10)
    f.add(labels(0, 5))
    assert not f.fit() and f.version == 0 and not f.ready, "too few labels to learn from"
    f.add(labels(5, 50))
    assert f.fit(3) and (f.version, f.updates, f.owed) == (1, 3, 7)
    assert f.fit() and (f.version, f.updates, f.owed) == (2, 10, 0)
    assert not f.fit() and f.version == 2, "nothing new, nothing done"
    for i in range(20):
        f.add(labels(50 + i, 51 + i))
    assert f.owed == 10, "a flood of arrivals does not pile up work"


def test_nobody_listens_before_the_warm_up_is_complete():
    f = fitter(updates_per_arrival=4, warmup_updates=10)
    f.add(labels(0, 50))
    assert f.pending == 10
    assert f.fit(6) and f.version == 1 and not f.ready
    assert f.fit() and (f.updates, f.owed) == (10, 0) and f.ready
    f.add(labels(50, 60))
    assert f.pending == 4 and f.ready, "it is warm once and for all"


def test_the_answers_to_one_prompt_are_run_once_for_all_their_comparisons():
    f = fitter("ranking", batch_size=12, validation_share=0.0, updates_per_arrival=1)
    ran: list[list[str]] = []
    encode = f.network.encode
    f.network.encode = lambda texts: ran.append(list(texts)) or encode(texts)
    f.add(Pair(f"{p} {a}", f"{p} {b}", 1.0, group=f"{p}") for p in range(20) for a in range(4) for b in range(a))
    f.fit()
    assert len(ran) == 1 and len(ran[0]) == len(set(ran[0])) == 8, "two prompts of four answers make twelve pairs"


def test_a_loss_over_shared_texts_is_that_over_pairs_on_their_own():
    objective, generator = build("ranking", centring=0.1), torch.Generator().manual_seed(0)
    some = [Pair("a", "b", 1.0), Pair("b", "c", 0.5, 2.0), Pair("a", "c", 0.0)]
    value = {t: torch.randn(1, 1, generator=generator) for t in "abc"}
    outputs = torch.stack([value[t] for t in objective.texts(some)])
    weights = torch.from_numpy(bootstrap_weights(some, 1))
    alone = [
        objective.loss(torch.stack([value[t] for t in objective.texts([p])]), [p], w[None]) for p, w in zip(some, weights, strict=True)
    ]
    assert objective.loss(outputs, some, weights).sum == pytest.approx(sum(a.sum for a in alone))


def test_a_judge_that_likes_ties_is_found_out_and_its_liking_is_saved(tmp_path):
    rng = np.random.default_rng(0)

    def judged(tie_share: float) -> Fitter:
        f = fitter("ranking", ties="davidson", lr=0.05, updates_per_arrival=200, validation_share=0.2)
        f.add(Pair(p.first, p.second, 0.5 if rng.random() < tie_share else p.preference) for p in pairs(400))
        f.fit()
        return f

    fond, decided = judged(0.8), judged(0.02)
    assert fond.metrics()["held_out_tie_log_nu"] > decided.metrics()["held_out_tie_log_nu"] + 1
    assert decided.metrics()["held_out_accuracy"] > 0.8
    fond.save(tmp_path / "rm")
    loaded = fitter("ranking", ties="davidson", lr=0.05)
    loaded.load(tmp_path / "rm")
    assert torch.equal(loaded.objective.parameters[0], fond.objective.parameters[0])
    with pytest.raises(CheckpointError):
        fitter("ranking").load(tmp_path / "rm")


def test_equal_versions_score_equally_and_a_fit_changes_them():
    f = fitter()
    f.add(labels(0, 60))
    f.fit()
    texts = ["aaa zz", "", "zzzz a", "aaa zz"]
    before = f.score(texts)
    assert (f.score(texts).value == before.value).all() and before.value[0] == before.value[3]
    assert f.score(texts[2:3]).value[0] == pytest.approx(before.value[2], abs=1e-6), "a score does not depend on its neighbours"
    f.add(labels(60, 70))
    f.fit()
    assert (f.score(texts).value != before.value).any()
    assert f.score([]).value.shape == (0,)


def test_held_out_labels_are_never_fitted_to():
    f = fitter(validation_share=0.3)
    seen: set[str] = set()
    encode = f.network.encode
    f.network.encode = lambda texts: (seen.update(texts) if f.network.training else None) or encode(texts)
    f.add(labels(0, 200))
    f.fit()
    assert seen and not seen & {e.text for e in f.examples.validation}
    assert {"held_out_loss", "held_out_balanced_accuracy", "held_out_calibration_error"} <= f.metrics().keys()


@pytest.mark.parametrize("objective", ["classification", "ranking", "regression"])
def test_every_objective_learns_and_reports_its_quality(objective):
    f = fitter(objective, updates_per_arrival=100, validation_share=0.2, lr=0.03)
    data = pairs(300) if objective == "ranking" else labels(0, 300)
    f.add(data)
    untrained = f.evaluate(f.examples.validation)["loss"]
    f.fit()
    found = f.metrics()
    assert found["held_out_loss"] < 0.8 * untrained
    quality = {"classification": "held_out_balanced_accuracy", "ranking": "held_out_accuracy", "regression": "held_out_correlation"}
    assert found[quality[objective]] > 0.65


def test_class_balance_finds_the_rare_class():
    rare = [Label(f"{'b' if i % 20 == 0 else 'c'} {'xyz'[i % 3] * (i % 11)} {i}", float(i % 20 == 0)) for i in range(400)]
    found = {}
    for balance in (False, True):
        f = fitter(class_balance=balance, updates_per_arrival=40, lr=0.01, validation_share=0.25)
        f.add(rare)
        f.fit()
        found[balance] = f.metrics()["held_out_balanced_accuracy"]
    assert found[True] > found[False]


def test_heads_disagree_more_where_there_is_no_data():
    f = fitter("regression", heads=8, updates_per_arrival=200, lr=0.02)
    f.add(Label("a" * (i % 6) + "b" * (i % 3), float(i % 6)) for i in range(200))
    f.fit()
    known, unknown = f.score(["aabb", "aaab"]), f.score(["~~~~QQQQ", "0000;;;;"])
    assert unknown.spread.min() > 2 * known.spread.max()


def test_bootstrap_weights_follow_from_content_and_have_mean_one():
    examples = labels(0, 4000)
    weights = bootstrap_weights(examples, 3)
    assert (weights == bootstrap_weights(list(reversed(examples)), 3)[::-1]).all()
    assert weights.mean(0) == pytest.approx([1, 1, 1], abs=0.06) and weights.var(0) == pytest.approx([1, 1, 1], abs=0.12)
    assert (bootstrap_weights(examples, 1) == 1).all()
    assert abs(np.corrcoef(weights.T)[0, 1]) < 0.06


def test_labels_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="Ranking learns from Pair, not Label"):
        fitter("ranking").add(labels(0, 3))


def test_a_diverged_fit_says_so():
    f = fitter("regression", updates_per_arrival=1, grad_clip=0.0)
    f.add(Label(f"a{i}", float("inf")) for i in range(50))
    with pytest.raises(Diverged, match="lower its lr"):
        f.fit()


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no reward model"):
        fitter().load(tmp_path)
    fitter().save(tmp_path)
    with pytest.raises(CheckpointError, match="holds no reward model"):
        fitter(heads=2).load(tmp_path)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("nano"))


def test_a_transformer_learns_and_its_checkpoint_is_one_of_hugging_face(nano, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    settings = RewardModelConfig(lr=3e-3, updates_per_arrival=30, batch_size=16, min_labels=8, validation_share=0.0)
    f = build_fitter(settings, ModelConfig(path=str(nano)), seed=1)
    f.add(Pair(f"{i}+1=good", f"{i}+1=bad", 1.0) for i in range(60))
    f.fit()
    texts = ["7+1=good", "7+1=bad", "100+1=good at length", ""]
    scores = f.score(texts).value
    assert scores[0] > scores[1] + 1
    f.network.save_pretrained(tmp_path / "hf")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf"), AutoTokenizer.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        theirs = model(**tokenizer(texts[:3], return_tensors="pt", padding=True)).logits[:, 0].numpy()
    np.testing.assert_allclose(scores[:3], theirs, atol=1e-5)
    again = build_fitter(RewardModelConfig(path=str(tmp_path / "hf")), ModelConfig(path=str(nano)))
    np.testing.assert_allclose(again.score(texts[:3]).value, scores[:3], atol=1e-5)


def test_two_builds_of_one_seed_are_one_network(nano):
    for settings in (RewardModelConfig(heads=3), RewardModelConfig(network="char_cnn")):
        a, b, c = (build_fitter(settings, ModelConfig(path=str(nano)), seed=seed) for seed in (1, 1, 2))
        assert same_weights(a, b) and not same_weights(a, c)


# ---- generalisation to wording that no label came from: 2,000 labels -----------------------------------------------------------


def cnn(objective: str, updates: int) -> Fitter:
    settings = RewardModelConfig(network="char_cnn", objective=objective, lr=1e-3, batch_size=64, updates_per_arrival=updates)
    return build_fitter(settings, ModelConfig(path="unused"), seed=0)


def as_pairs(found, count: int, seed: int) -> list[Pair]:
    rng = np.random.default_rng(seed)
    chosen = (rng.choice(len(found), 2, replace=False) for _ in range(count))
    return [Pair(found[a].text, found[b].text, 0.5 + (found[a].label - found[b].label) / 2) for a, b in chosen]


@pytest.mark.slow
def test_2000_labels_classify_messages_of_unseen_templates():
    f = cnn("classification", 250)
    f.add(Label(m.text, m.label) for m in messages(2000, held_out=False))
    f.fit()
    found = f.evaluate([Label(m.text, m.label) for m in messages(600, held_out=True)])
    print(found)
    assert found["balanced_accuracy"] >= 0.90 and found["calibration_error"] < 0.1


@pytest.mark.slow
def test_2000_compared_pairs_rank_messages_of_unseen_templates():
    f = cnn("ranking", 150)
    f.add(as_pairs(messages(2000, held_out=False), 2000, 0))
    f.fit()
    found = f.evaluate(as_pairs(messages(600, held_out=True), 600, 1))
    print(found)
    assert found["accuracy"] >= 0.85 and found["calibration_error"] < 0.1
