"""A wire between nodes that are network namespaces of this machine: a bridge, and a cable to it from each node. Needs root."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess

_COUNT = itertools.count()


class Wire:
    def __init__(self) -> None:
        """Raises `OSError` or `subprocess.SubprocessError` where namespaces or bridges cannot be made."""
        self._id = f"{os.getpid()}x{next(_COUNT)}"
        self._switch, self._spaces = f"rayrl{self._id}-s", {}
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "br0", "up")
            self.plug(0, "10.213.7.1")
        except BaseException:
            self.remove()
            raise

    @classmethod
    def make(cls) -> Wire | None:
        """None where it cannot be."""
        try:
            return cls()
        except (OSError, subprocess.SubprocessError):
            return None

    def space(self, node: int) -> str:
        """Name of a node's namespace."""
        return self._spaces[node]

    def plug(self, node: int, address: str) -> None:
        """A namespace for a node, on the wire under ``address``."""
        if node in self._spaces:
            return
        space, own, far = f"rayrl{self._id}-{node}", f"v{self._id}n{node}", self._port(node)
        self._spaces[node] = space
        _ip("netns", "add", space)
        _ip("link", "add", own, "netns", space, "type", "veth", "peer", "name", far, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", far, "master", "br0")
        _ip("-n", self._switch, "link", "set", far, "up")
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", own)
        for device in ("lo", own):
            _ip("-n", space, "link", "set", device, "up")

    def cut(self, node: int) -> None:
        """Nothing reaches the node, and nothing leaves it; neither side is told."""
        _ip("-n", self._switch, "link", "set", self._port(node), "down")

    def heal(self, node: int) -> None:
        _ip("-n", self._switch, "link", "set", self._port(node), "up")

    def throttle(self, node: int, rate: str) -> None:
        """Bytes to the node pass at ``rate``, e.g. ``2mbit``; more than a second's worth of them is lost."""
        shape = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "1s"]
        _run("ip", "netns", "exec", self._switch, "tc", "qdisc", "add", "dev", self._port(node), *shape)

    def received(self, node: int) -> int:
        """Bytes that came into a node."""
        links = json.loads(_ip("-n", self._spaces[node], "-s", "-j", "link"))
        return sum(link["stats64"]["rx"]["bytes"] for link in links if link["ifname"] != "lo")

    def pids(self, node: int) -> list[int]:
        """Processes of a node."""
        return [int(pid) for pid in _ip("netns", "pids", self._spaces[node]).split()]

    def remove(self) -> None:
        for space in (*self._spaces.values(), self._switch):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                _ip("netns", "del", space)

    def _port(self, node: int) -> str:
        return f"p{self._id}n{node}"


def _ip(*argv: str) -> str:
    return _run("ip", *argv)


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout
