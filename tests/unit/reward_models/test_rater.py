"""The model behind a learned intrinsic reward: what it gives away is what it fitted, by versions, and it comes back exactly."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from messages import messages

from rayrl.annotations import Annotation, Question, QuestionKind, QuestionState
from rayrl.config.schema import ModelConfig, RewardModelConfig
from rayrl.errors import RoleFailed
from rayrl.models.char_cnn import CharCnn
from rayrl.reward_models.build import build_fitter
from rayrl.reward_models.rater import MessageRater


class Labels:
    """An annotator whose labels are all there, handed out as `labels_since` does."""

    def __init__(self, kind: QuestionKind, labelled: list[tuple[tuple[str, ...], float]]) -> None:
        self.log = [
            Annotation(i + 1, f"{i:032x}", kind, Question(texts), (), QuestionState.LABELLED, (value,))
            for i, (texts, value) in enumerate(labelled)
        ]
        self.away, self.noted = False, {}

    def labels_since(self, cursor, limit):
        if self.away:
            raise RoleFailed("annotator", "gone")
        found = [a for a in self.log if a.id > cursor][:limit]
        return (found[-1].id if found else cursor), found

    def waiting(self, limit):
        return {7: "You see here a dagger."}

    def note_uncertainty(self, uncertainty):
        self.noted |= uncertainty


def rater(annotator, **settings) -> MessageRater:
    made = RewardModelConfig(network="char_cnn", **({"lr": 1e-3, "batch_size": 32, "updates_per_arrival": 20, "min_labels": 16} | settings))
    return MessageRater(build_fitter(made, ModelConfig(path="unused"), seed=3), made, annotator, lockstep=True)


def classified(count: int = 60) -> list[tuple[tuple[str, ...], float]]:
    return [((m.text,), float(m.label)) for m in messages(count, held_out=False)]


def compared() -> list[tuple[tuple[str, ...], float]]:
    found = messages(80, held_out=False)
    return [((a.text, b.text), 0.5 + (a.label - b.label) / 2) for a, b in zip(found[::2], found[1::2], strict=True) if a.text != b.text]


@pytest.mark.parametrize("objective", ["classification", "ranking"])
def test_the_weights_it_gives_away_compute_what_it_computes(objective):
    kind, labelled = (QuestionKind.CLASS, classified()) if objective == "classification" else (QuestionKind.PAIR, compared())
    made = rater(Labels(kind, labelled), objective=objective)
    given = made.model()
    assert given.version == 1 and made.model(newer_than=1) is None and made.stats()["model"]["updates"] == 20
    network = CharCnn(2 if objective == "classification" else 1, ranking=objective == "ranking").eval()
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in given.weights.items()})
    texts = [m.text for m in messages(10, held_out=True)]
    with torch.no_grad():
        outputs = network(**network.encode(texts))
    said = outputs.softmax(-1)[:, 1] if objective == "classification" else outputs[:, 0]
    np.testing.assert_allclose(said.numpy(), made._fitter.score(texts).value, atol=1e-6)


def test_labels_of_another_kind_and_too_few_labels_teach_nothing():
    assert rater(Labels(QuestionKind.PAIR, compared()), objective="classification").model() is None
    assert rater(Labels(QuestionKind.CLASS, classified(8)), objective="classification").model() is None


def test_a_saved_rater_goes_on_where_it_was_and_reads_no_label_twice(tmp_path):
    labels = Labels(QuestionKind.CLASS, classified())
    first = rater(labels, objective="classification")
    before = first.model()
    first.save(tmp_path / "state")
    second = rater(labels, objective="classification")
    second.load(tmp_path / "state")
    again = second.model()
    assert again.version == before.version and all(np.array_equal(again.weights[n], a) for n, a in before.weights.items())
    labels.log += Labels(QuestionKind.CLASS, [(("You hear a door open.",), 1.0)]).log
    labels.log[-1] = Annotation(999, "f" * 32, QuestionKind.CLASS, labels.log[-1].question, (), QuestionState.LABELLED, (1.0,))
    after = [made.model(newer_than=1) for made in (first, second)]
    assert [a.version for a in after] == [2, 2] and first.stats()["model"]["arrived"] == second.stats()["model"]["arrived"] == 61
    assert all(np.array_equal(after[0].weights[n], after[1].weights[n]) for n in after[0].weights)


def test_an_annotator_that_is_away_leaves_the_model_as_it_is():
    labels = Labels(QuestionKind.CLASS, classified())
    made = rater(labels, objective="classification")
    version = made.model().version
    labels.away = True
    assert made.model().version == version


def test_it_tells_the_annotator_what_it_is_unsure_about():
    labels = Labels(QuestionKind.CLASS, classified())
    rater(labels, objective="classification", heads=3).model()
    assert labels.noted.keys() == {7} and labels.noted[7] > 0


def test_labels_that_trickle_in_do_not_ask_for_a_whole_fit_each():
    labels = Labels(QuestionKind.CLASS, classified())
    later, labels.log = labels.log[20:], labels.log[:20]
    settings = RewardModelConfig(network="char_cnn", objective="classification", batch_size=4, updates_per_arrival=3, min_labels=16)
    made = MessageRater(build_fitter(settings, ModelConfig(path="unused"), seed=3), settings, labels)
    thread, started = threading.Thread(target=made.run, daemon=True), time.monotonic()
    thread.start()
    for annotation in later:
        labels.log = [*labels.log, annotation]
        time.sleep(0.05)
    made.stop()
    thread.join(30)
    seconds, told = time.monotonic() - started, made.stats()["model"]
    assert told["arrived"] > 20, "they are taken in while they come"
    assert 0 < told["updates"] <= 3 * (seconds + 1), "one arrival a second, however many labels"
