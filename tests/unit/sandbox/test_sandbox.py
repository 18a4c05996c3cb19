"""A well-behaved program gets what it needs and nothing of its caller's; a caller that is killed takes its programs along."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_hostile_programs import processes

from rayrl.errors import EnvironmentMissing
from rayrl.sandbox import isolation as isolating
from rayrl.sandbox.isolation import LEVELS, isolation
from rayrl.sandbox.program import PYTHON, Limits, Program, Reason, ending
from rayrl.sandbox.run import run


@pytest.fixture(params=LEVELS)
def level(request):
    try:
        isolation(request.param)
    except EnvironmentMissing as e:
        pytest.skip(str(e))
    return request.param


def open_to_all(folder: Path) -> None:
    """Lets every user of the machine into a folder of pytest's, which are private."""
    while folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & stat.S_IXOTH:
        folder.chmod(0o755)
        folder = folder.parent


def python(code: str, level: str, limits: Limits | None = None, **kwargs):
    return run(Program([PYTHON, "-c", code], **kwargs), limits, isolation_level=level)


def test_files_input_and_output_pass_through(level):
    code = "import sys; open('copy', 'w').write(open('a.txt').read() + sys.stdin.read()); print(open('copy').read(), end='')"
    ended = python(code, level, files={"a.txt": "naïve "}, stdin="input")
    assert ended.ok and ended.stdout.decode() == "naïve input"
    assert python("import sys; sys.stderr.write('why'); sys.exit(7)", level).describe() == "exit code 7: why"


def test_the_environment_is_its_own(level, monkeypatch):
    monkeypatch.setenv("THE_SECRET", "x")
    seen = json.loads(python("import os, json; print(json.dumps(dict(os.environ)))", level).stdout)
    assert "THE_SECRET" not in seen and seen["PYTHONHASHSEED"] == "0" and not set(seen) & {"USER", "LOGNAME", "SSH_AUTH_SOCK"}


def test_it_has_no_more_than_its_three_descriptors(level):
    ended = python("import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))", level)
    assert ended.stdout.decode().split("]")[0] == "[0, 1, 2" and int(ended.stdout.split()[-1]) == 4  # and the listing's own


def test_what_it_may_read_it_may_not_write(level, tmp_path):
    shown = tmp_path / "data.txt"
    shown.write_text("data")
    open_to_all(tmp_path)
    ended = python(f"print(open({str(shown)!r}).read()); open({str(shown)!r}, 'a')", level, read_only=[str(shown)])
    assert ended.stdout == b"data\n"
    assert shown.read_text() == "data"
    if level == "bubblewrap" or os.geteuid() == 0:
        assert not ended.ok


def test_two_runs_at_the_same_time_have_users_of_their_own():
    assert len({isolating.new_uid() for _ in range(isolating._UIDS_PER_PROCESS)}) == isolating._UIDS_PER_PROCESS


def test_a_command_that_does_not_exist_is_a_failure_of_the_program(level):
    ended = run(Program(["/no/such/command"]), isolation_level=level)
    assert not ended.ok and "cannot be run" in ended.describe()


@pytest.mark.parametrize("status", [0, 3, -signal.SIGKILL, 128 + signal.SIGSEGV])
def test_statuses_are_read_as_the_shell_writes_them(status):
    reason, code = ending(status)
    assert (reason, code) == {
        0: (Reason.EXITED, 0),
        3: (Reason.EXITED, 3),
        -9: (Reason.SIGNALLED, 9),
        139: (Reason.SIGNALLED, 11),
    }[int(status)]


def test_a_killed_caller_leaves_no_program(level):
    word = f"orphan-{os.getpid()}-{level}"
    program = f"print(1, flush=True); import time; time.sleep(60) # {word}"
    code = "from rayrl.sandbox.run import run; from rayrl.sandbox.program import *\n"
    code += f"run(Program([PYTHON, '-c', {program!r}]), Limits(time_s=60), isolation_level={level!r})"
    caller = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    limit = time.monotonic() + 20
    while len(processes(f"# {word}")) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait(5)
    limit = time.monotonic() + 5
    while processes(word) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not processes(word)


def test_a_level_that_does_not_work_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(isolating, "_candidates", lambda level: [])
    with pytest.raises(EnvironmentMissing, match="install bubblewrap"):
        isolation.__wrapped__("auto")


def test_auto_takes_the_best_level_that_works(monkeypatch):
    monkeypatch.setattr(isolating, "_works", lambda how: how.level == "limits")
    assert isolation.__wrapped__("auto").level == "limits"
