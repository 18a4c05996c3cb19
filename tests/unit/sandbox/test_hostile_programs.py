"""Hostile programs end, touch nothing outside, and leave nothing behind, at every level of isolation that works here."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile import PRELUDE, PROGRAMS

from rayrl.errors import EnvironmentMissing
from rayrl.sandbox.isolation import LEVELS, isolation
from rayrl.sandbox.program import PYTHON, Limits, Program
from rayrl.sandbox.run import run

LIMITS = Limits(time_s=0.5, memory_mib=128, file_mib=8)
SECRET = "a-secret-of-the-user"
ROOT = os.geteuid() == 0
SECRETS = [name for name in PROGRAMS if name.startswith("secrets")]


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text(SECRET)
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="module")
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        server.setblocking(False)
        abstract.bind(f"\0outside-{server.getsockname()[1]}")
        abstract.listen()
        yield server


@pytest.fixture(scope="module", params=LEVELS)
def level(request):
    try:
        isolation(request.param)
    except EnvironmentMissing as e:
        pytest.skip(str(e))
    return request.param


@pytest.fixture(scope="module")
def endings(level, outside, listener):
    """Every program, several at a time, as several workers would run them."""
    os.environ["THE_SECRET"] = SECRET
    try:
        with ThreadPoolExecutor(6) as threads:
            return dict(zip(PROGRAMS, threads.map(lambda name: attempt(name, level, outside, listener), PROGRAMS), strict=True))
    finally:
        del os.environ["THE_SECRET"]


def attempt(name, level, outside, listener):
    code = f"# {marker(level)}\n" + PRELUDE + PROGRAMS[name]
    argv = [PYTHON, "-c", code, str(outside), str(listener.getsockname()[1]), str(os.getpid())]
    return run(Program(argv, stdin="x" * 200_000), LIMITS, isolation_level=level)


def marker(level: str) -> str:
    return f"hostile-{os.getpid()}-{level}"


def processes(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if word.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_ends_in_time_and_not_well(endings, name, level):
    if level == "limits" and name in ("network", "abstract socket") and not isolation(level).filtered:
        pytest.skip("limits alone leave the network open")
    if not ROOT and level != "bubblewrap" and (name in SECRETS or "outside" in name or name == "traces its parent"):
        pytest.skip("without root and without a view of its own a program may do what its user may")
    ended = endings[name]
    assert not ended.ok, ended
    assert ended.seconds < LIMITS.time_s + 5
    assert len(ended.stdout) <= LIMITS.output_kib * 1024 and SECRET.encode() not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("endless sleep", "time limit"),
        ("endless loop", "time limit"),
        ("signals ignored", "time limit"),
        ("stops itself", "time limit"),
        ("closes its output and hides", "time limit"),
        ("endless output", "output limit"),
        ("endless complaint", "output limit"),
        ("memory bomb", "memory limit"),
        ("full disk", "File too large"),
    ],
)
def test_the_limit_that_ended_it_is_named(endings, name, limit):
    assert limit in endings[name].describe()


def test_no_process_is_left(endings, level):
    limit = time.monotonic() + 2
    while processes(marker(level)) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not processes(marker(level))


def test_nothing_outside_was_touched(endings, level, outside, listener):
    if not ROOT and level != "bubblewrap":
        pytest.skip("without root and without a view of its own a program may do what its user may")
    assert [p.name for p in outside.iterdir()] == ["secret"] and (outside / "secret").read_text() == SECRET
    if level != "limits" or isolation(level).filtered:
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("name", ["links and locked folders left behind", "a very deep folder"])
def test_no_folder_is_left(name, tmp_path, monkeypatch, level):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(Program([PYTHON, "-c", PRELUDE + PROGRAMS[name], str(tmp_path), "0", "0"]), LIMITS, isolation_level=level)
    assert not list(tmp_path.iterdir())


def test_what_it_says_comes_back_as_bytes_that_nobody_unpickles(level, tmp_path):
    code = f"import pickle, os\nclass Bomb:\n    def __reduce__(self): return (os.mkdir, ({str(tmp_path / 'gone off')!r},))\n"
    code += "import sys; sys.stdout.buffer.write(pickle.dumps(Bomb()))"
    ended = run(Program([PYTHON, "-c", code]), LIMITS, isolation_level=level)
    assert ended.ok and b"mkdir" in ended.stdout and not list(tmp_path.iterdir())
