"""A judge that says what a test wants, and an annotator at work."""

import asyncio
import threading
import time
from contextlib import contextmanager

from rayrl.annotations import JudgeAnswer
from rayrl.feedback.annotator import Annotator
from rayrl.feedback.keys import item_key


class ScriptedJudge:
    """Answers with what ``reply(prompt)`` returns or raises, after ``delay(prompt)`` seconds; remembers every prompt."""

    model = "scripted"

    def __init__(self, reply=lambda prompt: "ok. <label>FOO</label>", delay=lambda prompt: 0.0):
        self.reply, self.delay, self.prompts, self.running, self.most_running = reply, delay, [], 0, 0

    async def answer(self, messages, sampling, deadline_s):
        prompt = messages[-1]["content"]
        self.prompts.append(prompt)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.delay(prompt))
            text = self.reply(prompt)
        finally:
            self.running -= 1
        return JudgeAnswer(text, self.model, len(prompt) // 4, len(text) // 4)

    async def close(self):
        pass


@contextmanager
def running(annotator: Annotator):
    """The annotator at work; an error of its loop fails the test."""
    failures = []

    def work():
        try:
            annotator.run()
        except BaseException as e:
            failures.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield annotator
    finally:
        annotator.stop()
        thread.join(20)
    assert not thread.is_alive() and not failures, failures


def wait_for(condition, seconds=10.0):
    """True as soon as the condition holds; False when it did not in time."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def messages(count, start=0):
    """``{key: text}`` of distinct messages."""
    texts = [f"You see item number {i}." for i in range(start, start + count)]
    return {item_key(t): t for t in texts}
