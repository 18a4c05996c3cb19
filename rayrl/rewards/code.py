"""Verifiers that run what a completion wrote, Python or SQL, in a sandbox (`rayrl.sandbox`).

A wrong answer, an exception or a crash is 0.0. A program that had to be ended by a limit (time, memory, output, file size) is
`LimitExceeded`: a failed score, counted by reason, that ``rewards.on_failure`` decides on. Mind that a policy may learn to
prefer a dropped sample to a wrong one: ``rewards.on_failure=fallback`` or ``on_limit: zero`` make such a program cost something.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayrl.sandbox.program import PYTHON, Ended, Limits, Program
from rayrl.sandbox.run import run

_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_TESTS = (Path(__file__).parent / "code_tests.py").read_text(encoding="utf-8")
_QUERY = (Path(__file__).parent / "code_query.py").read_text(encoding="utf-8")
_BROKEN_TRUTH = 3
"""Exit status of code_query.py when the reference query itself does not run."""


class LimitExceeded(Exception):
    """A limit of the sandbox ended the program."""


def python_tests(
    completion: str,
    ground_truth: str | None,
    *,
    time_s: float = 2.0,
    memory_mib: int = 256,
    partial: bool = False,
    on_limit: str = "failed",
    isolation: str = "auto",
) -> float:
    """The last fenced code block of the completion (or all of it) passes the tests in the ground truth.

    The ground truth is Python with ``assert`` statements (run after the code, in its namespace), or a JSON list of
    ``{"input": stdin, "output": expected stdout}`` (or ``{"inputs": [...], "outputs": [...]}``), each run as a script of its own;
    white space at line ends does not count. ``partial`` gives the share of tests passed instead of all or nothing. ``on_limit``:
    ``failed`` or ``zero``. Asserts share a process with the code under test, which leaves a determined forger a way; programs
    that read and print are judged from outside.
    """
    code, limits = fenced(completion, ("python", "py", "python3", "")), Limits(time_s=time_s, memory_mib=memory_mib)
    cases = _cases(ground_truth)
    try:
        if cases is None:
            passed, total = _asserts(code, _required(ground_truth), limits, isolation)
        else:
            passed, total = 0, len(cases)
            for given, expected in cases:
                ended = _bounded(
                    run(Program([PYTHON, "solution.py"], {"solution.py": code}, stdin=given), limits, isolation_level=isolation)
                )
                passed += ended.ok and _lines(ended.stdout.decode("utf-8", "replace")) == _lines(expected)
                if passed == 0 and not partial:
                    break
    except LimitExceeded:
        if on_limit == "zero":
            return 0.0
        raise
    return passed / total if partial else float(passed == total)


def sql(
    completion: str,
    ground_truth: str | None,
    *,
    metadata: Mapping[str, Any] | None = None,
    database: str | None = None,
    schema: str | None = None,
    ordered: bool = False,
    time_s: float = 2.0,
    memory_mib: int = 256,
    on_limit: str = "failed",
    isolation: str = "auto",
) -> float:
    """The query in the completion returns the rows that the ground truth, a reference query, returns (execution accuracy).

    The database is a SQLite file (``database``, or the prompt's ``metadata["database"]``), opened read-only, or a script that
    makes one in memory (``schema``, or ``metadata["schema"]``). Only reading is allowed, in one statement. Rows are compared as
    a multiset unless ``ordered``; column names do not count; floats are equal to about 1e-6.
    """
    known = metadata or {}
    file, script = database or known.get("database"), schema or known.get("schema")
    if file is None and script is None:
        raise ValueError("this verifier needs a database: args.database, args.schema, or the same in the prompt's metadata")
    if file is not None and not Path(file).is_file():
        raise ValueError(f"there is no database {file}")
    query = fenced(completion, ("sql", "sqlite", "")).strip().rstrip(";")
    order = {"database": str(Path(file).resolve()) if file else None, "schema": script, "ordered": ordered}
    order |= {"query": query, "truth": _required(ground_truth).strip().rstrip(";")}
    program = Program([PYTHON, "query.py"], {"query.py": _QUERY}, json.dumps(order), read_only=[order["database"]] if file else [])
    try:
        ended = _bounded(run(program, Limits(time_s=time_s, memory_mib=memory_mib), isolation_level=isolation))
    except LimitExceeded:
        if on_limit == "zero":
            return 0.0
        raise
    if ended.code == _BROKEN_TRUTH:
        raise ValueError(f"the reference query does not run: {ended.stderr.decode('utf-8', 'replace').strip()[-200:]}")
    return float(ended.ok and ended.stdout == b"equal\n")


def fenced(text: str, languages: tuple[str, ...]) -> str:
    """The last fenced block in one of ``languages`` (``""``: unnamed), else the whole text."""
    blocks = [body for language, body in _FENCE.findall(text) if language.lower() in languages]
    return blocks[-1] if blocks else text


def _asserts(code: str, tests: str, limits: Limits, isolation: str) -> tuple[int, int]:
    """Passed and all asserts. The verdict bears a word that the code under test is not given, so that leaving early is no success."""
    try:
        total = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(tests)))
    except SyntaxError as e:
        raise ValueError(f"the tests in the ground truth are not Python: {e}") from e
    if total == 0:
        raise ValueError("the ground truth holds no assert and no list of inputs and outputs")
    word = secrets.token_hex(16)
    order = json.dumps({"code": code, "tests": tests, "word": word})
    ended = _bounded(run(Program([PYTHON, "tests.py"], {"tests.py": _TESTS}, order), limits, isolation_level=isolation))
    verdict = ended.stdout.rpartition(b"\n")[2].decode("utf-8", "replace").split()
    if ended.ok and len(verdict) == 3 and verdict[0] == word:
        return int(verdict[1]), int(verdict[2])
    return 0, total


def _cases(ground_truth: str | None) -> list[tuple[str, str]] | None:
    """``(stdin, expected stdout)`` of each case; None where the ground truth is of another kind."""
    if ground_truth is None or ground_truth.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        raw = json.loads(ground_truth)
    except ValueError:
        return None
    try:
        pairs = zip(raw["inputs"], raw["outputs"], strict=True) if isinstance(raw, dict) else ((c["input"], c["output"]) for c in raw)
        cases = [(str(given), str(expected)) for given, expected in pairs]
    except (KeyError, TypeError) as e:
        raise ValueError("test cases are a list of {input, output}, or {inputs: [...], outputs: [...]}") from e
    if not cases:
        raise ValueError("the ground truth holds no test case")
    return cases


def _bounded(ended: Ended) -> Ended:
    if ended.violated:
        raise LimitExceeded(ended.violated)
    return ended


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _required(ground_truth: str | None) -> str:
    if ground_truth is None:
        raise ValueError("this verifier needs a ground truth and the prompt has none (data.answer_field)")
    return ground_truth
