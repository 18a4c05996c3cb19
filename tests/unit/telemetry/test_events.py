"""What happened is told line by line, and a run is only called alive while somebody runs it."""

import json
import os
import subprocess
import sys
import time

from rayrl.telemetry.events import EventLog, Heartbeat, read_status


def test_events_are_lines_that_survive_each_other(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write("began", "arithmetic\nwith a second line", 0)
    log.write("saved", "step-000003", 3)
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in rows] == [("began", 0), ("saved", 3)] and rows[0]["text"].endswith("second line")


def test_a_run_is_alive_until_it_says_otherwise(tmp_path):
    heart = Heartbeat(tmp_path / "status.json", {"run": "x", "step": 0, "target": 5})
    heart.update(step=2, state="running")
    status = read_status(tmp_path / "status.json")
    assert status["alive"] and (status["run"], status["step"], status["target"], status["pid"]) == ("x", 2, 5, os.getpid())
    heart.close("finished")
    status = read_status(tmp_path / "status.json")
    assert not status["alive"] and status["state"] == "finished"


def test_a_run_whose_process_is_gone_or_another_one_is_dead(tmp_path):
    child = "import sys, pathlib; from rayrl.telemetry.events import Heartbeat; h = Heartbeat(pathlib.Path(sys.argv[1]), {})"
    child += "; h.update(state='running')"
    subprocess.run([sys.executable, "-c", child, str(tmp_path / "status.json")], check=True, timeout=60)
    assert read_status(tmp_path / "status.json")["alive"] is False
    status = json.loads((tmp_path / "status.json").read_text()) | {"pid": os.getpid()}  # the number is used again by a younger process
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert read_status(tmp_path / "status.json")["alive"] is False


def test_a_run_of_another_machine_is_judged_by_its_pulse(tmp_path):
    path = tmp_path / "status.json"
    path.write_text(json.dumps({"state": "running", "host": "elsewhere", "pid": 1}))
    assert read_status(path)["alive"] is True
    os.utime(path, (time.time() - 3600,) * 2)
    assert read_status(path)["alive"] is False


def test_half_a_status_file_is_none(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "run')
    assert read_status(tmp_path / "status.json") is None and read_status(tmp_path / "missing.json") is None
