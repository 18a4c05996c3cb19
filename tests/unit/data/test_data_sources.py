"""Prompt sources: every form gives the same rows, and every bad row is named with file, line, field, finding and remedy."""

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrl.config.schema import DataConfig
from rayrl.data.sources import load_rows
from rayrl.errors import ConfigError, DataError

ROWS = [{"prompt": f"question {i}", "answer": f"{i}", "level": i % 3} for i in range(7)]
GSM8K = Path(__file__).resolve().parents[4] / "shared" / "data" / "gsm8k" / "train.jsonl"


def write(path: Path, *lines) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def refused(config: DataConfig, split: str = "train") -> DataError:
    with pytest.raises(DataError) as caught:
        load_rows(config, split)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("form", ["jsonl", "parquet", "saved dataset", "dataset dict"])
def test_every_form_of_a_source_gives_the_same_rows(form, tmp_path):
    if form == "jsonl":
        config = DataConfig(source=write(tmp_path / "a.jsonl", *ROWS))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=2)
        config = DataConfig(source=str(tmp_path / "a.parquet"))
    else:
        datasets = pytest.importorskip("datasets")
        dataset = datasets.Dataset.from_list(ROWS)
        if form == "dataset dict":
            dataset = datasets.DatasetDict({"dev": dataset})
        dataset.save_to_disk(str(tmp_path / "saved"))
        config = DataConfig(source=str(tmp_path / "saved"), split="dev")
    rows = load_rows(config, "train")
    assert [(r.prompt, r.answer, r.task, r.metadata, r.number) for r in rows] == [
        (row["prompt"], row["answer"], "default", {"level": row["level"]}, i + 1) for i, row in enumerate(ROWS)
    ]


def test_line_numbers_count_blank_lines_and_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "a", "answer": "1"}\n\n   \n{"prompt": "b", "answer": 2}\n')
    assert [(r.prompt, r.answer, r.number) for r in load_rows(DataConfig(source=str(path)), "train")] == [("a", "1", 1), ("b", "2", 4)]


def test_messages_tasks_and_missing_ground_truth_are_read_as_configured(tmp_path):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    source = write(tmp_path / "a.jsonl", {"chat": messages, "kind": "greeting", "extra": None})
    config = DataConfig(source=source, prompt_field="chat", answer_field=None, task_field="kind")
    (row,) = load_rows(config, "train")
    assert row.prompt == messages and row.task == "greeting" and row.answer is None and row.metadata == {"extra": None}


GOOD = {"prompt": "p", "answer": "1"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"prompt": "p", "answer": ', ["malformed JSON", "column"]),
        ("plain text", ["malformed JSON"]),
        ('["p", "1"]', ["list", "expected an object"]),
        ({"promt": "p", "answer": "1"}, ["'prompt' is missing", "promt"]),
        ({"prompt": "p"}, ["'answer' is missing", "data.answer_field"]),
        ({"prompt": 3, "answer": "1"}, ["'prompt'", "int 3"]),
        ({"prompt": None, "answer": "1"}, ["'prompt'", "NoneType None"]),
        ({"prompt": "p", "answer": ["1"]}, ["'answer'", "list ['1']"]),
        ({"prompt": "p", "answer": True}, ["'answer'", "bool True"]),
        ({"prompt": "p", "answer": None}, ["'answer'", "NoneType None"]),
        ({"prompt": "", "answer": "1"}, ["'prompt'", "empty"]),
        ({"prompt": "  \n", "answer": "1"}, ["'prompt'", "empty"]),
        ({"prompt": [], "answer": "1"}, ["'prompt'", "empty"]),
        ({"prompt": [{"role": "user"}], "answer": "1"}, ["message 1", "content"]),
        ({"prompt": ["hi"], "answer": "1"}, ["message 1", "str 'hi'"]),
    ],
)
def test_a_bad_row_is_named_with_file_line_field_and_remedy(bad, said, tmp_path):
    source = write(tmp_path / "bad.jsonl", GOOD, GOOD, bad, GOOD)
    text = str(refused(DataConfig(source=source)))
    assert f"{source}, line 3" in text
    for part in said:
        assert part in text


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9", "answer": "1"}\n')
    assert "line 2: byte 16" in refused(DataConfig(source=str(tmp_path / "a.jsonl"))).message


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(content, tmp_path):
    assert "no rows" in refused(DataConfig(source=write(tmp_path / "a.jsonl", content))).message


def test_a_column_that_json_cannot_hold_is_refused_at_loading_time(tmp_path):
    pq.write_table(pa.Table.from_pylist([GOOD | {"when": datetime.date(2026, 1, 1)}]), tmp_path / "a.parquet")
    assert "row 1, field 'when': found date" in refused(DataConfig(source=str(tmp_path / "a.parquet"))).message


def test_an_answer_pattern_that_does_not_match_is_named(tmp_path):
    source = write(tmp_path / "a.jsonl", {"prompt": "p", "answer": "so #### 4"}, {"prompt": "p", "answer": "four"})
    error = refused(DataConfig(source=source, answer_pattern="#### (.*)"))
    assert "line 2, field 'answer'" in error.message and "'#### (.*)'" in error.message and "four" in error.message


@pytest.mark.parametrize("pattern", ["(", "####"])
def test_an_unusable_answer_pattern_is_a_configuration_error(pattern, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.answer_pattern"):
        load_rows(DataConfig(source=write(tmp_path / "a.jsonl", GOOD), answer_pattern=pattern), "train")


def test_a_missing_file_is_refused_with_the_nearest_names(tmp_path):
    write(tmp_path / "train.jsonl", GOOD)
    error = refused(DataConfig(source=str(tmp_path / "trian.jsonl")))
    assert "does not exist" in error.message and "train.jsonl" in error.hint


def test_a_missing_folder_is_refused_without_asking_a_hub(tmp_path):
    (tmp_path / "prompts").mkdir()
    error = refused(DataConfig(source=str(tmp_path / "promts")))
    assert "does not exist" in error.message and "prompts" in error.hint
    assert "does not exist either" in refused(DataConfig(source=str(tmp_path / "no" / "such" / "a.jsonl"))).hint


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,answer\np,1\n")
    assert ".csv" in refused(DataConfig(source=str(tmp_path / "a.csv"))).message


def test_a_broken_parquet_file_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    assert "not a readable Parquet file" in refused(DataConfig(source=str(tmp_path / "a.parquet"))).message


def test_a_missing_split_lists_those_that_exist(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "saved"))
    error = refused(DataConfig(source=str(tmp_path / "saved"), split="train"))
    assert "no split 'train'" in error.message and "dev" in error.hint


def test_evaluation_rows_come_from_their_own_source(tmp_path):
    config = DataConfig(source=write(tmp_path / "a.jsonl", GOOD), eval_source=write(tmp_path / "b.jsonl", *ROWS))
    assert len(load_rows(config, "eval")) == 7
    assert "data.eval_source" in refused(DataConfig(source=config.source), "eval").message


@pytest.mark.skipif(not GSM8K.exists(), reason="shared data are not here")
def test_gsm8k_loads_as_its_recipe_says():
    rows = load_rows(DataConfig(source=str(GSM8K), prompt_field="question", answer_field="answer", answer_pattern="#### (.*)"), "train")
    assert len(rows) == 7473
    assert rows[0].answer == "72" and rows[0].prompt.startswith("Natalia sold clips")
    assert all(row.answer.replace(",", "").replace("-", "").replace(".", "").isdigit() for row in rows)
