"""A Ray cluster of two nodes on one machine: in two network namespaces where that is allowed, else two nodes on the loopback device.

Every process of it is a child of ours and is ended by its id; `ray stop`, which ends every Ray of the machine, is not used.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

RAY = str(Path(sys.executable).parent / "ray")
START_S = 90.0


class TwoNodes:
    """Node 0 is the head with the resource ``learner``, node 1 has ``rollout``; one core each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespaces = _namespaces()
        self.addresses = ("10.213.7.1", "10.213.7.2") if self.namespaces else ("127.0.0.1", "127.0.0.1")
        self.port, self.dashboard = (6379, 8265) if self.namespaces else (_free_port(), _free_port())
        self.token = folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.token.chmod(0o600)
        self._nodes: list[subprocess.Popen] = []

    @property
    def env(self) -> dict[str, str]:
        """For every process that talks to the cluster."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS") and not k.startswith("RAY_AUTH")}
        return kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_API_SERVER_ADDRESS": f"http://{self.addresses[0]}:{self.dashboard}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAYRL_SUBMIT_PYTHON": sys.executable,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    @property
    def address(self) -> str:
        return f"{self.addresses[0]}:{self.port}"

    def command(self, node: int, argv: list[str]) -> list[str]:
        """``argv`` as a process of a node."""
        return ["ip", "netns", "exec", self.namespaces[node], *argv] if self.namespaces else argv

    def start(self) -> None:
        shared = ["--num-cpus=1", "--object-store-memory=104857600", "--block", "--disable-usage-stats"]
        head = ["--head", f"--port={self.port}", f"--dashboard-host={self.addresses[0]}", f"--dashboard-port={self.dashboard}"]
        self._launch(0, [*head, '--resources={"learner": 1}', *shared])
        self._wait("the head", lambda: self.alive() >= 1)
        self._launch(1, [f"--address={self.address}", '--resources={"rollout": 1}', *shared])
        self._wait("the second node", lambda: self.alive() >= 2)

    def alive(self) -> int:
        """Nodes that are up; 0 where nobody answers."""
        code = "import ray; ray.init(address='auto', log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"
        try:
            done = subprocess.run(
                self.command(0, [sys.executable, "-c", code]),
                env=self.env | {"RAY_ADDRESS": self.address},
                capture_output=True,
                text=True,
                timeout=30,
            )
        except subprocess.TimeoutExpired:
            return 0
        return int(done.stdout.split()[-1]) if done.returncode == 0 else 0

    def received(self, node: int) -> int:
        """Bytes that came into a node over its wire; 0 without namespaces."""
        if not self.namespaces:
            return 0
        argv = ["ip", "-n", self.namespaces[node], "-s", "-j", "link"]
        shown = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True)
        return sum(link["stats64"]["rx"]["bytes"] for link in json.loads(shown.stdout) if link["ifname"] != "lo")

    def kill(self, node: int) -> None:
        """At once, with everything on it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nodes[node].pid, signal.SIGKILL)
        for pid in self._members(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._nodes[node].wait(10)

    def stop(self) -> None:
        for process in reversed(self._nodes):
            process.terminate()
        for node, process in enumerate(self._nodes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            self.kill(node)
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=10, check=False)
        for node in range(len(self._nodes)):
            shutil.rmtree(_temp(node), ignore_errors=True)

    def _launch(self, node: int, argv: list[str]) -> None:
        log = (self.folder / f"node-{node}.log").open("w")
        own = [f"--node-ip-address={self.addresses[node]}", f"--temp-dir={_temp(node)}"]  # nodes that share one delete each other's files
        argv = self.command(node, [RAY, "start", *own, *argv])
        self._nodes.append(subprocess.Popen(argv, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True))

    def _wait(self, what: str, up) -> None:
        limit = time.monotonic() + START_S
        while not up():
            dead = [p for p in self._nodes if p.poll() is not None]
            if dead or time.monotonic() > limit:
                logs = "\n".join(p.read_text()[-2000:] for p in sorted(self.folder.glob("node-*.log")))
                raise RuntimeError(f"{what} did not come up\n{logs}")
            time.sleep(0.5)

    def _members(self, node: int) -> list[int]:
        """Processes of a node: those of its namespace, or of its session."""
        if self.namespaces:
            shown = subprocess.run(["ip", "netns", "pids", self.namespaces[node]], capture_output=True, text=True, timeout=10, check=False)
            return [int(pid) for pid in shown.stdout.split()]
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry.name)) == self._nodes[node].pid:
                        found.append(int(entry.name))
        return found


def _namespaces() -> tuple[str, str] | tuple[()]:
    """Two namespaces joined by a wire; empty where they cannot be made."""
    a, b = (f"rayrl{os.getpid()}-{i}" for i in range(2))
    steps = [
        ["ip", "netns", "add", a],
        ["ip", "netns", "add", b],
        ["ip", "link", "add", f"v{os.getpid()}a", "netns", a, "type", "veth", "peer", "name", f"v{os.getpid()}b", "netns", b],
        ["ip", "-n", a, "addr", "add", "10.213.7.1/24", "dev", f"v{os.getpid()}a"],
        ["ip", "-n", b, "addr", "add", "10.213.7.2/24", "dev", f"v{os.getpid()}b"],
        *(["ip", "-n", space, "link", "set", dev, "up"] for space, end in ((a, "a"), (b, "b")) for dev in ("lo", f"v{os.getpid()}{end}")),
    ]
    try:
        for step in steps:
            subprocess.run(step, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        for name in (a, b):
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=10, check=False)
        return ()
    return a, b


def _temp(node: int) -> str:
    """Sockets lie below it, so that its path must be short."""
    return f"/tmp/r{os.getpid()}-{node}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
