"""Offline tracking needs no account, continues a run under its id, and says nothing on the console."""

import time

import pytest

from rayrl.config.schema import TelemetryConfig
from rayrl.errors import ConfigError
from rayrl.telemetry.wandb_sink import WandbSink


def test_off_is_not_a_sink(tmp_path):
    with pytest.raises(ConfigError, match=r"telemetry\.wandb is 'off'"):
        WandbSink(TelemetryConfig(wandb="off"), "run", tmp_path, "a: 1")


def test_an_offline_run_is_written_quietly_and_continued_under_its_id(tmp_path, capfd):
    pytest.importorskip("wandb")
    first = WandbSink(TelemetryConfig(wandb="offline"), "run", tmp_path, "run:\n  seed: 3\n")
    first.write(1, 0.0, {"learner/loss": 0.5})
    first.close()
    time.sleep(1.1)  # wandb names its folders by the second
    second = WandbSink(TelemetryConfig(wandb="offline"), "run", tmp_path, "run:\n  seed: 3\n", run_id=first.run_id)
    second.write(1, 0.0, {"learner/loss": 0.4})  # a resumed run repeats steps
    second.close()
    assert second.run_id == first.run_id
    limit = time.monotonic() + 30  # a process of wandb's own writes the file
    while True:
        logs = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{first.run_id}.wandb"))
        if logs and b"learner/loss" in logs[-1].read_bytes():
            break
        assert time.monotonic() < limit, logs
        time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


def test_tables_and_files_go_with_the_run(tmp_path, capfd):
    pytest.importorskip("wandb")
    sink = WandbSink(TelemetryConfig(wandb="offline"), "run", tmp_path, "a: 1")
    sink.table("samples/held_out", 3, ["prompt", "correct", "mixed"], [["1+1=", True, None], ["<b>", False, {"a": 1}]])
    (tmp_path / "report.html").write_text("<p>page</p>")
    sink.attach(tmp_path / "report.html")
    sink.close()
    [log] = (tmp_path / "wandb").glob(f"offline-run-*/run-{sink.run_id}.wandb")
    data = log.read_bytes()
    assert b"samples/held_out" in data and f"report-{sink.run_id}".encode() in data and b"report.html" in data
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/table/samples/held_out*.json"))
    assert capfd.readouterr() == ("", "")
