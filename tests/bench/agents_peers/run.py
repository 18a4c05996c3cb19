"""Runs one peer of the agent benchmark in a virtual environment of its own, which it makes at the first run.

    python tests/bench/agents_peers/run.py {ppo_loop,sample_factory,rllib} --size {oni,small} --seconds 60 --warmup 20

Prints the peer's one JSON line (``peer``, ``size``, ``frames_per_s``, ``frames``, ``seconds``, ``parameters``) last. Environments live in
$RAYRL_PEERS (default: ~/.cache/rayrl-peers); $RAYRL_TORCH_INDEX may name a package index with CPU builds of torch, as for setup.sh.
``--install`` only makes the environment. ``ppo_loop`` needs none: it runs in the present one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
PEERS: dict[str, list[list[str]]] = {
    # One pip call after another. nle wants gymnasium 1.2.0, RLlib a later one and Sample Factory one below 1.0: nle runs with any.
    "sample_factory": [["torch==2.13.0"], ["sample-factory==2.1.1", "xxhash"], ["--no-deps", "nle==1.3.0"]],
    "rllib": [["torch==2.13.0"], ["ray[rllib]==2.60.0", "xxhash"], ["--no-deps", "nle==1.3.0"]],
}
INSTALL_LIMIT_S = 1800


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in (*PEERS, "ppo_loop"):
        print(__doc__, file=sys.stderr)
        return 2
    peer, rest = sys.argv[1], sys.argv[2:]
    command = command_of(peer)
    return 0 if "--install" in rest else subprocess.run([*command, *rest], env=environment()).returncode


def measure(peer: str, size: str, seconds: float, warmup: float) -> dict[str, Any]:
    """What the peer printed. Raises `RuntimeError` with the end of its output when it printed nothing."""
    command = [*command_of(peer), "--size", size, "--seconds", str(seconds), "--warmup", str(warmup)]
    done = subprocess.run(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3 * (seconds + warmup) + 300
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"peer"')]
    if not lines:
        raise RuntimeError(f"{peer} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return json.loads(lines[-1])


def command_of(peer: str) -> list[str]:
    return [interpreter(peer) if peer in PEERS else sys.executable, str(HERE / f"peer_{peer}.py")]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(CHECKOUT)}


def interpreter(peer: str) -> str:
    """Python of the peer's environment, made anew when what it should hold has changed."""
    wanted = hashlib.sha256(repr((PEERS[peer], sys.version_info[:2])).encode()).hexdigest()[:12]
    folder = Path(os.environ.get("RAYRL_PEERS", Path.home() / ".cache" / "rayrl-peers")) / f"{peer}-{wanted}"
    python, stamp = folder / "bin" / "python", folder / ".complete"
    if not stamp.exists():
        print(f"installing {peer} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for packages in PEERS[peer]:
            index = os.environ.get("RAYRL_TORCH_INDEX") if packages[0].startswith("torch") else None
            command = [python, "-m", "pip", "install", "--quiet", "--no-input", *(["--index-url", index] if index else []), *packages]
            subprocess.run(command, check=True, timeout=INSTALL_LIMIT_S, stdout=sys.stderr)
        stamp.touch()
    return str(python)


if __name__ == "__main__":
    sys.exit(main())
