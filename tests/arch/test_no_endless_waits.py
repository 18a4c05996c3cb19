"""No wait without a limit: whatever blocks in rayrl/ is given a timeout, or stands in the short list below with its reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayrl

ROOT = Path(rayrl.__file__).parent
BOUNDED_OTHERWISE = {
    ("rewards/process.py", "recv_bytes"): "the socket has SO_RCVTIMEO",
    ("rewards/child.py", "recv_bytes"): "ends with the parent, whose death closes the socket",
    ("report/index.py", "ThreadPoolExecutor"): "reads local files and waits for nobody",
}
BARE = {"get", "join", "wait", "result", "acquire", "accept"}
"""Methods that wait for ever when they are called without an argument."""
NEED_TIMEOUT = {
    **dict.fromkeys(("ray.get", "ray.wait", "asyncio.wait", "futures.wait", "multiprocessing.connection.wait"), 2),
    **dict.fromkeys(("subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output"), 99),
    **dict.fromkeys(("urlopen", "request.urlopen", "urllib.request.urlopen"), 3),
    **dict.fromkeys(("socket.create_connection", "asyncio.wait_for", "connection.wait"), 2),
    **dict.fromkeys(("dist.init_process_group", "init_process_group", "init_distributed", "deepspeed.init_distributed"), 99),
    **{f"requests.{verb}": 99 for verb in ("get", "post", "put", "request")},
}
"""Functions that wait, and the number of positional arguments that includes the limit."""
METHODS = {"communicate": 2, "wait_for": 2, "recv": 99, "recv_bytes": 99, "recv_into": 99, "as_completed": 2}
EXECUTORS = {"ThreadPoolExecutor", "ProcessPoolExecutor", "Pool", "TaskGroup"}
"""As context managers they wait for all their work when they are left."""


def endless(code: str) -> Iterator[tuple[int, str]]:
    """Line and name of each call that may wait for ever."""
    tree = ast.parse(code)
    bounded = {id(call) for call in ast.walk(tree) for call in _bounded_by(call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            for item in node.items:
                if isinstance(item.context_expr, ast.Call) and _name(item.context_expr).split(".")[-1] in EXECUTORS:
                    yield node.lineno, _name(item.context_expr)
        if isinstance(node, ast.Call) and id(node) not in bounded and _waits(node):
            yield node.lineno, _name(node)


def _waits(call: ast.Call) -> bool:
    name, given = _name(call), {k.arg for k in call.keywords}
    if any(k.arg in ("timeout", "timeout_s") and isinstance(k.value, ast.Constant) and k.value.value is None for k in call.keywords):
        return True
    limited = "timeout" in given or "timeout_s" in given or None in given
    method = name.rpartition(".")[2]
    if name in NEED_TIMEOUT:
        return not limited and len(call.args) < NEED_TIMEOUT[name]
    if isinstance(call.func, ast.Attribute) and method in METHODS:
        return not limited and len(call.args) < METHODS[method]
    return isinstance(call.func, ast.Attribute) and method in BARE and not call.args and not call.keywords


def _bounded_by(node: ast.AST) -> Iterator[ast.AST]:
    """What runs under somebody else's limit: the first argument of asyncio.wait_for, the body of ``async with asyncio.timeout``."""
    if isinstance(node, ast.Call) and _name(node) == "asyncio.wait_for" and node.args:
        yield from ast.walk(node.args[0])
    if isinstance(node, ast.AsyncWith) and any(
        isinstance(i.context_expr, ast.Call) and _name(i.context_expr) == "asyncio.timeout" for i in node.items
    ):
        yield from ast.walk(node)


def _name(call: ast.Call) -> str:
    parts, node = [], call.func
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "?")
    return ".".join(reversed(parts))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_waits_without_a_limit(path):
    file = path.relative_to(ROOT).as_posix()
    found = [f"{file}:{line} {name}" for line, name in endless(path.read_text(encoding="utf-8"))
             if (file, name.rpartition(".")[2]) not in BOUNDED_OTHERWISE]  # fmt: skip
    assert not found, "give these a limit from the table of deadlines"


@pytest.mark.parametrize(
    "code",
    [
        "ray.get(ref)",
        "ray.get(ref, timeout=None)",
        "ray.wait([ref])",
        "queue.get()",
        "thread.join()",
        "self._event.wait()",
        "future.result()",
        "process.wait()",
        "process.communicate()",
        "subprocess.run(['ls'])",
        "urlopen(url)",
        "socket.create_connection(address)",
        "connection.recv_bytes()",
        "condition.wait_for(lambda: True)",
        "lock.acquire()",
        "with ThreadPoolExecutor(2) as pool: pass",
        "async def f():\n  await event.wait()",
        "dist.init_process_group('gloo')",
    ],
)
def test_the_rule_finds_each_kind_of_endless_wait(code):
    assert list(endless(code))


@pytest.mark.parametrize(
    "code",
    [
        "ray.get(ref, timeout=5)",
        "queue.get(timeout=1)",
        "row.get('a')",
        "', '.join(names)",
        "event.wait(0.2)",
        "pending.result(limit)",
        "subprocess.run(['ls'], timeout=3)",
        "async def f():\n  async with asyncio.timeout(1):\n    await event.wait()",
        "async def f():\n  await asyncio.wait_for(event.wait(), 1)",
        "condition.wait_for(ready, timeout=1)",
    ],
)
def test_the_rule_leaves_bounded_waits_alone(code):
    assert not list(endless(code))
