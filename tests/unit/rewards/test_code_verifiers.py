"""Verifiers that run what a completion wrote: right is 1, wrong is 0, a limit is a failed score, and the worker lives on."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest

from rayrl.config.schema import RewardComponent
from rayrl.rewards.code import LimitExceeded, fenced, python_tests, sql
from rayrl.rewards.pool import Call, VerifierPool

sys.path.insert(0, str(Path(__file__).parents[1] / "sandbox"))
from hostile import PRELUDE, PROGRAMS

ASSERTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add('a', 'b') == 'ab'\n"
CASES = json.dumps([{"input": "1 2\n", "output": "3"}, {"input": "5 5\n", "output": "10\n"}])
RIGHT = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("code", "score", "share"),
    [
        (RIGHT, 1.0, 1.0),
        (f"Some words.\n```python\n{RIGHT}```\nand more", 1.0, 1.0),
        ("def add(a, b):\n    return int(a) + int(b)\n", 0.0, 2 / 3),
        ("def add(a, b):\n    return 0\n", 0.0, 1 / 3),
        ("def add(a, b:\n", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("raise SystemExit(0)", 0.0, 0.0),
        ("import os; os._exit(0)", 0.0, 0.0),
        ("print('0 3 3'); import os; os._exit(0)", 0.0, 0.0),
        (RIGHT + "print('loud', end='')", 1.0, 1.0),
        ("def add(a, b):\n    raise SystemExit(0)", 0.0, 0.0),
        ("def add(a, b):\n    import os; os.kill(os.getpid(), 11)", 0.0, 0.0),
        (f"{RIGHT}print(input())", 0.0, 0.0),
    ],
)
def test_asserts_decide(code, score, share):
    assert python_tests(code, ASSERTS) == score
    assert python_tests(code, ASSERTS, partial=True) == pytest.approx(share)


@pytest.mark.parametrize(
    ("code", "score", "share"),
    [
        ("print(sum(map(int, input().split())))", 1.0, 1.0),
        ("print(sum(map(int, input().split())), '  ')\nprint()", 1.0, 1.0),
        ("print(3)", 0.0, 0.5),
        ("print(3)\nraise ValueError", 0.0, 0.0),
    ],
)
def test_printed_output_decides(code, score, share):
    assert python_tests(code, CASES) == score
    assert python_tests(code, CASES, partial=True) == share
    both = json.dumps({"inputs": ["1 2", "5 5"], "outputs": ["3", "10"]})
    assert python_tests(code, both) == score


@pytest.mark.parametrize("truth", [None, "x = 1", "assert (", "[]", '[{"in": 1}]'])
def test_a_ground_truth_that_cannot_be_run_is_a_failed_score(truth):
    with pytest.raises(ValueError):
        python_tests(RIGHT, truth)


def test_a_limit_is_a_failed_score_unless_it_is_asked_to_count_as_wrong():
    with pytest.raises(LimitExceeded, match=r"time limit of 0\.2 s"):
        python_tests("while True: pass", ASSERTS, time_s=0.2)
    assert python_tests("while True: pass", ASSERTS, time_s=0.2, on_limit="zero") == 0.0
    with pytest.raises(LimitExceeded, match="memory limit"):
        python_tests("x = bytearray(2**30)", ASSERTS)


def test_the_last_fenced_block_of_the_language_counts():
    text = "```python\na\n```\n```\nb\n```\n```text\nc\n```\n"
    assert fenced(text, ("python", "")) == "b\n" and fenced(text, ("python",)) == "a\n"
    assert fenced("no fence", ("python",)) == "no fence" and fenced("```sql\nselect 1", ("sql",)) == "select 1"


# ---- SQL ------------------------------------------------------------------------------------------------------------------

SCHEMA = "create table t(a int, b text, c real); insert into t values (1,'x',0.1),(2,'y',0.2),(3,'x',0.30000000001);"
TRUTH = "select b, sum(a) from t group by b"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "t.sqlite"
    with sqlite3.connect(path) as base:
        base.executescript(SCHEMA)
    return path


@pytest.mark.parametrize(
    ("query", "score"),
    [
        ("select b, total(a) from t group by b order by b desc", 1.0),
        ("```sql\nselect b as name, sum(a) as s from t group by 1;\n```", 1.0),
        ("select b, count(*) from t group by b", 0.0),
        ("select sum(a), b from t group by b", 0.0),
        ("select b, sum(a) from t group by b union all select 'x', 4", 0.0),
        ("selct", 0.0),
        ("select b, sum(a) from t group by b; drop table t", 0.0),
        ("insert into t values (9, 'z', 1)", 0.0),
        ("drop table t", 0.0),
        ("attach database 'other' as o", 0.0),
        ("pragma writable_schema=1", 0.0),
        ("select load_extension('x')", 0.0),
        ("", 0.0),
    ],
)
def test_a_query_is_right_when_it_returns_the_rows_of_the_reference(database, query, score):
    before = database.read_bytes()
    assert sql(query, TRUTH, database=str(database)) == score
    assert sql(query, TRUTH, metadata={"schema": SCHEMA}) == score
    assert database.read_bytes() == before and [p.name for p in database.parent.iterdir()] == ["t.sqlite"]


def test_order_counts_where_it_is_asked_for():
    args = {"schema": SCHEMA}
    assert sql("select a from t order by a desc", "select a from t order by a", **args) == 1.0
    assert sql("select a from t order by a desc", "select a from t order by a", ordered=True, **args) == 0.0
    assert sql("select 0.3", "select c from t where a = 3", ordered=True, **args) == 1.0


def test_an_endless_query_meets_a_limit_and_a_broken_reference_is_no_score():
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    with pytest.raises(LimitExceeded, match="time limit"):
        sql(endless, TRUTH, schema=SCHEMA, time_s=0.2)
    with pytest.raises(LimitExceeded, match="memory limit"):
        sql("with recursive n(i) as (select 1 union all select i + 1 from n) select i from n", TRUTH, schema=SCHEMA)
    with pytest.raises(ValueError, match="no such table"):
        sql("select 1", "select * from nowhere", schema=SCHEMA)
    with pytest.raises(ValueError, match="needs a database"):
        sql("select 1", TRUTH)


# ---- in the pool ------------------------------------------------------------------------------------------------------------

HOSTILE = ["fork bomb", "memory bomb", "endless output", "endless loop", "signals ignored", "network", "secrets in files", "writes outside"]
HOSTILE += ["links and locked folders left behind", "kills its parents", "a daemon that outlives", "crash", "waits for input", "full disk"]


def test_hostile_completions_end_in_failed_or_wrong_scores_and_the_worker_lives(tmp_path):
    pool = VerifierPool({"code": RewardComponent("python_tests", args={"time_s": 0.3})}, timeout_s=30.0, workers=2)
    try:
        pids = {process._process.pid for process in pool._processes}
        prelude = PRELUDE.replace("sys.argv[1], int(sys.argv[2]), int(sys.argv[3])", f"{str(tmp_path)!r}, 9, 1")
        completions = [prelude + PROGRAMS[name] for name in HOSTILE]
        calls = [Call("code", c, ASSERTS) for bad in completions for c in (bad, RIGHT)]
        outcomes = pool.run(calls)
        assert [o.value for o in outcomes[1::2]] == [1.0] * len(HOSTILE)
        bad = dict(zip(HOSTILE, outcomes[::2], strict=True))
        assert all(o.value == 0.0 or (o.value is None and o.error.startswith("LimitExceeded: ")) for o in bad.values()), bad
        assert bad["endless loop"].value is None and bad["crash"].value == 0.0
        assert {process._process.pid for process in pool._processes} == pids
    finally:
        pool.close()
    assert not list(tmp_path.iterdir())
