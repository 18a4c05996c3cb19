"""Who rewarded the policy: every producer of reward records, counted over the whole run."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrl.report.index import Index, side_by_side

_FIELDS = ("component", "producer", "producer_version", "status", "value", "latency_s", "cost_usd")
_COLUMNS = ["step", *(f"rewards.list.element.{name}" for name in _FIELDS)]
"""Not the answers: of a judge they are most of the bytes."""


def rewarders(index: Index) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """One row per component and producer, most records first; and the cost in dollars by step. ``version`` says which ones there were.

    Without reward records (older runs) the rows say what the components alone say.
    """
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    versions: dict[tuple[str, str], set[str]] = defaultdict(set)
    cost: dict[int, float] = {}
    paid: set[str] = set()
    for step, records in filter(None, side_by_side(_records, index.parts)):
        records = records.set_column(len(_FIELDS) - 1, "cost_usd", _paid(records, paid))
        place = records.schema.get_field_index("producer_version")
        told = pc.dictionary_encode(records.column(place).combine_chunks())  # few distinct ones, mostly
        short = pc.take(pc.replace_substring_regex(told.dictionary, "/.*", ""), told.indices)
        records = records.set_column(place, "producer_version", short)
        spent = pc.sum(records.column("cost_usd")).as_py() or 0.0
        cost[step] = cost.get(step, 0.0) + spent
        scored = pc.cast(pc.equal(records.column("status"), "scored"), pa.int64())
        grouped = records.append_column("scored", scored).group_by(["component", "producer", "producer_version"])
        sums = [("value", "sum"), ("scored", "sum"), ("latency_s", "sum"), ("cost_usd", "sum"), ("status", "count")]
        for row in grouped.aggregate(sums).to_pylist():
            total = found[row["component"], row["producer"]]
            versions[row["component"], row["producer"]].add(row["producer_version"] or "")
            for name, kind in sums:
                total[name] += row[f"{name}_{kind}"] or 0.0
    if not found:
        return [_of_components(name, values) for name, values in index.components.items()], {}
    rows = [
        {
            "component": component,
            "producer": producer or "unnamed",
            "version": _versions(versions[component, producer]),
            "records": int(total["status"]),
            "failed": int(total["status"] - total["scored"]),
            "mean": total["value"] / total["scored"] if total["scored"] else None,
            "latency_s": total["latency_s"] / total["status"] if total["status"] else 0.0,
            "cost_usd": total["cost_usd"],
        }
        for (component, producer), total in found.items()
    ]
    return sorted(rows, key=lambda r: -r["records"]), cost


def _records(path: Path) -> tuple[int, pa.Table] | None:
    """Step and reward records of one part, `_FIELDS` of each; None without any, or where they cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(_COLUMNS, use_threads=False)
        records = pa.Table.from_struct_array(pc.list_flatten(table.column("rewards")))
        return (int(table.column("step")[0].as_py()), records.select(_FIELDS)) if records.num_rows else None
    except (OSError, pa.ArrowException, KeyError):
        return None


def _paid(records: pa.Table, paid: set[str]) -> pa.Array:
    """Dollars per record, float64: an answer that several samples share (``<template>/<key>``) was paid once. Adds to ``paid``."""
    if not pc.any(pc.not_equal(records.column("cost_usd"), 0.0)).as_py():
        return pa.array(np.zeros(len(records)))
    costs = records.column("cost_usd").to_pylist()
    for i, version in enumerate(records.column("producer_version").to_pylist()):
        if version and "/" in version:
            costs[i] = 0.0 if version in paid else costs[i]
            paid.add(version)
    return pa.array(costs, pa.float64())


def _versions(found: set[str]) -> str:
    """Of a judge the hash of its prompt template, of a reward model the range of its versions."""
    found = found - {""}
    if len(found) > 1 and all(version.isdigit() for version in found):
        numbers = sorted(map(int, found))
        return f"{numbers[0]} to {numbers[-1]}"
    return next(iter(found)) if len(found) == 1 else f"{len(found)} versions" if found else ""


def _of_components(name: str, values: np.ndarray) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    return {
        "component": name,
        "producer": "not recorded",
        "version": "",
        "records": len(values),
        "failed": len(values) - len(known),
        "mean": float(known.mean()) if len(known) else None,
        "latency_s": None,
        "cost_usd": None,
    }
