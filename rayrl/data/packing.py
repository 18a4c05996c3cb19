"""Plans of micro-batches: which sequences run together in one forward pass, under a budget of tokens.

Pure and deterministic: the same lengths give the same plan in every process, so learner ranks agree on a plan without
talking. ``lengths`` are tokens per sequence; a plan is a list of micro-batches, each a list of indices into ``lengths``. A
sequence that is longer than the budget gets a micro-batch of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MicroBatches = list[list[int]]

LAUNCH_TOKENS = 64
"""Fixed cost of one more micro-batch, expressed in tokens of work: what a cut must save in padding to be worth making. At least."""
LAYER_S = {"cpu": 5e-3, "cuda": 8e-4}
"""What a layer's kernel launches take at least, forward and backward, by kind of device."""
FLOPS = {"cpu": 2e11, "cuda": 4e14}
"""Floating-point operations per second of a device that is kept busy: the order of magnitude for two cores, an H100 or H200."""


def launch_tokens(device: str, layers: int, parameters: int) -> int:
    """Tokens that a network of this size computes (6 floating-point operations each per parameter) while it waits for launches."""
    kind = "cpu" if device == "cpu" else "cuda"
    return max(LAUNCH_TOKENS, round(layers * LAYER_S[kind] * FLOPS[kind] / (6 * max(1, parameters))))


def plan(lengths: Sequence[int], budget: int, *, packed: bool, launch: int = LAUNCH_TOKENS) -> MicroBatches:
    """Micro-batches of `plan_packed` or `plan_padded`."""
    return plan_packed(lengths, budget) if packed else plan_padded(lengths, budget, launch_tokens=launch)


def plan_padded(lengths: Sequence[int], budget: int, *, launch_tokens: int = LAUNCH_TOKENS) -> MicroBatches:
    """Sorted by length, longest first; cut so that padded tokens plus `launch_tokens` per micro-batch are least.

    Rows of a micro-batch are padded to its longest one; rows x width never exceeds ``budget``. The cuts are the exact
    minimum, by dynamic programming over the sorted lengths.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    widths, n = lengths[order], len(lengths)
    best = np.zeros(n + 1)  # best[i]: least cost of the sequences from position i on
    end = np.zeros(n + 1, dtype=np.int64)  # end[i]: where the micro-batch that starts at i ends
    for i in range(n - 1, -1, -1):
        rows = np.arange(1, min(max(1, budget // max(1, int(widths[i]))), n - i) + 1)
        cost = rows * widths[i] + launch_tokens + best[i + rows]
        choice = int(np.argmin(cost))
        best[i], end[i] = cost[choice], i + rows[choice]
    batches, i = [], 0
    while i < n:
        batches.append([int(k) for k in order[i : end[i]]])
        i = int(end[i])
    return batches


def plan_packed(lengths: Sequence[int], budget: int) -> MicroBatches:
    """Longest first into the first micro-batch with room (first-fit decreasing); no padding."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: MicroBatches = []
    room = np.empty(len(order), dtype=np.int64)
    for k in order:
        fits = np.flatnonzero(room[: len(batches)] >= lengths[k])
        if len(fits):
            slot = int(fits[0])
        else:
            slot = len(batches)
            batches.append([])
            room[slot] = budget
        batches[slot].append(int(k))
        room[slot] -= lengths[k]
    return batches


def plan_ranks(lengths: Sequence[Sequence[int]], budget: int, *, packed: bool, launch: int = LAUNCH_TOKENS) -> list[MicroBatches]:
    """One plan per rank, all of the same number of micro-batches, because every micro-batch may be a collective call.

    ``lengths`` holds one sequence of lengths per rank. Ranks with less work get empty micro-batches at the end.
    """
    return _level([plan(own, budget, packed=packed, launch=launch) for own in lengths])


def _level(plans: list[MicroBatches]) -> list[MicroBatches]:
    count = max(map(len, plans))
    return [own + [[] for _ in range(count - len(own))] for own in plans]


def plan_by_group(groups: Sequence[Sequence[int]], budget: int, *, packed: bool) -> MicroBatches:
    """Micro-batches of whole groups, largest first into the first with room; ``groups`` holds the lengths of each group's sequences.

    Sequences are numbered group after group. A group that is larger than the budget gets a micro-batch of its own.
    """
    starts = np.cumsum([0, *map(len, groups)])
    cost = lambda chosen: sum(map(len, chosen)) * max(max(g) for g in chosen) if not packed else sum(int(sum(g)) for g in chosen)
    filled = [k for k in range(len(groups)) if len(groups[k])]
    held: list[list[int]] = []
    for k in sorted(filled, key=lambda k: -cost([groups[k]])):
        room = (own for own in held if cost([groups[i] for i in [*own, k]]) <= budget)
        own = next(room, None)
        if own is None:
            held.append([k])
        else:
            own.append(k)
    return [[int(r) for k in own for r in range(starts[k], starts[k + 1])] for own in held]


def plan_ranks_by_group(groups: Sequence[Sequence[Sequence[int]]], budget: int, *, packed: bool) -> list[MicroBatches]:
    """`plan_ranks` with whole groups in every micro-batch; ``groups`` holds for each rank the lengths of each group's sequences."""
    return _level([plan_by_group(own, budget, packed=packed) for own in groups])


def padding_share(lengths: Sequence[int], batches: MicroBatches) -> float:
    """Share of processed tokens that is padding when ``batches`` run padded, 0 … 1."""
    real = sum(int(lengths[k]) for rows in batches for k in rows)
    processed = sum(len(rows) * max(int(lengths[k]) for k in rows) for rows in batches if rows)
    return 1.0 - real / processed if processed else 0.0


def partition(weights: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of ``weights`` in ``parts`` lists of about equal sums: heaviest first to the lightest part (Graham's LPT rule)."""
    loads = [0] * parts
    members: list[list[int]] = [[] for _ in range(parts)]
    for k in np.argsort(-np.asarray(weights, dtype=np.int64), kind="stable"):
        lightest = loads.index(min(loads))
        members[lightest].append(int(k))
        loads[lightest] += int(weights[k])
    return [sorted(m) for m in members]
