"""The annotator under everything at once: real NetHack messages, a judge that fails in every way, and kill -9 while it works.

python -m pytest tests/chaos/test_feedback_faults.py
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rayrl.config.schema import Config, DeadlinesConfig, ModelConfig, PlacementConfig
from rayrl.errors import RoleFailed
from rayrl.feedback.database import Database
from rayrl.feedback_roles import start_feedback
from rayrl.runtime.ray_runtime import RayRuntime
from tests.standin import rules
from tests.standin.process import standin

sys.path.append(str(Path(__file__).parents[1] / "bench"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FRAMES = 200_000
GOAL = "combat"


@pytest.fixture(scope="module")
def stream():
    pytest.importorskip("nle")
    from nethack_stream import record

    return record(FRAMES)


@pytest.fixture
def feedback(tmp_path):
    """``start(server, **settings)``: supervised, with a thread that looks after it like the driver does."""
    limits = DeadlinesConfig(call_s=30, start_s=60)
    runtime = RayRuntime(PlacementConfig(object_store_mib=128), limits, tmp_path / "logs", bundles=[{"CPU": 1}], local_cpus=2)
    (tmp_path / "logs").mkdir()
    stopping, threads, started = threading.Event(), [], []

    def start(server, **settings):
        config = Config(model=ModelConfig(path="none"), deadlines=limits)
        config.feedback.judge, config.feedback.template, config.feedback.goal = "http", "nethack_class", GOAL
        config.feedback.base_url, config.feedback.concurrency = server.url, 32
        for name, value in settings.items():
            setattr(config.feedback.retry if hasattr(config.feedback.retry, name) else config.feedback, name, value)
        found = start_feedback(config, runtime, {}, tmp_path / "feedback.sqlite")
        found.run()

        def look_after():
            while not stopping.wait(0.25):
                found.check()

        threads.append(threading.Thread(target=look_after))
        threads[-1].start()
        started.append(found)
        return found

    start.runtime, start.file = runtime, tmp_path / "feedback.sqlite"
    yield start
    stopping.set()
    for thread in threads:
        thread.join()
    for found in started:
        found.stop(20.0)
    runtime.shutdown()


class Teller:
    """What an environment worker does: tells what was shown, keeps what could not be delivered, sends texts again when asked."""

    def __init__(self, annotator):
        self.annotator, self.texts, self.new, self.shown, self.first = annotator, {}, {}, {}, {}
        self.lost_calls, self.slowest = 0, 0.0

    def tell(self, texts, shown, first):
        self.texts |= texts
        self.new |= texts
        for total, part in ((self.shown, shown), (self.first, first)):
            for key, count in part.items():
                total[key] = total.get(key, 0) + count
        started = time.monotonic()
        try:
            wanted = self.annotator.sight(self.new, self.shown, self.first)
            self.new, self.shown, self.first = {key: self.texts[key] for key in wanted}, {}, {}
        except RoleFailed:
            self.lost_calls += 1
        self.slowest = max(self.slowest, time.monotonic() - started)


def kill(feedback, runtime):
    os.kill(runtime.node(feedback.handles[0])["pid"], signal.SIGKILL)


def settled(feedback):
    stats = feedback.stats()
    return stats.get("feedback/labelled_count", 0) + stats.get("feedback/failed_count", 0)


def test_every_distinct_message_is_asked_once_over_200k_frames_and_three_killed_annotators(stream, feedback):
    with standin("--latency", "0.1") as server:
        role = feedback(server)
        teller = Teller(role.annotator)
        last = len(stream.texts) - 1
        kills = {last // 4, last // 2, 3 * last // 4}
        for i, texts in enumerate(stream.texts):
            teller.tell(texts, *stream.sightings(i))
            time.sleep(0.02)
            if i in kills:
                kill(role, feedback.runtime)
        limit = time.monotonic() + 180
        while settled(role) < stream.distinct and time.monotonic() < limit:
            teller.tell({}, {}, {})
            time.sleep(0.2)
        stats, asked = role.stats(), server.stats()
    print({"frames": stream.frames, "distinct": stream.distinct, "lost calls": teller.lost_calls} | asked)
    assert stats["feedback/labelled_count"] == stats["feedback/asked_count"] == stream.distinct == asked["distinct"]
    assert asked["again"] <= 3 * 32, "only what a killed annotator had in flight"
    assert stats["feedback/restarts_count"] == 3 and teller.lost_calls > 0


def test_faults_of_every_kind_and_a_kill_every_twenty_seconds(stream, feedback):
    faults = ("--error", "0.3", "--malformed", "0.2", "--late", "0.05", "--latency", "0.5")
    with standin(*faults) as server:
        role = feedback(server, deadline_s=3.0, backoff_s=0.1, breaker_failures=64)
        teller, started, kills = Teller(role.annotator), time.monotonic(), 0
        for i, texts in enumerate(stream.texts):
            teller.tell(texts, *stream.sightings(i))
            time.sleep(0.1)
            if time.monotonic() - started > 20 * (kills + 1):
                kills += 1
                kill(role, feedback.runtime)
        limit = time.monotonic() + 240
        while settled(role) < stream.distinct and time.monotonic() < limit:
            teller.tell({}, {}, {})
            time.sleep(0.2)
        stats, asked = role.stats(), server.stats()
    print({"kills": kills, "lost calls": teller.lost_calls, "slowest tell (s)": round(teller.slowest, 3)} | asked | stats)
    assert settled(role) == stream.distinct and kills >= 3 == min(kills, 3)
    database = Database(feedback.file, read_only=True)
    final = list(database.all_annotations())
    assert len({a.key for a in final}) == len(final) == stream.distinct
    assert max(a.attempts for a in final) <= 3
    for annotation in final:
        text = annotation.question.texts[0]
        assert not annotation.values or annotation.label == float(rules.is_good(text, GOAL)), (
            f"a spoiled answer became a label: {annotation}"
        )
    failed = sum(not a.values for a in final)
    assert 0 < failed == stats["feedback/failed_count"] == sum(v for k, v in stats.items() if k.startswith("feedback/failed/"))
    assert 0.04 < failed / len(final) < 0.3, "0.55 of the attempts fail, three are made"
    database.close()


def test_a_judge_that_never_answers_costs_a_bounded_backlog_and_no_memory(feedback):
    """``RAYRL_HANG_S`` seconds (600) of new messages at 2,000 a second, none of which is answered."""
    from rayrl.feedback.keys import item_key

    seconds, cap = float(os.environ.get("RAYRL_HANG_S", "600")), 5000
    with standin("--late", "1.0") as server:
        role = feedback(server, max_queued=cap, max_known=2 * cap, deadline_s=10.0)
        pid = feedback.runtime.node(role.handles[0])["pid"]
        started, count, sizes = time.monotonic(), 0, []
        while (now := time.monotonic() - started) < seconds:
            texts = {item_key(t): t for t in (f"You see item {i} of a very long list." for i in range(count, count + 200))}
            role.annotator.sight(texts, dict.fromkeys(texts, 1), dict.fromkeys(texts, 1))
            count += 200
            if not sizes or now - sizes[-1][0] > 2.0:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                sizes.append((now, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
                stats = role.stats()
                assert stats["feedback/backlog_questions"] <= cap and stats["feedback/known_questions"] <= 2 * cap + 32
            time.sleep(0.1)
        stats = role.stats()
    warm = [(t / 60, size) for t, size in sizes if t > seconds / 3]
    slope = float(np.polyfit(*zip(*warm, strict=True), 1)[0])
    print({"told": count, "MiB": round(sizes[-1][1], 1), "MiB/min": round(slope, 3)} | stats)
    assert slope < 1.0
    assert stats["feedback/degraded_bool"] == 1.0 and stats["feedback/labelled_count"] == 0
    assert stats["feedback/forgotten_count"] + stats["feedback/known_questions"] + stats["feedback/failed_count"] >= count - 64
