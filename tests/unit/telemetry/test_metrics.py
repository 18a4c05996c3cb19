"""Every number of a run has a known name, reaches every sink, and can be read back after any crash."""

import json
import math

import pytest

from rayrl.errors import StorageError
from rayrl.telemetry.jsonl import JsonlSink, read_metrics
from rayrl.telemetry.metrics import FAMILIES, METRICS, MetricsWriter, check_name


class Memory:
    def __init__(self):
        self.rows, self.closed = [], False

    def write(self, step, time_s, metrics):
        self.rows.append((step, dict(metrics)))

    def close(self):
        self.closed = True


def test_every_sink_gets_every_write_as_floats():
    sinks = [Memory(), Memory()]
    writer = MetricsWriter(sinks)
    writer.write(3, {"learner/loss": 1, "buffer/full_bool": True})
    writer.close()
    for sink in sinks:
        assert sink.rows == [(3, {"learner/loss": 1.0, "buffer/full_bool": 1.0})]
        assert all(type(v) is float for v in sink.rows[0][1].values()) and sink.closed


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(ValueError, match="did you mean 'learner/loss'"):
        MetricsWriter([]).write(0, {"learner/los": 1.0})


@pytest.mark.parametrize("name", ["reward/exact", "eval/addition/accuracy", "buffer/dropped/zero_variance"])
def test_names_that_a_configuration_invents_are_known_by_their_prefix(name):
    check_name(name)


@pytest.mark.parametrize("prefix", FAMILIES)
def test_a_bare_prefix_is_not_a_name(prefix):
    with pytest.raises(ValueError):
        check_name(prefix)


def test_names_are_role_and_quantity_with_the_unit_they_claim():
    rates = ("tokens/s", "frames/s", "bytes/s")
    units = {"_per_s": rates, "_s": ("s",), "_bytes": ("bytes",), "_groups": ("groups",), "_versions": ("versions",)}
    for name, metric in METRICS.items():
        role, _, quantity = name.partition("/")
        assert role and quantity and name == name.lower() and metric.description
        for suffix, allowed in units.items():
            if quantity.endswith(suffix):
                assert metric.unit in allowed, name
                break


def test_lines_are_readable_while_the_run_goes_on(tmp_path):
    sink = JsonlSink(tmp_path / "run" / "metrics.jsonl")
    sink.write(1, 12.5, {"learner/loss": 0.25})
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text()) == {"step": 1, "time": 12.5, "learner/loss": 0.25}
    sink.close()


def test_numbers_that_are_not_finite_are_still_valid_json(tmp_path):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.write(1, 0.0, {"learner/loss": math.nan, "learner/lr": math.inf})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row["learner/loss"] is None and row["learner/lr"] is None


def test_a_resumed_run_continues_the_file_and_its_repetition_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonlSink(path)
    for step in range(3):
        first.write(step, 0.0, {"learner/loss": float(step)})
    first.close()
    path.write_text(path.read_text() + '{"step": 3, "learner/lo')  # a crash cut the line
    second = JsonlSink(path)
    second.write(2, 1.0, {"learner/loss": 20.0})
    second.write(2, 1.0, {"reward/mean": 0.5})
    second.close()
    rows = read_metrics(path)
    assert [r["step"] for r in rows] == [0, 1, 2]
    assert rows[2]["learner/loss"] == 20.0 and rows[2]["reward/mean"] == 0.5


def test_a_full_disk_is_an_error_for_a_person():
    sink = JsonlSink("/dev/full")
    with pytest.raises(StorageError, match="No space left"):
        sink.write(0, 0.0, {"learner/loss": 1.0})
