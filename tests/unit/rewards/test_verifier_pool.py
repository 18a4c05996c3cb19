"""The pool: whatever a verifier does costs its own sample, the others get their rewards, and nothing is left behind."""

import mmap
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rayrl.config.schema import RewardComponent
from rayrl.errors import ConfigError, RoleFailed
from rayrl.rewards.child import Progress
from rayrl.rewards.pool import Call, VerifierPool

LIMIT_S = 1.0


@pytest.fixture(autouse=True)
def bad_verifiers_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def make_pool(verifier="bad_verifiers:by_name", *, args=None, **kwargs) -> VerifierPool:
    return VerifierPool({"c": RewardComponent(verifier, args=args or {})}, **({"timeout_s": LIMIT_S, "memory_mib": 512} | kwargs))


@pytest.fixture
def pool():
    pool = make_pool()
    yield pool
    pool.close()


def ask(pool: VerifierPool, *completions: str, truth: str = "yes"):
    return pool.run([Call("c", completion, truth) for completion in completions])


BAD = {
    "raise": "KeyError: 'no such thing' (bad_verifiers.py:",
    "raise unprintable": "Unprintable: (its message raised RuntimeError)",
    "nan": "returned nan, expected a finite number",
    "inf": "returned -inf, expected a finite number",
    "huge int": "OverflowError",
    "none": "returned NoneType, expected a number",
    "text": "returned str, expected a number",
    "numpy array": "returned ndarray, expected a number",
    "sleep": "timed out after 1 s",
    "spin": "timed out after 1 s",
    "stubborn": "timed out after 1 s",
    "c hang": "timed out after 1 s",
    "block alarm": "timed out after 1 s",
    "grandchild": "timed out after 1 s",
    "memory": "MemoryError",
    "leak": "MemoryError",
    "exit": "verifier process died: exit code 3",
    "sys.exit": "SystemExit: 4",
    "kill": "verifier process died: signal SIGKILL",
    "segfault": "verifier process died: signal SIGSEGV",
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_sample_costs_only_itself(pool, bad):
    outcomes = ask(pool, "yes", "no", bad, "yes", "yes", "no")
    assert [o.value for o in outcomes] == [1.0, 0.0, None, 1.0, 1.0, 0.0]
    assert BAD[bad] in outcomes[2].error
    assert all(o.error == "" for i, o in enumerate(outcomes) if i != 2)
    assert [o.value for o in ask(pool, "yes", "no")] == [1.0, 0.0]


def test_a_late_call_is_ended_close_to_its_limit(pool):
    ask(pool, "yes")
    began = time.monotonic()
    (outcome,) = ask(pool, "sleep")
    assert LIMIT_S <= time.monotonic() - began < 3 * LIMIT_S
    assert LIMIT_S <= outcome.latency_s < 2 * LIMIT_S


def test_the_limit_is_per_call_not_per_chunk(pool):
    began = time.monotonic()
    assert [o.value for o in ask(pool, *["nap"] * 12)] == [0.0] * 12
    assert time.monotonic() - began > 2 * LIMIT_S


def test_many_bad_samples_in_random_places_never_disturb_their_neighbours():
    rng = random.Random(0)
    kinds = ["yes", "no", "yes", "raise", "nan", "exit", "kill", "memory", "sleep"]
    weights = [30, 30, 30, 5, 5, 3, 3, 2, 1]
    pool = make_pool(workers=2)
    try:
        for _ in range(3):
            asked = rng.choices(kinds, weights, k=120)
            outcomes = ask(pool, *asked)
            assert [o.value for o in outcomes] == [{"yes": 1.0, "no": 0.0}.get(kind) for kind in asked]
            assert all(BAD[kind] in o.error for kind, o in zip(asked, outcomes, strict=True) if kind in BAD)
    finally:
        pool.close()


def test_a_chunk_of_nothing_but_crashes_ends():
    pool = make_pool()
    try:
        assert all("exit code 3" in o.error for o in ask(pool, *["exit"] * 12))
    finally:
        pool.close()


def test_a_process_is_replaced_only_when_it_must_be(pool):
    pids = [o.value for o in ask(pool, "pid", "raise", "nan", "sys.exit", "pid", "exit", "pid", "memory", "pid")]
    assert pids[0] == pids[4] != pids[6] != pids[8]


def test_a_process_that_ends_between_calls_is_replaced_without_blaming_anyone(pool):
    assert ask(pool, "late exit")[0].value == 0.0
    time.sleep(0.2)
    assert [o.value for o in ask(pool, "yes", "no")] == [1.0, 0.0]


def test_numbers_of_other_libraries_are_numbers(pool):
    assert [o.value for o in ask(pool, "true", "numpy", "numpy bool")] == [1.0, 0.5, 1.0]


def test_extras_are_those_that_the_signature_names(pool):
    assert set(pool.extras["c"]) == {"prompt", "num_tokens", "metadata"}
    (outcome,) = pool.run([Call("c", "extras", None, {"prompt": "P", "num_tokens": 3, "metadata": {"k": 1}})])
    assert outcome.value == 1.0
    other = make_pool(args={"prompt": "P"})
    assert "prompt" not in other.extras["c"]
    other.close()


def test_answers_keep_the_order_of_the_calls_over_several_processes_and_chunks():
    pool = VerifierPool({"n": RewardComponent("numeric"), "x": RewardComponent("exact_match")}, workers=3)
    try:
        calls = [Call("n" if i % 3 else "x", str(i), str(i if i % 5 else i + 1)) for i in range(1000)]
        assert [o.value for o in pool.run(calls)] == [float(i % 5 != 0) for i in range(1000)]
        assert pool.run([]) == []
    finally:
        pool.close()


def test_large_completions_pass_through(pool):
    text = "x" * 2_000_000
    outcomes = pool.run([Call("c", text, text), Call("c", text, "y"), Call("c", text, text)])
    assert [o.value for o in outcomes] == [1.0, 0.0, 1.0]


def test_children_import_nothing_heavy():
    pool = make_pool("bad_verifiers:heavy_modules")
    try:
        assert ask(pool, "")[0].value == 0.0
    finally:
        pool.close()


def children() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}


