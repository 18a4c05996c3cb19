"""Spans are cheap, complete, and open in Perfetto; the bound names the role that the others wait for."""

import json
import threading
import time
from contextlib import contextmanager

import pytest

from rayrl.telemetry.bound import RoleTime, find_bound
from rayrl.telemetry.perfetto import TraceFile
from rayrl.telemetry.spans import Span, SpanRecorder


def test_a_span_costs_no_more_than_a_few_readings_of_the_clock():
    """Beside a context manager that only reads the clock twice, in turns: what the machine does meanwhile happens to both."""

    @contextmanager
    def bare():
        time.time_ns()
        yield
        time.time_ns()

    def cost(make) -> float:
        started = time.perf_counter()
        for _ in range(2000):
            with make():
                pass
        return time.perf_counter() - started

    recorder = SpanRecorder("learner")
    pairs = [(cost(lambda: recorder.span("x")), cost(bare)) for _ in range(20)]
    ours, theirs = (min(column) for column in zip(*pairs, strict=True))
    assert ours < 2 * theirs, f"a span costs {ours / theirs:.1f} times a context manager that reads the clock"


def test_a_span_measures_wall_time_and_survives_an_exception():
    recorder = SpanRecorder("learner")
    before = time.time_ns()
    with pytest.raises(KeyError), recorder.span("step", step=3):
        time.sleep(0.02)
        raise KeyError
    [span] = recorder.drain()
    assert (span.name, span.args) == ("step", {"step": 3})
    assert before <= span.start_ns <= time.time_ns()
    assert 0.02 <= span.duration_ns / 1e9 < 1
    assert recorder.drain() == [], "a span is drained once"


def test_threads_record_side_by_side_and_nothing_is_lost():
    recorder = SpanRecorder("rollout")

    def work():
        for _ in range(500):
            with recorder.span("x"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    drained = []
    while any(t.is_alive() for t in threads):
        drained += recorder.drain()
    drained += recorder.drain()
    assert len(drained) == 2000 and recorder.lost == 0


def test_the_memory_of_a_recorder_is_bounded_and_losses_are_counted():
    recorder = SpanRecorder("x", capacity=10)
    for i in range(25):
        with recorder.span(str(i)):
            pass
    assert recorder.lost == 15
    assert [s.name for s in recorder.drain()] == [str(i) for i in range(15, 25)]


def test_a_recorder_that_is_off_records_nothing():
    recorder = SpanRecorder("x", enabled=False)
    with recorder.span("a", k=1):
        pass
    assert recorder.drain() == []


SPANS = {
    "rollout-0": [Span("generate", 2_000_000, 1_000_000, 77, {"tokens": 5}), Span("sync", 3_000_000, 500_000, 78, None)],
    "learner-0": [Span("step", 2_500_000, -5, 77, None)],
}


def test_a_growing_trace_is_readable_at_any_time_and_continues_after_a_resume(tmp_path):
    path = tmp_path / "spans.json"
    for role, spans in SPANS.items():  # two lives of one run
        trace = TraceFile(path)
        trace.append({role: spans[:1]})
        trace.append({role: spans[1:]})
        trace.close()
    text = path.read_text()
    assert not text.rstrip().endswith("]")
    events = json.loads(text.rstrip().rstrip(",") + "]")
    names = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    found = [(names[e["pid"]], e["name"], e["ts"], e["dur"], e.get("args")) for e in events if e["ph"] == "X"]
    assert sorted(found, key=str) == [
        ("learner-0", "step", 2500.0, 0.0, None),
        ("rollout-0", "generate", 2000.0, 1000.0, {"tokens": 5}),
        ("rollout-0", "sync", 3000.0, 500.0, None),
    ], "microseconds; a clock that was set back gives no negative length"
    assert len({(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}) == 3


def test_the_bound_is_the_busiest_role_and_names_the_learners_wait():
    bound = find_bound({"learner": RoleTime(5.2, 4.8), "rollout": RoleTime(9.5, 0.5), "rewards": RoleTime(1, 9)})
    assert bound.role == "rollout"
    assert str(bound) == "bound=rollout (learner waited 48 %)"


def test_a_learner_bound_names_who_waited_most():
    bound = find_bound({"learner": RoleTime(9.0, 1.0), "rollout": RoleTime(5.0, 5.0), "rewards": RoleTime(1.0, 9.0)})
    assert str(bound) == "bound=learner (rewards waited 90 %)"


def test_a_pool_counts_by_share_not_by_sum():
    assert find_bound({"rollout": RoleTime(40.0, 40.0), "learner": RoleTime(9.0, 1.0)}).role == "learner"


def test_without_times_there_is_no_bound():
    assert find_bound({}) is None
    assert find_bound({"learner": RoleTime(0.0, 0.0)}) is None
    assert str(find_bound({"learner": RoleTime(1.0, 0.0)})) == "bound=learner (busy 100 %)"
