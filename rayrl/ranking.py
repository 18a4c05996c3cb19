"""How well a checkpoint retrieves: identifiers ranked by beams that can only write what exists, against the judged ones (`rayrl rank`)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayrl.config.loading import Loaded
from rayrl.data.retrieval import COMPLETIONS, RELEVANT_SEPARATOR
from rayrl.data.sources import load_rows
from rayrl.errors import ConfigError
from rayrl.evaluation.estimators import ndcg, recall, reciprocal_rank


def rank(loaded: Loaded, checkpoint: Path | str, *, beams: int = 50, k: int = 10) -> dict[str, float]:
    """MRR, recall, hit rate and nDCG at ``k`` over the held-out queries of a recipe; the share of pairs of a relevant and a listed
    irrelevant identifier in the right order (unranked ones come last); and the share of ranked identifiers that exist, which confined
    beams make 1: less is a defect of the trie.

    The identifiers are all that the recipe's rows name. Raises `ConfigError` for a recipe whose rows name none.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from rayrl.data.tokenizer import load_tokenizer
    from rayrl.models.constrained import Trie, beam_search

    config = loaded.config
    train, held_out = load_rows(config.data, "train"), load_rows(config.data, "eval")[: config.data.eval_size]
    names = sorted({name for rows in (train, held_out) for row in rows for name in row.metadata.get(COMPLETIONS, ())})
    if not names:
        raise ConfigError(
            f"{loaded.recipe} names no identifiers", f"rows need a column {COMPLETIONS!r}: take task:retrieval or task:documents"
        )
    tokenizer = load_tokenizer(config.model)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = {(*encode(name), tokenizer.eos_token_id): name for name in names}
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    trie, scores, written, pairs = Trie(ids), list[dict[str, float]](), list[bool](), list[bool]()
    for row in held_out:
        found = beam_search(model, encode(str(row.prompt)), trie, beams)
        written += [sequence in ids for sequence, _ in found]
        ranking, relevant = [ids[sequence] for sequence, _ in found], str(row.answer).split(RELEVANT_SEPARATOR)
        scores.append(measures(ranking, relevant, k))
        pairs += ordered(ranking, relevant, [name for name in row.metadata.get(COMPLETIONS, ()) if name not in relevant])
    means = {name: statistics.fmean(s[name] for s in scores) for name in scores[0]} | {"pairs_right": statistics.fmean(pairs or [0.0])}
    return means | {"existing_share": statistics.fmean(written), "queries": float(len(held_out)), "identifiers": float(len(names))}


def measures(ranking: Sequence[Any], relevant: Sequence[Any], k: int) -> dict[str, float]:
    """Of one query."""
    judged = set(relevant)
    return {
        f"mrr@{k}": reciprocal_rank(ranking, judged, k),
        f"recall@{k}": recall(ranking, judged, k),
        "hit@1": float(bool(set(ranking[:1]) & judged)),
        f"hit@{k}": float(bool(set(ranking[:k]) & judged)),
        f"ndcg@{k}": ndcg(ranking, judged, k),
    }


def ordered(ranking: Sequence[Any], relevant: Sequence[Any], irrelevant: Sequence[Any]) -> list[bool]:
    """For each pair of one query: is the relevant one ranked higher? What is not ranked comes after all that is."""
    place = {name: i for i, name in enumerate(ranking)}
    return [place.get(a, len(place)) < place.get(b, len(place)) for a in relevant for b in irrelevant]
