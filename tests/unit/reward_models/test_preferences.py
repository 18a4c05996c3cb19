"""Preference files: what they may look like, and what is said about those that do not."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import messages

from rayrl import cli
from rayrl.errors import DataError, StorageError
from rayrl.models import tiny
from rayrl.reward_models import preferences
from rayrl.reward_models.examples import Label, Pair


@pytest.fixture
def jsonl(tmp_path):
    def write(*rows) -> str:
        path = tmp_path / "prefs.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


def test_pairs_scores_and_classes_are_told_apart_by_their_fields(jsonl):
    pair = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
    assert preferences.read(jsonl(pair)) == ([Pair("2+2=4", "2+2=5", 1.0, group="2+2=")], "ranking", 2)
    assert preferences.read(jsonl(pair | {"preference": 0.5})).examples[0].preference == 0.5
    assert preferences.read(jsonl({"text": "a", "score": 0.25})) == ([Label("a", 0.25)], "regression", 2)
    found = preferences.read(jsonl({"prompt": "p", "completion": "a", "label": 2}, {"prompt": "p", "completion": "b", "label": False}))
    assert found == ([Label("pa", 2.0, group="p"), Label("pb", 0.0, group="p")], "classification", 3)


def test_messages_are_rendered_and_parquet_is_read(tmp_path):
    chat = lambda text: [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]
    pq.write_table(pa.Table.from_pylist([{"chosen": chat("hello"), "rejected": chat("go away")}]), tmp_path / "p.parquet")
    ((pair,), objective, _) = preferences.read(str(tmp_path / "p.parquet"))
    assert objective == "ranking" and pair.first == "user: hi\nassistant: hello"

    class Tokenizer:
        chat_template = "x"

        def apply_chat_template(self, messages, tokenize):
            return "|".join(m["content"] for m in messages)

    ((pair,), _, _) = preferences.read(str(tmp_path / "p.parquet"), preferences.chat_renderer(Tokenizer()))
    assert pair.second == "hi|go away"


GOOD = {"chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "no rows"),
        ([GOOD, "{broken"], "line 2, column 2: malformed JSON"),
        (["[1, 2]"], "line 1: found list [1, 2], expected an object"),
        ([GOOD, {"chosen": "a"}], "line 2: field 'rejected' is missing"),
        ([{"choosen": "a", "rejectd": "b"}], "did you mean 'choosen'?"),
        ([{"score": 1.0}], "line 1: field 'completion' is missing"),
        ([GOOD, {"chosen": "a", "rejected": "a"}], "line 2, fields 'chosen' and 'rejected': the texts are equal"),
        ([{"chosen": 5, "rejected": "a"}], "field 'chosen': found int 5"),
        ([{"chosen": [{"role": "user"}], "rejected": "a"}], "expected a string or a list of messages"),
        ([GOOD | {"preference": 2}], "field 'preference': found 2.0, expected 0 to 1"),
        ([{"text": "a", "score": "high"}], "field 'score': found str 'high', expected a finite number"),
        (['{"text": "a", "score": NaN}'], "field 'score': found float nan"),
        ([{"text": "a", "label": 0.5}], "field 'label': found 0.5, expected a class"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 1}], "every row has the class 1"),
        ([GOOD, {"text": "a", "score": 1}], "line 2: a row for regression among rows for ranking"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_input_is_named_with_file_line_field_and_remedy(jsonl, rows, expected):
    path = jsonl(*rows)
    with pytest.raises(DataError) as caught:
        preferences.read(path)
    assert expected in str(caught.value) and path in caught.value.message and caught.value.hint


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(DataError, match="does not exist"):
        preferences.read("no/such/file.jsonl")


def test_the_command_trains_measures_and_writes_a_checkpoint_of_hugging_face(jsonl, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification

    nano = tiny.save(tmp_path / "nano")
    path = jsonl(*({"prompt": f"{i}+1=", "chosen": "good", "rejected": "bad"} for i in range(120)))
    command = ["train-rm", path, "--model", str(nano), "--out", str(tmp_path / "rm"), "--lr", "3e-3", "--epochs", "4", "--batch-size", "16"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "ranking: " in out and "step 32/32" in out and "held-out accuracy" in out and "held-out calibration error" in out
    found = json.loads((tmp_path / "rm" / "reward_model.json").read_text())
    assert found["held_out"]["accuracy"] == 1.0 and found["held_out_before"]["loss"] > found["held_out"]["loss"]
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").config.num_labels == 1
    assert cli.main(command) == StorageError.exit_code, "a folder that holds something is not overwritten"


def test_the_character_network_is_written_and_read_again(jsonl, tmp_path):
    from rayrl.config.schema import ModelConfig, RewardModelConfig
    from rayrl.reward_models.build import build_fitter

    rows = [{"text": m.text, "label": int(m.label)} for m in messages(60, held_out=False)]
    out = tmp_path / "rm"
    assert cli.main(["train-rm", jsonl(*rows), "--network", "char_cnn", "--out", str(out), "--json"]) == 0
    settings = RewardModelConfig(network="char_cnn", objective="classification", path=str(out))
    a, b = (build_fitter(settings, ModelConfig(path=""), seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(a.score(["x"]).value, b.score(["x"]).value)


def test_too_few_rows_to_hold_any_out_is_said(jsonl, tmp_path, capsys):
    assert cli.main(["train-rm", jsonl(GOOD), "--network", "char_cnn", "--out", str(tmp_path / "rm")]) == DataError.exit_code
    assert "held out" in capsys.readouterr().err
    assert cli.main(["train-rm", jsonl(GOOD), "--out", str(tmp_path / "rm")]) == 2
    assert "--model" in capsys.readouterr().err
