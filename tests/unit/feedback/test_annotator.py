"""The annotator at work: nobody waits for a judge, everything is asked once, everything that goes wrong is counted."""

import random
import threading
import time

import numpy as np
import pytest
from scripted_judge import ScriptedJudge, messages, running, wait_for

from rayrl.annotations import Question, QuestionState
from rayrl.feedback.annotator import Annotator
from rayrl.feedback.judges.base import JudgeError


def see(annotator, texts):
    return annotator.sight(texts, dict.fromkeys(texts, 1), dict.fromkeys(texts, 1))


def labelled(annotator):
    found = annotator.snapshot()
    return 0 if found is None else len(found.keys)


def text_of(prompt):
    return prompt.split("<<<\n")[-1].split("\n>>>")[0]


def test_a_lone_question_is_sent_within_half_a_second(store, settings):
    judge = ScriptedJudge()
    with running(Annotator(settings(), store(settings()), judge)) as annotator:
        time.sleep(0.3)
        started = time.monotonic()
        see(annotator, messages(1))
        assert wait_for(lambda: judge.prompts) and time.monotonic() - started < 0.5


def test_one_slow_answer_holds_up_no_other(store, settings):
    slow = next(iter(messages(1).values()))
    judge = ScriptedJudge(delay=lambda prompt: 20.0 if text_of(prompt) == slow else 0.05)
    with running(Annotator(settings(concurrency=16), store(settings()), judge)) as annotator:
        see(annotator, messages(100))
        started = time.monotonic()
        assert wait_for(lambda: labelled(annotator) == 99, 5) and time.monotonic() - started < 2.0
        assert judge.running == 1 and judge.most_running == 16


def test_a_label_is_in_use_less_than_a_second_after_its_answer(store, settings):
    answered, seen = {}, {}

    def reply(prompt):
        answered[text_of(prompt)] = time.monotonic()
        return "<label>FOO</label>"

    judge = ScriptedJudge(reply, delay=lambda prompt: random.uniform(0.0, 0.2))
    with running(Annotator(settings(), store(settings()), judge)) as annotator:
        texts, version = messages(200), -1
        see(annotator, texts)
        limit = time.monotonic() + 20
        while len(seen) < 200 and time.monotonic() < limit:
            newer = annotator.snapshot(version)
            if newer is not None:
                version = newer.version
                seen |= {k: time.monotonic() for k in newer.keys.tolist() if k not in seen}
            time.sleep(0.05)  # a learner's batch
        delays = sorted(seen[k] - answered[texts[k]] for k in seen)
        assert len(delays) == 200 and delays[190] < 1.0


def test_a_judge_that_hangs_blocks_no_caller(store, settings):
    judge = ScriptedJudge(delay=lambda prompt: 1000.0)
    config = settings(max_queued=500, max_known=1000)
    with running(Annotator(config, store(config), judge)) as annotator:
        slowest = 0.0
        for i in range(200):
            started = time.monotonic()
            see(annotator, messages(20, start=20 * i))
            annotator.snapshot()
            slowest = max(slowest, time.monotonic() - started)
        stats = annotator.stats()
        assert slowest < 0.2 and stats["feedback/backlog_questions"] <= 500 and stats["feedback/evicted_count"] > 0


