"""Who may import whom, and what a light import may load."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rayrl

CHECKOUT = Path(rayrl.__file__).resolve().parent.parent
HEAVY = ["torch", "ray", "vllm", "deepspeed", "transformers", "wandb"]
LIGHT = [
    "rayrl",
    "rayrl.types",
    "rayrl.protocols",
    "rayrl.config.loading",
    "rayrl.algorithms.registry",
    "rayrl.rewards.registry",
    "rayrl.envs.registry",
    "rayrl.rollout.select",
    "rayrl.check",
    "rayrl.plan",
    "rayrl.cli",
    "rayrl.cli.show",
]


def test_the_import_contracts_hold():
    linter = Path(sys.executable).parent / "lint-imports"
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]


def test_light_imports_load_nothing_heavy():
    code = f"import sys, importlib; [importlib.import_module(name) for name in {LIGHT!r}]; print(*({set(HEAVY)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_module_is_in_the_layers_contract():
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    named = {name.strip("() ") for layer in layers for name in layer.replace("|", ":").split(":")}
    package = CHECKOUT / "rayrl"
    found = [*package.glob("*.py"), *(p.parent for p in package.glob("*/__init__.py"))]
    rooms = {f"rayrl.{p.stem}" for p in found if not p.stem.startswith("__")} - {"rayrl.config"}
    rooms |= {f"rayrl.config.{p.stem}" for p in (package / "config").glob("*.py") if not p.stem.startswith("__")}
    assert rooms == named
