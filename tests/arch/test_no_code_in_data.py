"""What is read from disk is data: no module loads a format that can carry code."""

import ast
from pathlib import Path

import pytest

import rayrl

ROOT = Path(rayrl.__file__).parent
BETWEEN_OWN_PROCESSES = {
    "runtime/framing.py": "how a record batch goes into Ray's object store; loads nothing",
    "rewards/child.py": "messages over a socket that the parent made",
    "rewards/process.py": "the same, the parent's side; verifiers are the user's own code, what a model wrote runs in the sandbox",
    "learner/vllm_transfer.py": "handles of GPU memory for the engines, in a call",
    "rollout/vllm_async.py": "a manifest for the engine's own workers, in a call",
    "rollout/vllm_worker.py": "the same, received",
}
INSIDE_THE_SANDBOX = {"rewards/code_tests.py": "runs the code under test"}
LOADERS = {
    ("torch", "load"),
    ("np", "load"),
    ("numpy", "load"),
    ("joblib", "load"),
    ("dill", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_module_loads_what_can_carry_code(path):
    name = path.relative_to(ROOT).as_posix()
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {a.name for a in node.names} | {getattr(node, "module", None)}
            found |= modules & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
        elif isinstance(node, ast.Call):
            base = getattr(getattr(node.func, "value", None), "id", "")
            if (base, getattr(node.func, "attr", "")) in LOADERS:
                safe = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                found |= set() if safe.get("weights_only") is True or safe.get("allow_pickle") is False else {f"{base}.load"}
            found |= {getattr(node.func, "id", "")} & {"eval", "exec"}
    allowed = {"pickle"} if name in BETWEEN_OWN_PROCESSES else {"exec"} if name in INSIDE_THE_SANDBOX else set()
    assert found <= allowed, f"{name} uses {found - allowed}"
