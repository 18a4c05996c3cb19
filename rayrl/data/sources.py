"""Prompt sources: JSONL, Parquet, Hugging Face datasets by name or folder, and generated tasks, all as sequences of `Row`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rayrl import plugins
from rayrl.config.schema import DataConfig
from rayrl.data.rows import Row, RowParser
from rayrl.data.tasks import TASKS
from rayrl.errors import ConfigError, DataError
from rayrl.paths import is_local, nearest_files

TASK_PREFIX = "task:"


def load_rows(config: DataConfig, split: str) -> Sequence[Row]:
    """All rows of one side of the data: ``split`` is ``train`` or ``eval``.

    ``eval`` reads ``data.eval_source``, or the held-out problems when the training source is a generated task. A Hugging Face
    name may carry a configuration after a colon (``openai/gsm8k:main``). Raises `DataError` for a source that does not exist,
    is empty, or holds a bad row, `ConfigError` for a task or task arguments that do not exist.
    """
    source, key, part = (config.source, "data.source", config.split)
    if split == "eval" and config.eval_source is not None:
        source, key, part = config.eval_source, "data.eval_source", config.eval_split
    if source.startswith(TASK_PREFIX):
        return _generated(source, key, split, config.task_args)
    if split == "eval" and config.eval_source is None:
        raise DataError(
            "data.eval_source is null and data.source is no generated task", "Set data.eval_source, or cut rows off data.source."
        )
    found, unit = records(source, key, part)
    parser = RowParser(config)
    rows = [parser.parse(record, source, unit, number) for number, record in found]
    if not rows:
        raise DataError(f"{source}: no rows", f"Point {key} at a source with at least one row.")
    return rows


def records(source: str, key: str, part: str = "train") -> tuple[Iterator[tuple[int, Any]], str]:
    """Numbered records of a source and what one record is called (line or row). ``key`` is the setting that named it.

    Raises `DataError` for a source that does not exist or cannot be read.
    """
    path = Path(source).expanduser()
    if path.suffix in (".jsonl", ".json", ".parquet") or path.is_file():
        if not path.is_file():
            raise DataError(f"{key}: {source} does not exist", nearest_files(path))
        if path.suffix == ".parquet":
            return _parquet(path), "row"
        if path.suffix in (".jsonl", ".json"):
            return _jsonl(path), "line"
        raise DataError(f"{key}: {source} has the unknown ending {path.suffix!r}", "Use .jsonl or .parquet.")
    return _hugging_face(source, key, part), "row"


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as e:
                raise DataError(f"{path}, line {number}: byte {e.start + 1} is not UTF-8", "Save the file as UTF-8.") from e
            except json.JSONDecodeError as e:
                raise DataError(
                    f"{path}, line {number}, column {e.colno}: malformed JSON ({e.msg})", "Write one JSON object per line."
                ) from e


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches()
        number = 0
        for batch in batches:
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except pa.ArrowException as e:
        raise DataError(f"{path}: not a readable Parquet file ({e})", "Write the file again.") from e


def _hugging_face(source: str, key: str, split: str) -> Iterator[tuple[int, Any]]:
    path = Path(source).expanduser()
    if is_local(source) and not path.is_dir():
        raise DataError(f"{key}: {source} does not exist", nearest_files(path))
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ImportError as e:
        raise DataError(f"{key}: {source} needs the package `datasets`", "Install rayrl with its training extra.") from e
    try:
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            dataset = load_from_disk(str(path))
        elif path.is_dir():
            dataset = load_dataset(str(path))
        else:
            name, _, configuration = source.partition(":")
            dataset = load_dataset(name, configuration or None)
    except Exception as e:  # datasets raises whatever its back ends raise
        near = "" if is_local(source) else f" If it is a folder: {nearest_files(path)}"
        raise DataError(
            f"{key}: {source} could not be loaded: {type(e).__name__}: {e}", f"Check name, configuration and network.{near}"
        ) from e
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            field = "data.split" if key == "data.source" else "data.eval_split"
            raise DataError(f"{key}: {source} has no split {split!r}", f"Set {field} to one of {', '.join(dataset)}.")
        dataset = dataset[split]
    return enumerate(dataset, start=1)


def _generated(source: str, key: str, split: str, args: dict[str, Any]) -> Sequence[Row]:
    task = plugins.load(source.removeprefix(TASK_PREFIX), TASKS, key=key)
    try:
        inspect.signature(task).bind(split, **args)
    except TypeError as e:
        raise ConfigError(f"data.task_args = {args}: {source} {e}", f"It takes {inspect.signature(task)}.") from e
    return task(split, **args)
