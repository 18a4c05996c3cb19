"""Who rewarded the policy: every producer of reward records, counted over the whole run."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrl.report.index import Index

_FIELDS = ("component", "producer", "producer_version", "status", "value", "latency_s", "cost_usd")


def rewarders(index: Index) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """One row per component, producer and version, most records first; and the cost in dollars by step.

    Without reward records (older runs) the rows say what the components alone say.
    """
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    cost: dict[int, float] = {}
    for path in index.parts:
        try:
            table = pq.read_table(path, columns=["step", "rewards"], use_threads=False)
        except (OSError, pa.ArrowException, KeyError):
            continue
        records = pa.Table.from_struct_array(pc.list_flatten(table.column("rewards")))
        if not records.num_rows:
            continue
        records = records.select(_FIELDS)
        spent = pc.sum(records.column("cost_usd")).as_py() or 0.0
        step = int(table.column("step")[0].as_py())
        cost[step] = cost.get(step, 0.0) + spent
        scored = pc.cast(pc.equal(records.column("status"), "scored"), pa.int64())
        grouped = records.append_column("scored", scored).group_by(["component", "producer", "producer_version"])
        sums = [("value", "sum"), ("scored", "sum"), ("latency_s", "sum"), ("cost_usd", "sum"), ("status", "count")]
        for row in grouped.aggregate(sums).to_pylist():
            total = found[row["component"], row["producer"], row["producer_version"]]
            for name, kind in sums:
                total[name] += row[f"{name}_{kind}"] or 0.0
    if not found:
        return [_of_components(name, values) for name, values in index.components.items()], {}
    rows = [
        {
            "component": component,
            "producer": producer or "unnamed",
            "version": version,
            "records": int(total["status"]),
            "failed": int(total["status"] - total["scored"]),
            "mean": total["value"] / total["scored"] if total["scored"] else None,
            "latency_s": total["latency_s"] / total["status"] if total["status"] else 0.0,
            "cost_usd": total["cost_usd"],
        }
        for (component, producer, version), total in found.items()
    ]
    return sorted(rows, key=lambda r: -r["records"]), cost


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
