"""Generative retrieval: a query in, the identifier of a relevant document out (DDRO, arXiv 2504.05181). As tasks:

``task:retrieval`` reads a collection in the forms of TREC (queries, judgements, a ranked run); ``task:documents`` makes a small one up.
Each row carries its completions: a relevant identifier first, then the best ranked ones that are not relevant. With
``data.completions_field: completions`` they join the group, and ``algorithm.pairs: verified`` compares them.
"""

from __future__ import annotations

import math
import random
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rayrl.data.rows import Row
from rayrl.errors import ConfigError, DataError

COMPLETIONS = "completions"
RELEVANT_SEPARATOR = "\n"
"""Between the identifiers of a ground truth."""
_EVAL_SEED = 0xD0C


def retrieval(
    split: str,
    *,
    queries: str,
    qrels: str,
    run: str,
    identifiers: str | None = None,
    negatives: int = 3,
    format: str = "{query}>",
    eval_share: float = 0.1,
    seed: int = 0,
) -> Sequence[Row]:
    """Rows of a collection. Queries without a relevant document are left out; those without an irrelevant one give a demonstration alone.

    Args:
        queries: file of ``id<TAB>text``.
        qrels: file of ``query 0 document relevance``; a relevance above 0 is relevant.
        run: file of ``query Q0 document rank score tag``, for example of BM25; best first.
        identifiers: file of ``document<TAB>identifier``: what the policy writes for a document; null writes the document's own name.
        negatives: most irrelevant documents per relevant one.
    """
    texts = dict(line.split("\t", 1) for line in _lines(queries, "\t", 2))
    names = dict(line.split("\t", 1) for line in _lines(identifiers, "\t", 2)) if identifiers else {}
    relevant: dict[str, list[str]] = {}
    for query, _, document, relevance in (line.split() for line in _lines(qrels, None, 4)):
        if int(relevance) > 0:
            relevant.setdefault(query, []).append(document)
    ranked: dict[str, list[str]] = {}
    for query, _, document, *_ in (line.split() for line in _lines(run, None, 6)):
        ranked.setdefault(query, []).append(document)
    known = sorted(query for query in texts if query in relevant)
    name = lambda documents: [names.get(d, d) for d in documents]
    found = [(format.format(query=texts[q]), name(relevant[q]), name(ranked.get(q, []))) for q in known]
    return _rows(split, found, negatives, eval_share, seed, "retrieval")


def documents(
    split: str, *, count: int = 64, queries: int = 40, terms: int = 8, noise: float = 0.2, negatives: int = 3, seed: int = 0
) -> Sequence[Row]:
    """A made-up collection: ``count`` documents of ``terms`` terms (letters), identified by three letters of sixteen; for each ``queries``
    queries of five of its terms in alphabetical order, each replaced by a random one with probability ``noise``; negatives by `bm25`.
    ``seed`` makes the collection."""
    if not 2 <= count <= 16**3 or not 5 <= terms <= len(string.ascii_lowercase) or not 0 <= noise < 1:
        raise ConfigError(f"data.task_args: count {count}, terms {terms}, noise {noise}", "Use 2 to 4096, 5 to 26, and below 1.")
    rng = random.Random(seed)
    names = rng.sample(["".join((a, b, c)) for a in _LETTERS for b in _LETTERS for c in _LETTERS], count)
    corpus = {name: rng.sample(string.ascii_lowercase, terms) for name in names}
    found: dict[str, tuple[str, list[str], list[str]]] = {}
    for name, own in corpus.items():
        for _ in range(queries):
            asked = sorted(t if rng.random() >= noise else rng.choice(string.ascii_lowercase) for t in rng.sample(own, 5))
            found.setdefault("".join(asked), (f"{''.join(asked)}>", [name], bm25(asked, corpus)[: negatives + 1]))
    return _rows(split, list(found.values()), negatives, 0.1, seed, "documents")


_LETTERS = "ABCDEFGHIJKLMNOP"


def bm25(query: Iterable[str], corpus: Mapping[str, Sequence[str]], *, k1: float = 1.2, b: float = 0.75) -> list[str]:
    """Documents by their score, best first, equal ones in the order of ``corpus`` (Robertson and Zaragoza 2009, section 3.2):

    ``sum_t idf(t) f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|))``, ``idf = ln(1 + (N - n + 1/2) / (n + 1/2))``.
    """
    counts = {name: Counter(terms) for name, terms in corpus.items()}
    mean = sum(map(len, corpus.values())) / len(corpus)
    having = Counter(term for own in counts.values() for term in own)
    score = dict.fromkeys(corpus, 0.0)
    for term in query:
        idf = math.log(1 + (len(corpus) - having[term] + 0.5) / (having[term] + 0.5))
        for name, own in counts.items():
            length = k1 * (1 - b + b * len(corpus[name]) / mean)
            score[name] += idf * own[term] * (k1 + 1) / (own[term] + length)
    return sorted(corpus, key=lambda name: -score[name])


def _rows(
    split: str, found: Sequence[tuple[str, list[str], list[str]]], negatives: int, eval_share: float, seed: int, task: str
) -> list[Row]:
    """One row per query and relevant identifier for training; one per query, all relevant ones its ground truth, for evaluation.

    Which queries are held out does not depend on ``seed``.
    """
    order = random.Random(_EVAL_SEED).sample(range(len(found)), len(found))
    held_out = set(order[: max(1, round(len(found) * eval_share))])
    rows = []
    for i, (prompt, relevant, ranked) in enumerate(found):
        if (i in held_out) != (split == "eval"):
            continue
        wrong = [name for name in ranked if name not in relevant][:negatives]
        for name in relevant if split != "eval" else relevant[:1]:
            rows.append(Row(prompt, RELEVANT_SEPARATOR.join(relevant), task, {COMPLETIONS: [name, *wrong]}, len(rows) + 1))
    if not rows:
        raise DataError(f"task:{task} has no {split} query with a relevant document", "Check that queries and judgements share their ids.")
    return random.Random(seed).sample(rows, len(rows)) if split != "eval" else rows


def _lines(file: str, separator: str | None, columns: int) -> list[str]:
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"data.task_args: {file} does not exist", "Give the path of the file.")
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(line.split(separator, columns - 1)) < columns:
            raise DataError(f"{file}, line {number}: found {line[:80]!r}, expected {columns} columns", "See rayrl/data/retrieval.py.")
    return lines
