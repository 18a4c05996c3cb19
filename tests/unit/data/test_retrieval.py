"""Collections as rows: who is relevant, who is a hard negative, and which queries are held out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rayrl.data.retrieval import COMPLETIONS, bm25, documents, retrieval
from rayrl.errors import ConfigError, DataError


@pytest.fixture
def collection(tmp_path):
    (tmp_path / "queries.tsv").write_text("".join(f"q{i}\tquery {i}\n" for i in range(20)))
    (tmp_path / "qrels").write_text("".join(f"q{i} 0 d{i} 1\nq{i} 0 d{i + 100} 2\nq{i} 0 d{i + 1} 0\n" for i in range(18)))
    (tmp_path / "run").write_text("".join(f"q{i} Q0 d{d} {r} {9 - r} bm25\n" for i in range(20) for r, d in enumerate((i, 50, 51, 52))))
    (tmp_path / "ids.tsv").write_text("d50\tfifty\n")
    return {name: str(tmp_path / file) for name, file in (("queries", "queries.tsv"), ("qrels", "qrels"), ("run", "run"))}


def test_every_relevant_document_has_its_row_and_none_is_among_its_own_negatives(collection, tmp_path):
    train = retrieval("train", **collection, negatives=2, identifiers=str(tmp_path / "ids.tsv"))
    held_out = retrieval("eval", **collection, negatives=2)
    assert len(train) == 2 * 16 and len(held_out) == 2, "two queries have no relevant document"
    assert not {r.prompt for r in train} & {r.prompt for r in held_out}
    for row in train:
        i = int(row.prompt[len("query ") : -1])
        positive, *wrong = row.metadata[COMPLETIONS]
        assert row.answer.split("\n") == [f"d{i}", f"d{i + 100}"] and positive in row.answer.split("\n")
        assert wrong == ["fifty", "d51"], "in the order of the run, without relevant ones"
    assert [r.prompt for r in retrieval("eval", **collection, seed=5)] == [r.prompt for r in held_out]


def test_a_file_that_is_missing_or_of_another_form_is_named(collection, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        retrieval("train", **collection | {"run": "nowhere"})
    (tmp_path / "run").write_text("q1 d1\n")
    with pytest.raises(DataError, match=r"line 1.*expected 6 columns"):
        retrieval("train", **collection)
    with pytest.raises(ConfigError):
        documents("train", count=1)


def test_bm25_is_its_formula_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(100):
        corpus = {f"d{i}": [str(t) for t in rng.integers(0, 6, rng.integers(1, 8))] for i in range(int(rng.integers(2, 9)))}
        query = [str(t) for t in rng.integers(0, 7, 3)]
        mean = sum(len(d) for d in corpus.values()) / len(corpus)

        def score(document, corpus=corpus, query=query, mean=mean):
            total = 0.0
            for t in query:
                n, f = sum(t in d for d in corpus.values()), document.count(t)
                total += math.log((len(corpus) + 1) / (n + 0.5)) * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(document) / mean))
            return total

        ranked = [score(corpus[name]) for name in bm25(query, corpus)]
        assert ranked == pytest.approx(sorted(ranked, reverse=True)) and len(ranked) == len(corpus)


def test_made_up_documents_are_found_by_their_terms_and_held_out_by_query():
    train, held_out = documents("train", count=16, noise=0.0), documents("eval", count=16, noise=0.0)
    assert not {r.prompt for r in train} & {r.prompt for r in held_out}
    assert {r.answer for r in held_out} <= {r.answer for r in train}
    for row in train:
        positive, *wrong = row.metadata[COMPLETIONS]
        assert positive == row.answer not in wrong and 1 <= len(wrong) <= 3 and len(positive) == 3