def test_nothing_is_left_behind_after_close():
    before = children()
    pool = make_pool(workers=2)
    ask(pool, "grandchild", "yes", "exit")
    assert children() - before
    pool.close()
    pool.close()
    deadline = time.monotonic() + 5
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not children() - before
    with pytest.raises(RoleFailed, match="closed"):
        ask(pool, "yes")


def test_a_process_whose_parent_was_killed_ends_by_itself(tmp_path):
    script = (
        "import sys, threading; sys.path.insert(0, sys.argv[1])\n"
        "from rayrl.config.schema import RewardComponent\n"
        "from rayrl.rewards.pool import Call, VerifierPool\n"
        "pool = VerifierPool({'c': RewardComponent('bad_verifiers:by_name')}, timeout_s=0.5, workers=2)\n"
        "print(int(pool.run([Call('c', 'pid', '')])[0].value), flush=True)\n"
        "pool.run([Call('c', 'c hang', '')] * 2)\n"
    )
    parent = psutil.Popen(["python", "-c", script, str(Path(__file__).parent)], stdout=-1, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.stdout.close()
    orphans = parent.children()
    assert child in orphans and len(orphans) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(5)
    _, alive = psutil.wait_procs(orphans, timeout=8)
    assert not alive


@pytest.mark.parametrize(
    ("verifier", "args", "said"),
    [
        ("numerik", {}, "did you mean 'numeric'"),
        ("bad_verifiers:by_nam", {}, "did you mean 'by_name'"),
        ("bad_verifier:by_name", {}, "did you mean 'bad_verifiers'"),
        ("bad_verifiers:", {}, "is not known"),
        ("broken_module:f", {}, "SyntaxError"),
        ("bad_verifiers:_hoard", {}, "not a plain function"),
        ("bad_verifiers:awaited", {}, "not a plain function"),
        ("bad_verifiers:one_parameter", {}, "fewer than two"),
        ("numeric", {"markr": "x"}, "did you mean 'marker'"),
        ("bad_verifiers:needs", {}, "args.pattern"),
        ("format_regex", {}, "args.pattern"),
    ],
)
def test_a_component_that_cannot_work_is_refused_before_anything_runs(verifier, args, said, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = children()
    with pytest.raises(ConfigError) as caught:
        make_pool(verifier, args=args)
    assert "rewards.components.c." in caught.value.message and said in str(caught.value)
    assert not children() - before


def test_modules_in_the_working_directory_are_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_reward.py").write_text("def f(completion, ground_truth):\n    return 0.25\n")
    monkeypatch.chdir(tmp_path)
    pool = make_pool("my_own_reward:f")
    assert ask(pool, "x")[0].value == 0.25
    pool.close()


def test_a_verifier_that_cannot_be_imported_within_its_memory_is_refused(tmp_path, monkeypatch):
    (tmp_path / "greedy_module.py").write_text("x = bytearray(2**30)\ndef f(completion, ground_truth):\n    return 0.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="MemoryError"):
        make_pool("greedy_module:f", memory_mib=256)


def test_a_process_that_does_not_start_in_time_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "sleepy_module.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    began = time.monotonic()
    with pytest.raises(RoleFailed, match="not ready"):
        make_pool("sleepy_module:f", start_s=0.5)
    assert time.monotonic() - began < 5


def test_a_module_that_ends_its_process_while_it_is_imported_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "deadly_module.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RoleFailed, match="exit code 7"):
        make_pool("deadly_module:f")


def test_whoever_reads_the_progress_of_a_busy_process_sees_a_call_and_its_own_time(tmp_path):
    file = (tmp_path / "page").open("w+b")
    file.truncate(mmap.PAGESIZE)
    page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
    Progress(page).write(0, time.monotonic())
    code = (
        "import mmap, sys, time\nfrom rayrl.rewards.child import Progress\n"
        "progress, i = Progress(mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)), 0\n"
        "while True:\n    i += 1\n    progress.write(i % 64, time.monotonic())\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(file.fileno())], pass_fds=[file.fileno()])
    try:
        reader, seen = Progress(page), set()
        limit = time.monotonic() + 20
        while len(seen) < 64 and time.monotonic() < limit:
            for _ in range(2_000):
                index, began = reader.read()
                seen.add(index)
                assert 0 <= index < 64 and 0 <= time.monotonic() - began < 20
        assert len(seen) == 64
    finally:
        writer.kill()
        writer.wait(10)
