"""The generated task `planted`: find a hidden string by trying. Answers may be short or long, and longer ones are right more often.

After the planted-subsequence problem of arXiv 2502.12118: a trace is solved once it contains the string that its prompt hides. Here the
prompt is a row of digits, ``374>``, and hides their complement to nine, ``625``. A trace is a row of attempts, ``615,625.``; whoever
tries more often is right more often, and whoever is right at once can be brief.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayrl.data.rows import Row
from rayrl.data.tasks import MOST_ROWS, permute
from rayrl.errors import ConfigError

_COMPLEMENT = str.maketrans("0123456789", "9876543210")
_SPLIT_KEY = 0xC0DE


def hidden(digits: str) -> str:
    """The string that a prompt of these digits hides."""
    return digits.translate(_COMPLEMENT)


def planted(
    split: str, *, digits: int | Sequence[int] = 3, eval_share: float = 0.1, size: int | None = None, seed: int = 0
) -> Sequence[Row]:
    """Problems of ``digits`` digits, or of each of several widths. Arguments otherwise as for `tasks.arithmetic`."""
    widths = [digits] if isinstance(digits, int) else list(digits)
    if not widths or not all(1 <= width <= 9 for width in widths):
        raise ConfigError(f"data.task_args.digits = {digits}", "Use 1 to 9 digits.")
    if not 0.0 < eval_share < 1.0:
        raise ConfigError(f"data.task_args.eval_share = {eval_share}", "Use a share between 0 and 1.")
    rows = []
    for width in widths:
        total = 10**width
        held_out = max(1, round(total * eval_share))
        start, available = (0, held_out) if split == "eval" else (held_out, total - held_out)
        count = min(available, (MOST_ROWS if size is None else size) // len(widths))
        for i in range(count):
            text = str(permute(start + permute(i, available, seed), total, _SPLIT_KEY)).zfill(width)
            rows.append(Row(f"{text}>", hidden(text), f"planted-{width}", number=len(rows) + 1))
    if not rows:
        raise ConfigError(f"data.task_args: the {split} split of planted has no rows", "Raise digits or size.")
    return rows
