"""`rayrl eval` and `rayrl rank` on a tiny checkpoint: one engine, one verifier pool, no Ray."""

from __future__ import annotations

import json

import pytest

from rayrl import cli
from rayrl.models.tiny import NANO, save
from rayrl.ranking import measures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(save(tmp_path_factory.mktemp("model"), NANO))


def test_a_checkpoint_is_evaluated_without_a_run(checkpoint, capsys):
    words = ["planted", "data.eval_size=6", "evaluation.samples=2", "model.dtype=float32", "--profile", "in_process"]
    assert cli.main(["eval", *words, "--checkpoint", checkpoint, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert found["count"] == 12 and 0 <= found["accuracy"] <= 1 and set(found["pass_at"]) == {"1", "2"}


def test_identifiers_are_ranked_and_all_of_them_exist(checkpoint, capsys):
    words = ["methods/17-ddro", f"model.path={checkpoint}", "data.eval_size=4", "data.task_args={count: 8, queries: 6}"]
    assert cli.main(["rank", *words, "--checkpoint", checkpoint, "--beams", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["existing_share"] == 1 and found["queries"] == 4 and found["identifiers"] == 8
    assert found["hit@10"] == found["recall@10"] == 1, "eight beams hold all eight identifiers"
    assert cli.main(["rank", "planted", f"model.path={checkpoint}", "--checkpoint", checkpoint]) == 2


def test_measures_of_one_query():
    assert measures(["a", "b", "c"], ["b", "z"], 2) == pytest.approx(
        {"mrr@2": 0.5, "recall@2": 0.5, "hit@1": 0, "hit@2": 1, "ndcg@2": (1 / 1.5849625) / (1 + 1 / 1.5849625)}
    )
