"""Runs inside the sandbox, as a file: code under test first, then each statement of the tests, then the verdict on the last line."""

import ast
import io
import json
import os
import sys


def main() -> None:
    order = json.loads(sys.stdin.read())
    sys.stdin = io.StringIO("")
    namespace = {"__name__": "solution"}
    exec(compile(order["code"], "solution.py", "exec"), namespace)
    passed = total = 0
    for node in ast.parse(order["tests"]).body:
        asserts = sum(isinstance(part, ast.Assert) for part in ast.walk(node))
        total += asserts
        try:
            exec(compile(ast.Module([node], []), "tests.py", "exec"), namespace)
            passed += asserts
        except Exception:  # a failed assert, or code under test that raises
            continue
    sys.stdout.flush()
    os.write(1, f"\n{order['word']} {passed} {total}".encode())


if __name__ == "__main__":
    main()