def test_many_callers_ask_the_same_and_it_is_asked_once(store, settings):
    judge = ScriptedJudge(delay=lambda prompt: 0.01)
    with running(Annotator(settings(), store(settings()), judge)) as annotator:
        threads = [threading.Thread(target=lambda: [see(annotator, messages(50)) for _ in range(20)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wait_for(lambda: labelled(annotator) == 50)
        see(annotator, messages(50))
        time.sleep(0.3)
        assert len(judge.prompts) == len(set(judge.prompts)) == 50 and annotator.stats()["feedback/asked_count"] == 50


def test_faults_are_retried_counted_and_never_become_a_label(store, settings):
    """A third of the calls fails, a fifth of the answers is malformed, some come too late."""
    rng = random.Random(0)

    def reply(prompt):
        fate = rng.random()
        if fate < 0.3:
            raise JudgeError("http", "boom (500)")
        return "no idea" if fate < 0.5 else "<label>FOO</label>"

    config = settings(deadline_s=0.2, retry__breaker_failures=50, concurrency=8)
    judge = ScriptedJudge(reply, delay=lambda prompt: 5.0 if rng.random() < 0.05 else 0.0)
    with running(Annotator(config, store(config), judge)) as annotator:
        see(annotator, messages(300))
        assert wait_for(lambda: labelled(annotator) + annotator.stats()["feedback/failed_count"] == 300, 30)
        stats = annotator.stats()
        snapshot = annotator.snapshot()
        assert set(snapshot.labels.tolist()) == {1.0}, "what could not be read is not a 0"
        assert stats["feedback/labelled_count"] == len(snapshot.keys) > 200
        assert stats["feedback/errors/http"] > 50 and stats["feedback/errors/malformed"] > 20 and stats["feedback/errors/timeout"] > 3
        assert sum(v for k, v in stats.items() if k.startswith("feedback/failed/")) == stats["feedback/failed_count"] > 0
        asked = [judge.prompts.count(p) for p in set(judge.prompts)]
        assert max(asked) <= 3 and len(asked) == 300 == stats["feedback/asked_count"]


def test_a_server_that_is_away_costs_no_question_its_attempts(store, settings):
    down = threading.Event()
    down.set()

    def reply(prompt):
        if down.is_set():
            raise JudgeError("connection", "cannot reach it")
        return "<label>BAR</label>"

    config = settings(retry__breaker_failures=3, retry__breaker_s=0.05)
    with running(Annotator(config, store(config), ScriptedJudge(reply))) as annotator:
        see(annotator, messages(20))
        assert wait_for(lambda: annotator.stats()["feedback/breaker_open_bool"])
        time.sleep(0.5)
        stats = annotator.stats()
        assert stats["feedback/degraded_bool"] and "cannot reach it" in annotator.problem() and stats["feedback/failed_count"] == 0
        down.clear()
        assert wait_for(lambda: labelled(annotator) == 20)
        assert not annotator.stats()["feedback/degraded_bool"] and annotator.problem() == ""


@pytest.mark.parametrize("kind", ["key", "model"])
def test_a_mistake_of_the_configuration_is_told_at_once_and_not_hammered(store, settings, kind):
    judge = ScriptedJudge(lambda prompt: (_ for _ in ()).throw(JudgeError(kind, "no such thing", "look here")))
    config = settings(retry__breaker_s=10.0, concurrency=4)
    with running(Annotator(config, store(config), judge)) as annotator:
        see(annotator, messages(50))
        assert wait_for(lambda: "no such thing" in annotator.problem())
        time.sleep(0.3)
        assert len(judge.prompts) <= 4 and annotator.stats()["feedback/failed_count"] == 0


def test_the_budget_is_never_exceeded_and_saying_so_is_not_stopping(store, settings):
    config = settings(budget__tokens=20_000, sampling__max_tokens=100)
    judge = ScriptedJudge()
    with running(Annotator(config, store(config), judge)) as annotator:
        see(annotator, messages(500))
        assert wait_for(lambda: annotator.stats()["feedback/budget_spent_bool"])
        stats = annotator.stats()
        assert 0 < stats["feedback/tokens"] <= 20_000 and stats["feedback/labelled_count"] == len(judge.prompts) < 500
        assert "budget" in annotator.problem() and stats["feedback/degraded_bool"]
    again = Annotator(config, store(config), judge)
    with running(again):
        before = len(judge.prompts)
        see(again, messages(500, start=500))
        time.sleep(0.4)
        used, sent = again.stats()["feedback/tokens"], len(judge.prompts) - before
        assert stats["feedback/tokens"] <= used <= 20_000 and sent * 200 < 20_000 - stats["feedback/tokens"] + 1000, "one budget for all"


def test_money_is_counted_by_the_two_prices(store, settings):
    config = settings(budget__usd=20.0, budget__usd_per_million_input=1000.0, budget__usd_per_million_output=4000.0)
    with running(Annotator(config, store(config), ScriptedJudge())) as annotator:
        see(annotator, messages(500))
        assert wait_for(lambda: annotator.stats()["feedback/budget_spent_bool"])
        told = lambda: sum(a.cost_usd for a in annotator.labels_since(0, 1000)[1])
        assert wait_for(lambda: told() == pytest.approx(annotator.stats()["feedback/cost_usd"]))
        assert 0 < annotator.stats()["feedback/cost_usd"] <= 20.0


def test_the_rate_limit_spreads_the_questions(store, settings):
    config = settings(budget__requests_per_minute=1200)  # 20 a second, 100 at first
    judge = ScriptedJudge()
    with running(Annotator(config, store(config), judge)) as annotator:
        see(annotator, messages(500))
        time.sleep(1.0)
        assert 100 <= len(judge.prompts) <= 130


def test_a_pair_in_both_orders_is_two_requests_and_tokens_have_a_rate_of_their_own(store, settings):
    pairs = [Question((f"a {i}", f"b {i}")) for i in range(300)]
    config = settings(template="pairwise", budget__requests_per_minute=1200)  # 100 at first
    judge = ScriptedJudge(lambda prompt: "<best>tie</best>")
    with running(Annotator(config, store(config, "requests.sqlite"), judge)) as annotator:
        annotator.offer_pairs(pairs)
        assert wait_for(lambda: len(judge.prompts) >= 100)
        assert len(judge.prompts) <= 100 + 20 * 3, "not twice as many"
    config = settings(template="pairwise", budget__tokens_per_minute=60_000, sampling__max_tokens=64)  # 5,000 at first, 1,000 a second
    judge = ScriptedJudge(lambda prompt: "<best>tie</best>")
    with running(Annotator(config, store(config, "tokens.sqlite"), judge)) as annotator:
        started = time.monotonic()
        annotator.offer_pairs(pairs)
        time.sleep(1.0)
        spent = annotator.stats()["feedback/tokens"]
        most = 2 * max(len(prompt.encode()) for prompt in judge.prompts) * 2  # one question, asked before its true cost was known
        assert 0 < spent <= 5_000 + 1_000 * (time.monotonic() - started) + most


def test_ask_waits_as_long_as_told_and_the_answer_is_there_for_good(store, settings):
    config = settings(template="score")
    judge = ScriptedJudge(lambda prompt: "<score>8</score>", delay=lambda prompt: 0.3)
    questions = [Question(("4",), "2+2="), Question(("5",), "2+2="), Question(("x" * 30_000,), "2+2=")]
    with running(Annotator(config, store(config), judge)) as annotator:
        assert annotator.ask(questions, wait_s=0.0) == [None, None, None]
        first, second, impossible = annotator.ask(questions, wait_s=5.0)
        assert first.label == second.label == pytest.approx(0.8) and first.question == questions[0] and impossible is None
        assert annotator.ask(questions[:1])[0] == first and len(judge.prompts) == 2
        other = annotator.ask([Question(("4", "5"), "2+2=")], template="pairwise", wait_s=2.0)
        assert other[0].state is QuestionState.FAILED, "a score is no verdict on a pair"
    with running(Annotator(config, store(config), judge)) as annotator:
        assert annotator.ask(questions[:2]) == [first, second], "also after a restart"


@pytest.mark.parametrize(
    ("verdicts", "inconsistent", "expected"),
    [
        (("1", "2"), "tie", 1.0),
        (("2", "1"), "tie", 0.0),
        (("tie", "tie"), "tie", 0.5),
        (("1", "1"), "tie", 0.5),
        (("2", "2"), "failed", None),
        (("1", "tie"), "failed", None),
        (("1", "tie"), "tie", 0.5),
        (("1", "perhaps"), "tie", None),
    ],
)
def test_a_pair_is_asked_in_both_orders_and_a_contradiction_is_told(store, settings, verdicts, inconsistent, expected):
    config = settings(template="pairwise", pairs__inconsistent=inconsistent, retry__max_attempts=1)
    reply = lambda prompt: f"<best>{verdicts[prompt.index('alpha') > prompt.index('beta')]}</best>"
    with running(Annotator(config, store(config), ScriptedJudge(reply))) as annotator:
        assert annotator.offer_pairs([Question(("beta", "alpha"), "which?")]) == 1
        assert wait_for(lambda: annotator.stats()["feedback/labelled_count"] + annotator.stats()["feedback/failed_count"] == 1)
        (found,) = annotator.ask([Question(("alpha", "beta"), "which?")], wait_s=2.0)
        assert found.values == (() if expected is None else (expected,)) and len(found.raw_answers) == 2


def test_a_log_replays_without_a_judge_and_gives_the_same_labels(store, settings):
    from rayrl.feedback.replay import Replay

    rng = random.Random(1)
    reply = lambda prompt: rng.choice(("<label>FOO</label>", "<label>BAR</label>", "hm"))
    config = settings(retry__max_attempts=1)
    with running(Annotator(config, store(config), ScriptedJudge(reply))) as annotator:
        see(annotator, messages(100))
        assert wait_for(lambda: labelled(annotator) + annotator.stats()["feedback/failed_count"] == 100)
        recorded = annotator.snapshot()
        path = annotator._store._database.path
    again = Annotator(config, store(config, "replayed.sqlite"), None, Replay(path))
    with running(again):
        for key, text in messages(101).items():
            again.sight({key: text}, {key: 1})
        replayed = again.snapshot()
        np.testing.assert_array_equal(replayed.keys, recorded.keys)
        np.testing.assert_array_equal(replayed.labels, recorded.labels)
        stats = again.stats()
        assert stats["feedback/failed/malformed"] == 100 - len(recorded.keys) and stats["feedback/failed/unrecorded"] == 1
        assert stats["feedback/backlog_questions"] == 0


def test_pairs_of_sighted_texts_are_made_as_long_as_the_judge_has_time(store, settings):
    config = settings(template="nethack_pair", concurrency=4)
    judge = ScriptedJudge(lambda prompt: "<best>tie</best>")
    with running(Annotator(config, store(config), judge)) as annotator:
        see(annotator, messages(6))
        assert wait_for(lambda: annotator.stats()["feedback/labelled_count"] == 15), "all pairs of six texts"
        labels = annotator.labels_since()[1]
        assert all(len(a.items) == 2 and a.values == (0.5,) for a in labels) and annotator.snapshot(0) is None


def test_no_more_questions_are_asked_than_the_budget_has_labels_also_after_a_restart(store, settings):
    limits = settings(budget__labels=5, retry__max_attempts=2)
    judge = ScriptedJudge()
    seen = messages(20)
    for _ in range(2):
        with running(Annotator(limits, store(limits), judge)) as annotator:
            annotator.sight(seen, dict.fromkeys(seen, 1))
            assert wait_for(
                lambda a=annotator: a.stats()["feedback/budget_spent_bool"] == 1.0 and a.stats()["feedback/labelled_count"] == 5
            )
            assert "the budget is spent: 5 questions" in annotator.problem()
    assert len(judge.prompts) == 5


def test_who_tells_without_a_pause_steps_aside_for_the_answers_but_never_for_long(store, settings):
    annotator = Annotator(settings(), store(settings()), ScriptedJudge())
    annotator._free.clear()  # as while the loop files answers
    started = time.monotonic()
    see(annotator, messages(1))
    assert 0.03 < time.monotonic() - started < 1.0
    annotator._free.set()
    seen, stop = messages(300), threading.Event()
    with running(annotator):
        see(annotator, seen)
        tell = lambda: all(annotator.sight({}, dict.fromkeys(seen, 1)) == [] for _ in iter(stop.is_set, True))
        threads = [threading.Thread(target=tell) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert wait_for(lambda: labelled(annotator) == 300, 60.0)
        stop.set()
        for thread in threads:
            thread.join(5)
        assert annotator._free.wait(5), "callers are let go"
