"""Judged rewards: every sample asked once, none waited for beyond its limit, a missing score never a number."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rayrl.annotations import Annotation, QuestionKind, QuestionState
from rayrl.config.schema import RewardComponent
from rayrl.rewards.judged import JudgeWorker
from rayrl.types import RewardStatus

sys.path.append(str(Path(__file__).parent.parent / "reward_models"))
from scripted_scoring import ScriptedAnnotator, ScriptedBuffer, trajectory

PAIRED = {"preferred": RewardComponent(judge="pairwise")}
GRADED = {"graded": RewardComponent(judge="score")}


def groups(count: int) -> dict[int, list]:
    return {o: [trajectory(o, s, f"p{o}:", "x" * s) for s in range(3)] for o in range(count)}


def make(buffer, annotator, components=GRADED, **settings) -> JudgeWorker:
    settings = {"deadline_s": 10.0} | settings
    return JudgeWorker("judges", buffer, buffer, annotator, components, "judges", **settings)


def run(worker: JudgeWorker, until: threading.Event, limit_s: float = 10.0) -> None:
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert until.wait(limit_s), worker.stats()
    worker.stop()
    thread.join(5)
    assert not thread.is_alive()


def length(question) -> float:
    return len(question.texts[0]) / 3


def test_every_sample_has_the_judges_score_and_its_provenance():
    buffer, annotator = ScriptedBuffer(groups(9)), ScriptedAnnotator(length, QuestionKind.SCORE)
    run(make(buffer, annotator, max_groups=2), buffer.answered)
    for samples in buffer.rewards.values():
        assert [r[0].value for r in samples] == [0.0, 1 / 3, 2 / 3]
    record = buffer.rewards[0][0][0]
    assert record.component == "graded" and record.producer == "scripted" and record.producer_version.startswith("tttt")
    assert {q.context for q in annotator.asked} == {f"p{o}:" for o in range(9)}


def test_an_answer_that_failed_or_is_late_is_no_number_and_holds_up_its_own_group_only():
    answers = lambda q: np.nan if q.context == "p1:" else None if q.context == "p2:" else length(q)
    buffer, annotator = ScriptedBuffer(groups(6)), ScriptedAnnotator(answers, QuestionKind.SCORE)
    worker = make(buffer, annotator, deadline_s=1.0)
    thread = threading.Thread(target=worker.run)
    thread.start()
    limit = time.monotonic() + 0.9
    while len(buffer.rewards) < 5 and time.monotonic() < limit:
        time.sleep(0.02)
    assert set(buffer.rewards) == {0, 1, 3, 4, 5}, "they did not wait for group 2"
    assert buffer.answered.wait(5)
    worker.stop()
    thread.join(5)
    for ordinal, reason in ((1, "malformed"), (2, "late")):
        records = [r for sample in buffer.rewards[ordinal] for r in sample]
        assert all(r.status is RewardStatus.FAILED and r.value is None and r.error.startswith(reason) for r in records)
    assert worker.stats()["failed_by_reason"] == {"malformed": 3, "late": 3} and worker.stats()["scored"] == 12


def test_a_patient_worker_takes_a_late_answer_and_forgets_what_the_buffer_dropped():
    late: list[str] = ["p0:", "p1:"]
    annotator = ScriptedAnnotator(lambda q: None if q.context in late else length(q), QuestionKind.SCORE)
    buffer = ScriptedBuffer(groups(2))
    worker = make(buffer, annotator, deadline_s=0.1, patient=True)
    thread = threading.Thread(target=worker.run)
    thread.start()
    time.sleep(0.5)
    assert not buffer.rewards
    buffer.gone.add(1)
    time.sleep(0.5)
    late.clear()
    time.sleep(0.5)
    worker.stop()
    thread.join(5)
    assert [r[0].value for r in buffer.rewards[0]] == [0.0, 1 / 3, 2 / 3] and 1 not in buffer.rewards


def test_a_restarting_annotator_is_survived():
    buffer, annotator = ScriptedBuffer(groups(4)), ScriptedAnnotator(length, QuestionKind.SCORE)
    annotator.away = True
    threading.Timer(0.5, lambda: setattr(annotator, "away", False)).start()
    run(make(buffer, annotator), buffer.answered)
    assert all(r[0].status is RewardStatus.SCORED for samples in buffer.rewards.values() for r in samples)


def test_components_of_other_tasks_are_not_asked_about():
    components = {"graded": RewardComponent(judge="score"), "prose": RewardComponent(judge="class", tasks=["essay"])}
    buffer, annotator = ScriptedBuffer(groups(2)), ScriptedAnnotator(length, QuestionKind.SCORE)
    run(make(buffer, annotator, components), buffer.answered)
    assert [[r.component for r in sample] for sample in buffer.rewards[0]] == [["graded", "prose"]] * 3
    assert all(sample[1].value == 0.0 for sample in buffer.rewards[0]) and len(annotator.asked) == 6


def test_an_evaluation_waits_for_its_answers_within_the_limit():
    annotator = ScriptedAnnotator(length, QuestionKind.SCORE)
    worker = make(ScriptedBuffer({}), annotator, deadline_s=0.5)
    assert [r[0].value for r in worker.score(groups(1)[0])] == [0.0, 1 / 3, 2 / 3]
    annotator.answer = lambda q: None
    started = time.monotonic()
    records = worker.score([trajectory(7, 0, "other", "y")])
    assert records[0][0].error.startswith("late") and time.monotonic() - started == pytest.approx(0.5, abs=0.5)


def test_a_judge_of_pairs_gives_win_rates_that_add_up_to_half_the_group():
    """Longer is better, equal texts tie unasked: against a brute-force round robin."""
    texts = ["aa", "b", "aa", "cccc", ""]
    samples = [trajectory(0, s, "p:", text) for s, text in enumerate(texts)]
    buffer = ScriptedBuffer({0: samples, 1: [trajectory(1, s, "q:", "z" * s) for s in range(2)]})
    annotator = ScriptedAnnotator(lambda q: float(len(q.texts[0]) > len(q.texts[1])), QuestionKind.PAIR)
    worker = make(buffer, annotator, PAIRED, kinds={"preferred": QuestionKind.PAIR})
    run(worker, buffer.answered)
    found = [r[0].value for r in buffer.rewards[0]]
    wins = lambda i: sum((len(texts[i]) > len(t)) + 0.5 * (texts[i] == t) for j, t in enumerate(texts) if j != i) / 4
    assert found == pytest.approx([wins(i) for i in range(5)]) and sum(found) == pytest.approx(5 / 2)
    assert [r[0].value for r in buffer.rewards[1]] == [0.0, 1.0]
    assert len([q for q in annotator.asked if q.context == "p:"]) == 7, "each pair of texts once, equal ones never"


def test_a_comparison_without_an_answer_is_not_made_and_a_sample_without_any_has_no_score():
    answers = lambda q: np.nan if "x" in q.texts else float(q.texts[0] == "best")
    buffer = ScriptedBuffer(
        {0: [trajectory(0, s, "p:", t) for s, t in enumerate(["best", "mid", "x"])], 1: [trajectory(1, 0, "q:", "lone")]}
    )
    worker = make(
        buffer,
        ScriptedAnnotator(answers, QuestionKind.PAIR),
        {"preferred": RewardComponent(judge="pairwise")},
        kinds={"preferred": QuestionKind.PAIR},
    )
    run(worker, buffer.answered)
    first, second, third = (r[0] for r in buffer.rewards[0])
    assert (first.value, second.value) == (1.0, 0.0) and third.status is RewardStatus.FAILED and third.error.startswith("malformed")
    assert buffer.rewards[1][0][0].error.startswith("alone")


def test_pairs_of_an_evaluation_stay_within_their_prompt():
    annotator = ScriptedAnnotator(lambda q: float(len(q.texts[0]) > len(q.texts[1])), QuestionKind.PAIR)
    worker = make(ScriptedBuffer({}), annotator, PAIRED, kinds={"preferred": QuestionKind.PAIR})
    both = [*groups(2)[0], *groups(2)[1]]
    assert [r[0].value for r in worker.score(both)] == [0.0, 0.5, 1.0] * 2 and len(annotator.asked) == 6


class AnyAnnotator(ScriptedAnnotator):
    """Answers with several values."""

    def ask(self, questions, template=None, wait_s=0.0):
        self.asked += questions
        return [self.annotate(q, self.answer(q)) for q in questions]

    def annotate(self, question, values):
        state = QuestionState.LABELLED if values else QuestionState.FAILED
        return Annotation(1, "k" * 32, self.kind, question, (), state, tuple(values), "" if values else "malformed: x", template="t" * 16)


def test_a_ranking_gives_the_best_one_and_the_worst_zero_and_asks_about_each_text_once():
    annotator = AnyAnnotator(lambda q: [float(sorted(q.texts, key=len, reverse=True).index(t)) for t in q.texts], QuestionKind.RANKING)
    samples = [trajectory(0, s, "p0:", "x" * length) for s, length in enumerate((1, 3, 2, 3))] + [trajectory(1, 0, "p1:", "y")] * 2
    worker = make(ScriptedBuffer({}), annotator, {"place": RewardComponent(judge="listwise")}, kinds={"place": QuestionKind.RANKING})
    assert [r[0].value for r in worker.score(samples)] == [0.0, 1.0, 0.5, 1.0, 0.5, 0.5]
    assert [q.texts for q in annotator.asked] == [("x", "xxx", "xx")], "equal texts are one, and one text is no list"
    annotator.answer = lambda q: []
    assert [r[0].status for r in worker.score(samples)][:2] == [RewardStatus.FAILED] * 2


def test_steps_are_rated_one_by_one_and_pay_the_sample_their_sum():
    annotator = AnyAnnotator(lambda q: [float("ok" in t) for t in q.texts], QuestionKind.STEPS)
    components = {"process": RewardComponent(judge="steps", separator=",")}
    worker = make(ScriptedBuffer({}), annotator, components, kinds={"process": QuestionKind.STEPS})
    rated, empty = worker.score([trajectory(0, 0, "p:", "ok, bad, ok"), trajectory(0, 1, "p:", "")])
    assert (rated[0].value, rated[0].step_values) == (2.0, (1.0, 0.0, 1.0)) and annotator.asked[0].texts == ("ok,", "bad,", "ok")
    assert (empty[0].value, empty[0].step_values, len(annotator.asked)) == (0.0, (), 1)
    annotator.answer = lambda q: []
    failed = worker.score([trajectory(0, 2, "p:", "ok")])[0][0]
    assert failed.status is RewardStatus.FAILED and failed.value is None and failed.step_values is None
