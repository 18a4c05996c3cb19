"""Generated tasks: problems without a file. ``data.source: task:NAME``, with arguments from ``data.task_args``.

A task is a function ``f(split, **task_args)`` that returns a sequence of `Row` for the split ``train`` or ``eval``. Training
and evaluation problems are disjoint whatever the seed, and a row depends on (seed, index, split) alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from rayrl.data.rows import Row
from rayrl.errors import ConfigError

TASKS: dict[str, str] = {
    "arithmetic": "rayrl.data.tasks:arithmetic",
    "documents": "rayrl.data.retrieval:documents",
    "planted": "rayrl.data.planted:planted",
    "retrieval": "rayrl.data.retrieval:retrieval",
}

MOST_ROWS = 100_000
"""Rows of a split unless ``size`` says otherwise."""

_OPERATORS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_SPLIT_KEY = 0x5EED


def arithmetic(
    split: str,
    *,
    digits: int = 2,
    operators: Sequence[str] = ("+",),
    format: str = "{a}{op}{b}=",
    eval_share: float = 0.1,
    size: int | None = None,
    seed: int = 0,
) -> Sequence[Row]:
    """Problems such as ``37+48=`` with the answer ``85``, each at most once.

    Operands have exactly ``digits`` digits. A share of ``eval_share`` of all problems belongs to the split ``eval``. ``size``
    limits the rows (default: all, at most `MOST_ROWS`); ``seed`` orders them. Raises `ConfigError` for arguments out of range.
    """
    if not 1 <= digits <= 9:
        raise ConfigError(f"data.task_args.digits = {digits}", "Use 1 to 9 digits.")
    if not operators or any(o not in _OPERATORS for o in operators):
        raise ConfigError(f"data.task_args.operators = {list(operators)}", f"Use some of {list(_OPERATORS)}.")
    if not 0.0 < eval_share < 1.0:
        raise ConfigError(f"data.task_args.eval_share = {eval_share}", "Use a share between 0 and 1.")
    try:
        format.format(a=1, op="+", b=2)
    except (KeyError, IndexError, ValueError) as e:
        raise ConfigError(f"data.task_args.format = {format!r} is not usable ({e!r})", "Use the fields {a}, {op} and {b}.") from e
    return _Problems(split, digits, tuple(operators), format, eval_share, size, seed)


class _Problems(Sequence[Row]):
    """Problem number ``permute(i)`` belongs to ``eval`` for the first positions i and to ``train`` for the others."""

    def __init__(
        self, split: str, digits: int, operators: tuple[str, ...], format: str, eval_share: float, size: int | None, seed: int
    ) -> None:
        self._low = 10 ** (digits - 1) if digits > 1 else 0
        self._operands = 10**digits - self._low
        self._operators, self._format, self._seed = operators, format, seed
        self._total = len(operators) * self._operands**2
        held_out = max(1, round(self._total * eval_share))
        self._offset, self._available = (0, held_out) if split == "eval" else (held_out, self._total - held_out)
        self._length = min(self._available, MOST_ROWS if size is None else size)
        if self._length < 1:
            raise ConfigError(f"data.task_args: the {split} split of arithmetic has no rows", "Raise digits or size.")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        index %= self._length
        number = permute(self._offset + permute(index, self._available, self._seed), self._total, _SPLIT_KEY)
        number, a = divmod(number, self._operands)
        number, b = divmod(number, self._operands)
        a, b, op = a + self._low, b + self._low, self._operators[number]
        return Row(self._format.format(a=a, op=op, b=b), str(_OPERATORS[op](a, b)), "arithmetic", number=index + 1)


def permute(index: int, size: int, key: int) -> int:
    """A bijection of ``range(size)`` chosen by ``key``, in constant memory: a Feistel network of four rounds that is walked
    until it comes back into the range (Black and Rogaway 2002, section 4, cycle walking)."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_key in range(key * 4, key * 4 + 4):
            left, right = right, left ^ (_mix(right, round_key) & mask)
        index = left << half | right
        if index < size:
            return index


def _mix(value: int, key: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014) over value and key."""
    z = (value + (key + 1) * 0x9E3779B97F4A7C15) & _MASK64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK64
    return z ^ z >> 31


_MASK64 = 2**64 - 1
