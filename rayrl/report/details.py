"""One trajectory with everything that is known of it, as plain data for the page; never as markup."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rayrl.report.folder import RunData
from rayrl.report.index import Index
from rayrl.report.judgements import Judgements

Decode = Callable[[Sequence[int]], list[str]]
"""Token ids to one readable piece of text each."""
LONGEST_TEXT = 20_000
"""Characters of one text that the page gets; what is cut is said."""


def read_details(index: Index, rows: Sequence[int], decode: Decode, judgements: Judgements | None = None) -> dict[int, dict[str, Any]]:
    """By index row. Rows of one part are read together. ``judgements``: the label store of the run, where judges were asked."""
    found: dict[int, dict[str, Any]] = {}
    rows = np.asarray(rows, dtype=np.int64)
    for part in np.unique(index.part[rows]):
        mine = rows[index.part[rows] == part]
        table = pq.read_table(index.parts[part], use_threads=False).take(index.row[mine])
        for i, record in zip(mine.tolist(), table.to_pylist(), strict=True):
            found[i] = detail(record, decode)
            if judgements:
                judgements.complete(found[i], record)
    return found


def detail(record: dict[str, Any], decode: Decode) -> dict[str, Any]:
    """One row of a rollouts part; lists of floats are rounded to what a person can see."""
    mask = [bool(x) for x in record.get("action_mask") or ()]
    return {
        "id": record.get("id", ""),
        "step": record.get("step"),
        "version": record.get("version"),
        "ordinal": record.get("ordinal"),
        "sample": record.get("sample"),
        "task": record.get("task") or "",
        "finish": record.get("finish_reason") or "",
        "reward": _round(record.get("reward")),
        "advantage": _round(record.get("advantage")),
        "staleness": record.get("staleness"),
        "kept": bool(record.get("kept")),
        "reason": record.get("reason") or "",
        "prompt": _cut(record.get("prompt_text") or ""),
        "text": _cut(record.get("text") or ""),
        "truth": record.get("ground_truth"),
        "metadata": _metadata(record.get("metadata")),
        "tokens": decode(record.get("token_ids") or ()),
        "acts": _runs(mask),
        "turns": record.get("turns") or [],
        "spans": record.get("version_spans") or [],
        "behavior": [_round(x, 4) for x, acts in zip(record.get("behavior_logprobs") or (), mask, strict=False) if acts],
        "learner": [_round(x, 4) for x in record.get("learner_logprobs") or ()],
        "advantages": _constant([_round(x, 4) for x in record.get("advantages") or ()]),
        "rewards": [_reward(r) for r in record.get("rewards") or ()],
        "components": [[name, _round(value)] for name, value in record.get("components") or ()],
    }


def token_decoder(run: RunData) -> tuple[Decode, str]:
    """From the tokenizer that the run used, and what is missing where it cannot be found: then tokens are shown as their numbers."""
    for path in _tokenizer_files(run):
        try:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(path))
        except Exception:  # the library raises bare exceptions for damaged files
            continue
        return _decoder(tokenizer), ""
    return lambda ids: [f"⟨{i}⟩" for i in ids], "the tokenizer was not found: tokens are shown as numbers"


def _decoder(tokenizer: Any) -> Decode:
    piece = lru_cache(maxsize=None)(lambda i: tokenizer.decode([i], skip_special_tokens=False) or _name(tokenizer, i))
    return lambda ids: [piece(i) for i in ids]


def _tokenizer_files(run: RunData) -> list[Path]:
    model = run.setting("model.tokenizer") or run.setting("model.path")
    places = [run.folder.policy / "tokenizer.json"]
    if model:
        places += [Path(model) / "tokenizer.json", run.path.parent.parent / model / "tokenizer.json"]
        if "/" in str(model) and not Path(model).exists():
            places += _cached(str(model))
    return [place for place in places if place.is_file()]


def _cached(model: str) -> list[Path]:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return []
    try:
        found = try_to_load_from_cache(model, "tokenizer.json")
    except ValueError:  # not a name of the hub
        return []
    return [Path(found)] if isinstance(found, str) else []


def _name(tokenizer: Any, token: int) -> str:
    """Tokens without text of their own, such as the end of the sequence."""
    return tokenizer.id_to_token(token) or f"⟨{token}⟩"


def _reward(record: dict[str, Any]) -> dict[str, Any]:
    """Only what is said."""
    kept = {key: value for key, value in record.items() if value not in (None, "", 0.0) or key in ("value", "component", "status")}
    for key in ("answer", "error"):
        if key in kept:
            kept[key] = _cut(kept[key])
    if "latency_s" in kept:
        kept["latency_s"] = _round(kept["latency_s"], 6)
    return kept


def _runs(mask: Sequence[bool]) -> list[int]:
    """Flat pairs ``[start, end)`` of the True stretches."""
    padded = np.diff(np.concatenate([[0], np.asarray(mask, np.int8), [0]]))
    return np.stack([np.flatnonzero(padded == 1), np.flatnonzero(padded == -1)], -1).reshape(-1).tolist()


def _constant(values: list[float | None]) -> list[float | None] | float | None:
    """One number where all are equal, as most estimators make them."""
    return values[0] if values and all(v == values[0] for v in values) else values


def _round(value: Any, digits: int = 5) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), digits)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}\n… {len(text) - LONGEST_TEXT} more characters"


def _metadata(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
