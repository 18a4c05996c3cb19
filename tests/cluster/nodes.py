"""A Ray cluster of several nodes on one machine: network namespaces on a wire where that is allowed, else all on the loopback device.

Every process of it is a child of ours and is ended by its id; `ray stop`, which ends every Ray of the machine, is not used.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from wire import Wire

RAY = str(Path(sys.executable).parent / "ray")
START_S = 90.0
QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "8",
}
"""A node that is silent for ten seconds is dead. Ray's own patience is half a minute."""


class Cluster:
    """Nodes by number, one core each, known by a custom resource of their own; node 0 is the head."""

    def __init__(self, folder: Path, *, jobs: bool = False, **variables: str) -> None:
        """``jobs``: with the dashboard, which takes submitted jobs. ``variables``: for Ray's own processes."""
        self.folder, self._variables, self._jobs = folder, variables, jobs
        self.wire = Wire.make()
        self.port, self.dashboard = (6379, 8265) if self.wire else (_free_port(), _free_port())
        self.token = folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.token.chmod(0o600)
        self._nodes: list[subprocess.Popen] = []
        self._ids: list[str] = []

    @property
    def env(self) -> dict[str, str]:
        """For every process that talks to the cluster."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS") and not k.startswith("RAY_AUTH")}
        return kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_API_SERVER_ADDRESS": f"http://{self.address_of(0)}:{self.dashboard}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAYRL_SUBMIT_PYTHON": sys.executable,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **self._variables,
        }

    @property
    def address(self) -> str:
        return f"{self.address_of(0)}:{self.port}"

    def address_of(self, node: int) -> str:
        return f"10.213.7.{node + 1}" if self.wire else "127.0.0.1"

    def command(self, node: int, argv: list[str]) -> list[str]:
        """``argv`` as a process of a node."""
        return ["ip", "netns", "exec", self.wire.space(node), *argv] if self.wire else argv

    def start(self, *resources: str) -> None:
        """A node for each; the first is the head."""
        for resource in resources:
            self.join(resource)

    def join(self, resource: str) -> int:
        """One more node, up when this returns; its number."""
        node, shared = len(self._nodes), ["--num-cpus=1", "--object-store-memory=104857600", "--block", "--disable-usage-stats"]
        if self.wire:
            self.wire.plug(node, self.address_of(node))
        board = [f"--dashboard-host={self.address_of(0)}", f"--dashboard-port={self.dashboard}"]
        head = ["--head", f"--port={self.port}", *(board if self._jobs else ["--include-dashboard=false"])]
        place = [f"--address={self.address}"] if node else head
        self._launch(node, [*place, f'--resources={{"{resource}": 1}}', *shared])
        found: set[str] = set()

        def up() -> bool:
            found.update(self.alive() - set(self._ids))
            return bool(found)

        self._wait(f"node {node}", up)
        self._ids.append(found.pop())
        return node

    def alive(self) -> set[str]:
        """Ids of the nodes that are up; none where nobody answers."""
        code = "import ray; ray.init(address='auto', log_to_driver=False); print(*(n['NodeID'] for n in ray.nodes() if n['Alive']))"
        try:
            done = subprocess.run(
                self.command(0, [sys.executable, "-c", code]),
                env=self.env | {"RAY_ADDRESS": self.address},
                capture_output=True,
                text=True,
                timeout=30,
            )
        except subprocess.TimeoutExpired:
            return set()
        return set(done.stdout.split("\n")[-2].split()) if done.returncode == 0 else set()

    def lives(self, node: int) -> bool:
        return self._ids[node] in self.alive()

    def received(self, node: int) -> int:
        """Bytes that came into a node over its wire; 0 without namespaces."""
        return self.wire.received(node) if self.wire else 0

    # ---- what may happen to a node

    def drain(self, node: int, seconds: int) -> None:
        """It is announced that the node goes away, as by a cloud that takes a machine back."""
        about = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=taken back", f"--deadline-remaining-seconds={seconds}"]
        argv = [RAY, "drain-node", f"--address={self.address}", f"--node-id={self._ids[node]}", *about]
        done = subprocess.run(self.command(0, argv), env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self, node: int) -> None:
        """At once, with everything on it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nodes[node].pid, signal.SIGKILL)
        self._signal(node, signal.SIGKILL)
        self._nodes[node].wait(10)

    def kill_ray(self, node: int) -> None:
        """Ray's daemons alone; processes that use them are left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nodes[node].pid, signal.SIGKILL)
        for pid in self._members(node):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() in ("gcs_server", "raylet"):
                    os.kill(pid, signal.SIGKILL)

    def freeze(self, node: int) -> None:
        """Every process of it stands still."""
        self._signal(node, signal.SIGSTOP)

    def thaw(self, node: int) -> None:
        self._signal(node, signal.SIGCONT)

    def stop(self) -> None:
        """May be called again."""
        for node, process in reversed(list(enumerate(self._nodes))):
            self.thaw(node)
            process.terminate()
        for node, process in enumerate(self._nodes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            self.kill(node)
            shutil.rmtree(self._temp(node), ignore_errors=True)
        if self.wire:
            self.wire.remove()
        self._nodes.clear()

    # ---- inside

    def _launch(self, node: int, argv: list[str]) -> None:
        log = (self.folder / f"node-{node}.log").open("w")
        own = [f"--node-ip-address={self.address_of(node)}", f"--temp-dir={self._temp(node)}"]  # nodes that share one delete its files
        argv = self.command(node, [RAY, "start", *own, *argv])
        self._nodes.append(subprocess.Popen(argv, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True))

    def _wait(self, what: str, up: Callable[[], bool]) -> None:
        limit = time.monotonic() + START_S
        while not up():
            if self._nodes[-1].poll() is not None or time.monotonic() > limit:
                logs = "\n".join(p.read_text()[-2000:] for p in sorted(self.folder.glob("node-*.log")))
                raise RuntimeError(f"{what} did not come up\n{logs}")
            time.sleep(0.5)

    def _signal(self, node: int, number: signal.Signals) -> None:
        for pid in self._members(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _members(self, node: int) -> list[int]:
        """Processes of a node: those of its namespace, or of its session."""
        if self.wire:
            return self.wire.pids(node)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry.name)) == self._nodes[node].pid:
                        found.append(int(entry.name))
        return found

    def _temp(self, node: int) -> str:
        """Sockets lie below it, so that its path must be short."""
        return f"/tmp/r{os.getpid()}-{self.port}-{node}" if self.wire is None else f"/tmp/r{self.wire.space(node).removeprefix('rayrl')}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
