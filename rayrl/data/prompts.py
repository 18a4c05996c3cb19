"""The endless prompt stream: rows rendered to ids once, in an order that (seed, epoch) determines, resumable at any ordinal."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rayrl.config.schema import Config, DataConfig
from rayrl.data.rows import Row
from rayrl.data.sources import TASK_PREFIX, load_rows
from rayrl.errors import DataError, ModelError
from rayrl.types import IntArray, Prompt

_BATCH = 1024
_HELD_OUT_SEED = 0


class PromptTable:
    """Rows and their ids. All rows are rendered and checked at once, so that a bad row stops a run before it starts.

    Raises `DataError` for a row that is too long (``data.too_long: error``) or cannot be rendered, `ModelError` for ids beyond
    ``vocab_size``, the rows of the model's embedding.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: Any, config: DataConfig, source: str, vocab_size: int | None = None) -> None:
        self._rows, self._tokenizer, self._config, self._source = rows, tokenizer, config, source
        lengths, kept, parts = [], [], []
        for start in range(0, len(rows), _BATCH):
            for index, ids in enumerate(self._render(rows[start : start + _BATCH]), start=start):
                if self._fits(ids, rows[index], vocab_size):
                    kept.append(index)
                    lengths.append(len(ids))
                    parts.append(ids)
        if not kept:
            raise DataError(f"{source}: no row has at most {config.max_prompt_length} tokens", "Raise data.max_prompt_length.")
        self.skipped = len(rows) - len(kept)
        """Rows that were too long."""
        self._kept = np.array(kept)
        self._ids = np.concatenate(parts)
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._kept)

    def prompt(self, index: int, ordinal: int) -> Prompt:
        row = self._rows[int(self._kept[index])]
        ids = self._ids[self._ends[index - 1] if index else 0 : self._ends[index]]
        text = self._tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
        return Prompt(ordinal, ids, task=row.task, text=text, ground_truth=row.answer, metadata=row.metadata)

    def _render(self, rows: Sequence[Row]) -> list[IntArray]:
        """Ids of each row. The template writes the special tokens itself; a raw string gets those of the tokenizer."""
        is_chat = self._config.chat_template and self._tokenizer.chat_template is not None
        texts = [self._templated(row) if is_chat else self._raw(row) for row in rows]
        encoded = self._tokenizer(texts, add_special_tokens=not is_chat, return_attention_mask=False)["input_ids"]
        return [np.array(ids, dtype=np.int32) for ids in encoded]

    def _templated(self, row: Row) -> str:
        messages = row.prompt
        if isinstance(messages, str):
            system = self._config.system_prompt
            messages = [{"role": "system", "content": system}] if system is not None else []
            messages.append({"role": "user", "content": row.prompt})
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as e:  # a template is a program: it raises what it likes
            raise DataError(f"{self._where(row)}: the chat template refused it: {e}", "Check the order of the roles.") from e

    def _raw(self, row: Row) -> str:
        if not isinstance(row.prompt, str):
            hint = "Use a tokenizer with a chat template and data.chat_template: true, or prompts that are strings."
            raise DataError(f"{self._where(row)}: chat messages, and no chat template to render them", hint)
        system = self._config.system_prompt
        return row.prompt if system is None else f"{system}\n{row.prompt}"

    def _fits(self, ids: IntArray, row: Row, vocab_size: int | None) -> bool:
        if ids.size == 0:
            raise DataError(f"{self._where(row)}: the prompt has no tokens", "Fill it in or remove the row.")
        if vocab_size is not None and int(ids.max()) >= vocab_size:
            raise ModelError(
                f"{self._where(row)}: token id {int(ids.max())} is beyond the model's vocabulary of {vocab_size}",
                "model.tokenizer does not belong to model.path.",
            )
        limit = self._config.max_prompt_length
        if ids.size > limit and self._config.too_long == "error":
            raise DataError(
                f"{self._where(row)}: the prompt has {ids.size} tokens, data.max_prompt_length is {limit}",
                "Raise data.max_prompt_length, or set data.too_long to skip.",
            )
        return ids.size <= limit

    def _where(self, row: Row) -> str:
        return f"{self._source}, {'line' if self._source.endswith(('.jsonl', '.json')) else 'row'} {row.number}"


