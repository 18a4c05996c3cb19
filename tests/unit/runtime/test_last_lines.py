"""What is shown of a role's log when it failed: its end, and what its own processes had died of before."""

from __future__ import annotations

from pathlib import Path

from rayrl.runtime.host import last_lines

ENGINE = """\
INFO 11-27 09:05:30 [core.py:117] Initializing a V1 LLM engine
(EngineCore pid=2356) Traceback (most recent call last):
(EngineCore pid=2356)   File "flashinfer.py", line 12, in <module>
(EngineCore pid=2356) ModuleNotFoundError: No module named 'flashinfer'
(EngineCore pid=2356) ERROR 11-27 09:05:40 [core.py:1100] ModuleNotFoundError: No module named 'flashinfer'
(EngineCore pid=2356) ModuleNotFoundError: No module named 'flashinfer'
"""
OWN = (
    "Traceback (most recent call last):\n"
    + "".join(f'  File "core_client.py", line {n}\n' for n in range(12))
    + "RuntimeError: See root cause above.\n"
)


def test_the_error_of_an_engines_own_process_is_shown_before_the_end_of_the_log(tmp_path: Path):
    log = tmp_path / "rollout-0.log"
    log.write_text(ENGINE + OWN)
    shown = last_lines(str(log)).splitlines()
    assert shown[0] == "errors before:"
    assert shown[1] == "    (EngineCore pid=2356) ModuleNotFoundError: No module named 'flashinfer'"
    assert sum("pid=2356) ModuleNotFoundError" in line for line in shown) == 1, "each is told once"
    assert shown[3] == f"last lines of {log}:" and shown[-1] == "    RuntimeError: See root cause above." and len(shown) == 4 + 12


def test_a_log_without_earlier_errors_is_shown_by_its_end_alone(tmp_path: Path):
    log = tmp_path / "learner-0.log"
    log.write_text("an Error: in the middle of a line\n" * 20 + "ValueError: last\n")
    shown = last_lines(str(log), 3).splitlines()
    assert shown == [f"last lines of {log}:", *["    an Error: in the middle of a line"] * 2, "    ValueError: last"]
    assert last_lines(str(tmp_path / "none.log")) == f"no log at {tmp_path / 'none.log'}"
