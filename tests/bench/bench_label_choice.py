"""Which messages are worth their label, when labels are scarce: each order of asking on the same recorded NetHack stream.

    python tests/bench/bench_label_choice.py [--frames 240000] [--per-label 1200]

The label store is the real one; the judge answers at once, one question per ``--per-label`` frames. A frame counts when its message has
a label at that moment, weighted by the message's sightings in its episode to the power -3, as the intrinsic reward weighs it.
The baseline asks the newest message first, as ONI's annotator does. Target: at least 1.3 times its weighted share.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from nethack_stream import Stream, record
from report import emit

from rayrl.config.schema import FeedbackConfig
from rayrl.feedback import templates
from rayrl.feedback.ledger import PRIORITIES
from rayrl.feedback.outcome import Outcome
from rayrl.feedback.store import LabelStore

EXPONENT = -3.0
LABEL = Outcome((1.0,))


def coverage(stream: Stream, priority: str, per_label: int) -> dict[str, float]:
    """Weighted and plain share of frames (of those that show a message) with a label; the same for labels known from the start."""
    config = FeedbackConfig(judge="http", template="nethack_class", priority=priority)
    labelled: set[int] = set()
    had = np.zeros(stream.hashes.shape, bool)
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore(Path(folder) / "f.sqlite", config, templates.load(config.template), "none")
        credit = 0.0
        for i, shown in enumerate(stream.hashes):
            had[i] = np.isin(shown, np.fromiter(labelled, np.uint64, len(labelled)))
            store.sight(stream.texts[i], *stream.sightings(i))
            credit += shown.size / per_label
            while credit >= 1.0 and (entry := store.lease(0.0, lambda e: (0, 0.0))) is not None:
                store.settle(entry, LABEL)
                labelled.add(entry.items[0])
                credit -= 1.0
        store.close()
    shown = stream.hashes != 0
    weights = np.where(shown, np.maximum(stream.counts, 1).astype(np.float64) ** EXPONENT, 0.0)
    known = np.isin(stream.hashes, np.fromiter(labelled, np.uint64, len(labelled)))
    return {
        "weighted": float((weights * had).sum() / weights.sum()),
        "plain": float(had[shown].mean()),
        "weighted_in_hindsight": float((weights * known).sum() / weights.sum()),
        "plain_in_hindsight": float(known[shown].mean()),
        "labels": float(len(labelled)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=240_000)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--per-label", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    stream = record(a.frames, a.envs, a.seed)
    found = {p: coverage(stream, p, a.per_label) for p in PRIORITIES if p != "uncertainty"}
    base = found["lifo"]
    best = found["first_sightings"]
    return not emit(
        "label_choice",
        {
            "first_sightings_over_lifo": best["weighted"] / base["weighted"],
            "first_sightings_over_lifo_in_hindsight": best["weighted_in_hindsight"] / base["weighted_in_hindsight"],
            "frequency_over_lifo": found["frequency"]["weighted"] / base["weighted"],
        },
        {"first_sightings_over_lifo": (">=", 1.3), "first_sightings_over_lifo_in_hindsight": (">=", 1.3)},
        frames=stream.frames,
        distinct=stream.distinct,
        shares={p: {k: round(v, 3) for k, v in c.items()} for p, c in found.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
