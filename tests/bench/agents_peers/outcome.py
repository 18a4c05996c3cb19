"""What every peer is asked and what it prints, so that one script can compare them."""

from __future__ import annotations

import argparse
import json
import time

FRAMES_PER_UPDATE, ROLLOUT = 1024, 32


def arguments(doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("oni", "small"), default="oni", help="network: 2.8 M or 0.24 M parameters")
    parser.add_argument("--seconds", type=float, default=60, help="length of the measurement")
    parser.add_argument("--warmup", type=float, default=20, help="seconds of training before it")
    return parser.parse_args()


class Meter:
    """Counts trained frames between the end of the warm-up and the end of the measurement."""

    def __init__(self, peer: str, asked: argparse.Namespace) -> None:
        self._peer, self._asked = peer, asked
        self._born = time.monotonic()
        self._start: tuple[float, int] | None = None

    def update(self, frames: int) -> bool:
        """Called with the frames trained so far after every learner update; True when there is nothing more to measure."""
        now = time.monotonic()
        if self._start is None and now - self._born >= self._asked.warmup and frames > 0:
            self._start = now, frames
        self._last = now, frames
        return self._start is not None and now - self._start[0] >= self._asked.seconds

    def report(self, parameters: int, **details: object) -> None:
        assert self._start is not None, "the warm-up never ended"
        seconds, frames = (b - a for a, b in zip(self._start, self._last, strict=True))
        line = {"peer": self._peer, "size": self._asked.size, "frames_per_s": round(frames / seconds, 1), "frames": frames}
        print(json.dumps(line | {"seconds": round(seconds, 2), "parameters": parameters} | details), flush=True)