class PromptStream:
    """Fulfils `protocols.PromptSource`: ordinal i is row ``permutation(seed, epoch)[i mod n]`` of epoch ``i div n``, for ever.

    ``vocab_size`` is the number of rows of the model's embedding, None when unknown. Raises as `PromptTable` does.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: Any, config: DataConfig, seed: int, *, vocab_size: int | None = None) -> None:
        self._table = PromptTable(rows, tokenizer, config, config.source, vocab_size)
        self._shuffle, self._seed, self._position = config.shuffle, seed, 0
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def __len__(self) -> int:
        """Prompts of one epoch."""
        return len(self._table)

    @property
    def skipped(self) -> int:
        """Rows that were too long and are left out (``data.too_long: skip``)."""
        return self._table.skipped

    @property
    def position(self) -> int:
        """Ordinal of the next prompt."""
        return self._position

    def seek(self, ordinal: int) -> None:
        if ordinal < 0:
            raise ValueError(f"ordinal {ordinal} is negative")
        self._position = ordinal

    def take(self, count: int) -> list[Prompt]:
        prompts = [self.prompt(self._position + i) for i in range(count)]
        self._position += count
        return prompts

    def prompt(self, ordinal: int) -> Prompt:
        """The prompt of any ordinal; does not move the stream."""
        epoch, index = divmod(ordinal, len(self._table))
        return self._table.prompt(int(self._order(epoch)[index]), ordinal)

    def _draw_order(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(len(self._table))
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._table))


def split_eval(rows: Sequence[Row], eval_size: int, seed: int) -> tuple[list[Row], list[Row]]:
    """``(training rows, held-out rows)``. A training row whose question is also held out is left out: no question is in both.

    Raises `DataError` when nothing would be left to train on.
    """
    chosen = set(np.random.default_rng(seed).permutation(len(rows))[:eval_size].tolist())
    held_out = [rows[i] for i in sorted(chosen)]
    questions = {_question(row) for row in held_out}
    train = [row for i, row in enumerate(rows) if i not in chosen and _question(row) not in questions]
    if not train:
        raise DataError(
            f"data.eval_size = {eval_size} of {len(rows)} rows leaves none to train on", "Lower data.eval_size or set data.eval_source."
        )
    return train, held_out


def load_prompts(config: Config, tokenizer: Any, *, vocab_size: int | None = None) -> tuple[PromptStream, list[Prompt]]:
    """The training stream and the evaluation prompts (none when ``evaluation.enabled`` is false).

    Evaluation prompts bear the ordinals -1, -2, ...: never those of the stream. Which rows are held out does not depend on
    ``run.seed``, so that runs with different seeds are measured on the same questions.
    """
    data = config.data
    train = load_rows(data, "train")
    held_out: Sequence[Row] = []
    if config.evaluation.enabled and data.eval_size > 0:
        if data.eval_source is None and not data.source.startswith(TASK_PREFIX):
            train, held_out = split_eval(train, data.eval_size, _HELD_OUT_SEED)
        else:
            rows = load_rows(data, "eval")
            chosen = np.random.default_rng(_HELD_OUT_SEED).permutation(len(rows))[: data.eval_size]
            held_out = [rows[i] for i in sorted(chosen.tolist())]
    if data.shots:
        train = [train[i] for i in np.random.default_rng(_HELD_OUT_SEED).permutation(len(train))[: data.shots].tolist()]
    stream = PromptStream(train, tokenizer, data, config.run.seed, vocab_size=vocab_size)
    if not held_out:
        return stream, []
    table = PromptTable(held_out, tokenizer, data, data.eval_source or data.source, vocab_size)
    return stream, [table.prompt(i, -(i + 1)) for i in range(len(table))]


def _question(row: Row) -> str:
    return row.prompt if isinstance(row.prompt, str) else repr([(m["role"], m["content"]) for m in row.prompt])
