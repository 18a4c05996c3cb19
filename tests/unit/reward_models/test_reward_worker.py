"""The circle of an online reward model, without Ray and without a judge that takes its time."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from scripted_scoring import ScriptedAnnotator, ScriptedBuffer, trajectory
from test_fitter import CharacterCounts

from rayrl.annotations import Annotation, Question, QuestionKind, QuestionState
from rayrl.config.schema import RewardComponent, RewardModelConfig
from rayrl.reward_models.fitter import Fitter
from rayrl.reward_models.objectives import build
from rayrl.reward_models.worker import RewardModelWorker, _Held, to_examples
from rayrl.types import RewardStatus

SETTINGS = RewardModelConfig(
    lr=0.05, min_labels=8, updates_per_arrival=20, batch_size=16, questions_per_group=3, validation_share=0.0, normalize=False
)


def prefers_a(question: Question) -> float:
    """More of the letter a is better."""
    first, second = (text.count("a") for text in question.texts)
    return 1.0 if first > second else 0.0 if first < second else 0.5


def groups(count: int, start: int = 0) -> dict[int, list]:
    return {o: [trajectory(o, s, f"p{o}:", "a" * (s + o % 2) + "b" * (4 - s)) for s in range(4)] for o in range(start, start + count)}


def worker(buffer, annotator, settings=SETTINGS, *, deadline_s=30.0, folder=None, components=None) -> RewardModelWorker:
    objective = build(settings.objective)
    fitter = Fitter(CharacterCounts(objective.width * settings.heads), objective, settings)
    components = components or {"preferred": RewardComponent(reward_model="m")}
    return RewardModelWorker("m", buffer, buffer, fitter, settings, components, annotator, deadline_s=deadline_s, folder=folder)


def run(made: RewardModelWorker, until: threading.Event, limit_s: float = 20.0) -> None:
    thread = threading.Thread(target=made.run)
    thread.start()
    assert until.wait(limit_s), made.stats()
    made.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_it_asks_about_what_the_policy_wrote_learns_and_scores_it():
    buffer, annotator = ScriptedBuffer(groups(40)), ScriptedAnnotator(prefers_a)
    made = worker(buffer, annotator)
    run(made, buffer.answered)
    contexts = {q.context for q in annotator.asked}
    assert contexts <= {f"p{o}:" for o in range(40)} and len(annotator.asked) >= 100
    for samples in buffer.rewards.values():
        values = [records[0].value for records in samples]
        assert values == sorted(values) and values[0] < values[-1], "more a is better, as the judge says"
        assert {r[0].producer for r in samples} == {"m"} and len({r[0].producer_version for r in samples}) == 1
        assert int(samples[0][0].producer_version) >= 1
    model = made.stats()["model"]
    assert model["arrived"] == len(annotator.log) and model["version"] >= 1 and model["asked"] == len(annotator.asked)


def test_a_ranked_list_teaches_all_the_comparisons_that_it_implies():
    settings = replace(SETTINGS, listwise=True, questions_per_group=4)

    class Ranker(ScriptedAnnotator):
        def _take(self, question):
            self.asked.append(question)
            ranks = tuple(float(i) for i in np.argsort(np.argsort([-t.count("a") for t in question.texts])))
            number = len(self.log) + 1
            made = Annotation(number, f"{number:032d}", QuestionKind.RANKING, question, (), QuestionState.LABELLED, ranks)
            self.log.append(made)
            return made

    buffer, annotator = ScriptedBuffer(groups(40)), Ranker(prefers_a)
    made = worker(buffer, annotator, settings)
    run(made, buffer.answered)
    assert all(len(set(q.texts)) == 4 for q in annotator.asked) and len(annotator.asked) == 40, "one list for each prompt"
    assert made.stats()["model"]["labels"] == 40 * 6
    last = [r[0].value for r in buffer.rewards[39]]
    assert last == sorted(last) and last[0] < last[-1]


def test_held_out_prompts_are_asked_about_at_random():
    """What a model is unsure of looks poor by construction: quality is measured on what the policy writes."""
    settings = replace(SETTINGS, validation_share=0.5, questions_per_group=1)
    buffer = ScriptedBuffer(groups(60))
    made = worker(buffer, ScriptedAnnotator(prefers_a), settings)
    run(made, buffer.answered)
    chosen_by_heads = []
    heads = made._fitter.heads
    made._fitter.heads = lambda texts: chosen_by_heads.append(texts[0].partition(":")[0] + ":") or heads(texts)
    for samples in groups(40, start=500).values():
        made._questions(samples)
    held_out = {f"p{o}:" for o in range(500, 540) if made._fitter.examples.holds_out(f"p{o}:")}
    assert 5 < len(held_out) < 35 and set(chosen_by_heads) == {f"p{o}:" for o in range(500, 540)} - held_out


def test_before_it_has_learned_groups_wait_for_it_and_no_longer_than_the_deadline():
    buffer, annotator = ScriptedBuffer(groups(6)), ScriptedAnnotator(lambda q: None)
    started = time.monotonic()
    run(worker(buffer, annotator, deadline_s=0.5), buffer.answered)
    assert 0.4 < time.monotonic() - started < 5
    records = [r for samples in buffer.rewards.values() for sample in samples for r in sample]
    assert all(r.status is RewardStatus.FAILED and r.value is None and r.error.startswith("not ready") for r in records)


def test_what_the_labels_ask_for_is_learned_before_anything_newer_is_scored():
    settings = replace(SETTINGS, fit_before_scoring=True, warmup_updates=40, updates_per_arrival=30)
    buffer, annotator = ScriptedBuffer(groups(30)), ScriptedAnnotator(prefers_a)
    made = worker(buffer, annotator, settings)
    run(made, buffer.answered)
    assert made.stats()["model"]["updates"] >= 40 and made.stats()["failed"] == 0
    made._fitter.add([e for a in annotator.log[:5] for e in to_examples(a)])
    updates, trajectories = made._fitter.updates, groups(1, start=70)[70]
    held = [_Held(70, trajectories, due=updates + made._fitter.pending)]
    assert made._deliver(held) == held and 70 not in buffer.rewards
    made._fitter.fit()
    assert made._deliver(held) == [] and buffer.rewards[70][0][0].status is RewardStatus.SCORED
    old = [_Held(71, trajectories, time.monotonic() - 31, due=10**9)]
    assert made._deliver(old) == [] and buffer.rewards[71][0][0].status is RewardStatus.SCORED, "not beyond the deadline"


def test_a_judge_that_falls_silent_holds_up_nobody(tmp_path):
    buffer, annotator = ScriptedBuffer(groups(20)), ScriptedAnnotator(prefers_a)
    made = worker(buffer, annotator)
    run(made, buffer.answered)
    made.save(tmp_path / "m")
    annotator.away = True
    more = ScriptedBuffer(groups(30, start=100))
    again = worker(more, annotator, folder=tmp_path / "m")
    started = time.monotonic()
    run(again, more.answered)
    assert time.monotonic() - started < 5 and again.stats()["failed"] == 0


def test_a_payload_that_is_lost_fails_and_the_others_are_scored():
    payloads = groups(20)
    buffer = ScriptedBuffer(payloads)
    get = buffer.get

    def lossy(ref, *, timeout_s):
        if ref == 3:
            from rayrl.errors import RoleFailed

            raise RoleFailed("its owner died")
        return get(ref, timeout_s=timeout_s)

    buffer.get = lossy
    run(worker(buffer, ScriptedAnnotator(prefers_a)), buffer.answered)
    assert all(r.error.startswith("payload lost") for sample in buffer.rewards[3] for r in sample)
    assert all(r.value is not None for o in buffer.rewards if o != 3 for sample in buffer.rewards[o] for r in sample)


def test_a_restarted_worker_goes_on_from_its_folder_and_reads_no_label_twice(tmp_path):
    buffer, annotator = ScriptedBuffer(groups(30)), ScriptedAnnotator(prefers_a)
    first = worker(buffer, annotator, folder=tmp_path / "m")
    run(first, buffer.answered)
    first.save(tmp_path / "m")
    later = ScriptedBuffer(groups(5, start=50))
    second = worker(later, annotator, folder=tmp_path / "m")
    before, after = first.stats()["model"], second.stats()["model"]
    assert after == before and after["version"] >= 1
    t = [trajectory(9, 0, "p", "aab")]
    assert second.score(t)[0][0].value == first.score(t)[0][0].value
    seen = len(annotator.log)
    run(second, later.answered)
    assert second.stats()["model"]["arrived"] == before["arrived"] + len(annotator.log) - seen


def test_scores_and_classes_are_learned_from_single_questions():
    settings = RewardModelConfig(
        objective="regression", lr=0.05, min_labels=8, updates_per_arrival=60, validation_share=0.0, normalize=False
    )
    annotator = ScriptedAnnotator(lambda q: q.texts[0].count("a") / 4, QuestionKind.SCORE)
    buffer = ScriptedBuffer(groups(30))
    made = worker(buffer, annotator, settings)
    run(made, buffer.answered)
    assert all(len(q.texts) == 1 for q in annotator.asked)
    values = [r[0].value for r in made.score([trajectory(0, 0, "p0:", "bbbb"), trajectory(0, 1, "p0:", "aaaa")])]
    assert values[0] < values[1]


def test_normalised_scores_have_mean_0_and_deviation_1_whatever_the_scale_of_the_network():
    settings = replace(SETTINGS, normalize=True)
    buffer = ScriptedBuffer(groups(60))
    made = worker(buffer, ScriptedAnnotator(prefers_a), settings)
    run(made, buffer.answered)
    t = [x for group in groups(60).values() for x in group]
    values = np.array([r[0].value for r in made.score(t)])
    assert abs(values.mean()) < 1 and 0.3 < values.std() < 3


def test_components_of_other_tasks_score_zero():
    buffer = ScriptedBuffer(groups(20))
    components = {"a": RewardComponent(reward_model="m"), "b": RewardComponent(reward_model="m", tasks=["other"])}
    made = worker(buffer, ScriptedAnnotator(prefers_a), components=components)
    run(made, buffer.answered)
    records = buffer.rewards[0][3]
    assert [r.component for r in records] == ["a", "b"] and records[0].value != 0.0 and records[1].value == 0.0


def test_a_frozen_model_scores_at_once_and_asks_nobody():
    settings = RewardModelConfig(online=False, path="x", normalize=False)
    buffer = ScriptedBuffer(groups(10))
    made = worker(buffer, None, settings)
    run(made, buffer.answered, 5)
    assert all(r.status is RewardStatus.SCORED and r.producer_version == "0" for s in buffer.rewards.values() for x in s for r in x)


@pytest.mark.parametrize("broken", ["first", "later"])
def test_an_annotator_that_is_restarting_is_survived(broken):
    buffer, annotator = ScriptedBuffer(groups(30)), ScriptedAnnotator(prefers_a)
    made = worker(buffer, annotator, deadline_s=15)
    annotator.away = broken == "first"
    thread = threading.Thread(target=made.run)
    thread.start()
    time.sleep(0.3)
    annotator.away = broken == "later"
    time.sleep(0.3)
    annotator.away = False
    more = groups(30, start=200)
    buffer.payloads |= more
    buffer.answered.clear()
    buffer.waiting += sorted(more)
    assert buffer.answered.wait(20)
    made.stop()
    thread.join(5)
    assert not thread.is_alive() and made.stats()["failed"] == 0


def test_what_waits_for_a_batch_is_scored_again_by_every_newer_version():
    settings = replace(SETTINGS, rescore=True)
    buffer, annotator = ScriptedBuffer(groups(24)), ScriptedAnnotator(prefers_a)
    made = worker(buffer, annotator, settings)
    run(made, buffer.answered)
    buffer.gone = {0, 1}
    before = {o: samples[0][0].producer_version for o, samples in buffer.rewards.items()}
    made._fitter.owed = 4
    made._learn()
    made._rescore()
    after = {o: samples[0][0].producer_version for o, samples in buffer.rewards.items()}
    assert {o for o in after if after[o] != str(made._fitter.version)} == {0, 1} and before[0] == after[0]
    assert made.stats()["model"]["rescored"] >= 22
    plain = worker(ScriptedBuffer(groups(4)), ScriptedAnnotator(prefers_a))
    assert not plain._given


@pytest.mark.parametrize("informed", [True, False])
def test_a_model_that_is_no_better_than_chance_on_held_out_comparisons_teaches_nothing(informed):
    rng = np.random.default_rng(0)
    by_chance = lambda question: float(rng.integers(2))
    buffer, annotator = ScriptedBuffer(groups(60)), ScriptedAnnotator(prefers_a if informed else by_chance)
    settings = replace(SETTINGS, min_accuracy=0.5, validation_share=0.3, normalize=True, fit_before_scoring=True)
    made = worker(buffer, annotator, settings)
    run(made, buffer.answered)
    values = [records[0].value for samples in buffer.rewards.values() for records in samples]
    assert made.stats()["model"]["trusted_bool"] == float(informed), made.stats()["model"]
    assert {records[0].status for samples in buffer.rewards.values() for records in samples} == {RewardStatus.SCORED}
    assert np.ptp(values[-40:]) > 1.0 if informed else set(values) == {0.0}
