"""A judge inside the cluster: questions share one engine, and nothing of it hangs when a question is given up or does not fit."""

import asyncio
import threading

import pytest
from scripted_judge import messages, running, wait_for

from rayrl.feedback.annotator import Annotator
from rayrl.feedback.judges.base import JudgeError
from rayrl.feedback.judges.engine import JudgeWorker, WorkersJudge, render_with
from rayrl.rollout.fake import FakeEngine
from rayrl.runtime.contract import RoleSpec
from rayrl.runtime.local import LocalRuntime
from rayrl.types import SamplingParams

ASK = [{"role": "user", "content": "hello"}]


def worker(step_s=0.0, max_length=512, decode=lambda ids: "<label>FOO</label>"):
    engine = FakeEngine(step_s=step_s, lengths=lambda rng: 8, max_length=max_length)
    return JudgeWorker(engine, "fake", lambda messages: [2] * len(messages[-1]["content"]), decode)


class stepping:
    """The worker's loop in a thread."""

    def __init__(self, role):
        self.role, self.thread = role, threading.Thread(target=role.run)

    def __enter__(self):
        self.thread.start()
        return self.role

    def __exit__(self, *failure):
        self.role.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_many_questions_run_in_one_batch():
    with stepping(worker(step_s=0.02)) as role:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(role.answer(ASK, SamplingParams(max_tokens=20), 10.0))) for _ in range(32)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 32 and all(a.completion_tokens == 8 and a.prompt_tokens == 5 and not a.cut_off for a in answers)
        assert role.stats()["busy_s"] < 32 * 8 * 0.02 / 3, "side by side, not one after the other"


def test_an_answer_that_hits_its_limit_is_cut_off():
    with stepping(worker()) as role:
        assert role.answer(ASK, SamplingParams(max_tokens=3), 10.0).cut_off


def test_a_question_that_is_given_up_leaves_the_engine():
    with stepping(worker(step_s=0.2)) as role:
        with pytest.raises(JudgeError, match="did not answer") as caught:
            role.answer(ASK, SamplingParams(max_tokens=20), 0.1)
        assert caught.value.kind == "timeout"
        assert wait_for(lambda: role._engine.num_running == 0)


def test_a_prompt_that_does_not_fit_is_the_questions_fault():
    with stepping(worker(max_length=4)) as role:
        with pytest.raises(JudgeError, match="does not fit") as caught:
            role.answer(ASK, SamplingParams(max_tokens=4), 5.0)
        assert caught.value.kind == "request" and not caught.value.retry


def test_the_annotator_spreads_its_questions_over_the_workers(store, settings):
    runtime = LocalRuntime()
    handles = runtime.start([RoleSpec(f"judge-{i}", worker, {"step_s": 0.002, "max_length": 8192}, concurrency=64) for i in range(2)], 10.0)
    loops = [h.submit("run") for h in handles]
    config = settings(concurrency=8)
    with running(Annotator(config, store(config), WorkersJudge(handles, "fake", 8))) as annotator:
        seen = messages(50)
        annotator.sight(seen, dict.fromkeys(seen, 1))
        assert wait_for(lambda: annotator.stats()["feedback/labelled_count"] == 50)
    counts = [h.stats()["answers"] for h in handles]
    assert sum(counts) == 50 and min(counts) > 10
    for handle, loop in zip(handles, loops, strict=True):
        handle.stop()
        loop.result(5.0)
    runtime.shutdown()


def test_a_tokenizer_without_a_chat_template_reads_plain_text():
    class Plain:
        chat_template = None

        def __call__(self, text):
            return {"input_ids": list(text.encode())}

    assert bytes(render_with(Plain())([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])) == b"a\n\nb\n\n"


def test_without_a_living_worker_it_says_so():
    judge = WorkersJudge([], "fake", 2)
    with pytest.raises(JudgeError, match="no judge worker"):
        asyncio.run(judge.answer(ASK, SamplingParams(), 1.0))
    asyncio.run(judge.close())
