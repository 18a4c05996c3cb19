"""What a person sees while a run goes: a quiet header, one aligned line per step, and before and after at the end.

At most 120 columns; columns are left out from the least important one on a narrower terminal. Colour only on a terminal
(`NO_COLOR` is respected), plain text when piped, ASCII where the output cannot show more. Everything taken is plain data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TextIO

from rich.console import Console as RichConsole
from rich.text import Text

WIDTH = 120
_REPEAT_HEAD = 30
_ASCII = str.maketrans(dict(zip("·–—≤×→│✓✗█▓░…", ("-", "-", "-", "<=", "x", "->", "|", "+", "x", "#", "=", ".", "..."), strict=True)))


def short(number: float) -> str:
    """Three significant digits with a unit prefix: 2140 is ``2.14k``."""
    for limit, divisor, suffix in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (float("inf"), 1e9, "G")):
        if abs(number) < limit * 0.9995:
            return f"{number / divisor:.3g}{suffix}"
    return f"{number:g}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


class Column(NamedTuple):
    key: str
    head: str
    width: int
    show: Callable[[Any], str]
    style: str = ""
    rank: int = 0
    """Importance when the terminal is narrow; 0 is never left out."""


LANGUAGE_COLUMNS = (
    Column("step", "step", 6, str, "dim"),
    Column("reward", "reward", 7, "{:.3f}".format, "bold"),
    Column("accuracy", "acc", 7, percent, "green", 1),
    Column("tokens_per_s", "tok/s", 6, short, "", 2),
    Column("staleness", "stale", 5, "{:.1f}".format, "", 5),
    Column("mismatch", "mismatch", 8, "{:.4f}".format, "", 3),
    Column("kl", "KL", 7, "{:.4f}".format, "", 6),
    Column("length", "length", 6, "{:.0f}".format, "", 7),
    Column("seconds", "s", 5, "{:.1f}".format, "", 4),
)
AGENT_COLUMNS = (
    Column("step", "step", 9, str, "dim"),
    Column("return", "return", 7, "{:.3f}".format, "bold"),
    Column("success", "success", 7, percent, "green", 2),
    Column("intrinsic", "intr.", 7, "{:.4f}".format, "", 3),
    Column("frames_per_s", "frm/s", 6, short, "", 1),
    Column("staleness", "stale", 5, "{:.1f}".format, "", 6),
    Column("mismatch", "mismatch", 8, "{:.4f}".format, "", 5),
    Column("entropy", "entropy", 7, "{:.3f}".format, "", 4),
    Column("length", "length", 6, "{:.0f}".format, "", 8),
    Column("seconds", "s", 5, "{:.2f}".format, "", 7),
)
_BOUND_WIDTH = 34


class Console:
    """Prints; keeps nothing but the position within the table. Owned by one thread."""

    def __init__(
        self,
        file: TextIO | None = None,
        *,
        columns: Sequence[Column] = LANGUAGE_COLUMNS,
        color: bool | None = None,
        width: int | None = None,
    ) -> None:
        """``columns``: of the table of steps, the first one being its ``step``. ``color``
        None looks at the file and the environment; ``width`` None at the terminal."""
        file = file or sys.stdout
        self._out = RichConsole(file=file, force_terminal=color, highlight=False, markup=False, emoji=False, width=width)
        self._width = min(WIDTH, self._out.width if width or self._out.is_terminal else WIDTH)
        self._ascii = not _can_show(file)
        self._all_columns = columns
        self._columns = self._fitting()
        self._lines = 0

    def header(self, title: str, facts: Mapping[str, str]) -> None:
        """The name of the run and a few aligned facts."""
        self._print("")
        self._print(Text.assemble("  ", ("rayrl", "bold cyan"), (" · ", "dim"), (title, "bold")))
        self.facts(facts)
        self._print("")

    def facts(self, facts: Mapping[str, str]) -> None:
        wide = max((len(key) for key in facts), default=0)
        for key, value in facts.items():
            self._print(Text.assemble("  ", (key.ljust(wide + 2), "dim"), str(value)))

    def say(self, text: str) -> None:
        """One quiet line between the others."""
        self._print(Text(f"  · {text}", style="dim"))

    def step(self, row: Mapping[str, Any]) -> None:
        """A value per column key, and ``bound`` (text). Missing or None is shown as a dash."""
        if self._lines % _REPEAT_HEAD == 0:
            self._print("")
            head = "".join("  " + c.head.rjust(c.width) for c in self._columns)
            self._print(Text(head + ("  bound" if self._shows_bound else ""), style="dim"))
        self._lines += 1
        line = Text()
        for column in self._columns:
            value = row.get(column.key)
            missing = value is None or value != value
            line.append("  " + ("–" if missing else column.show(value)).rjust(column.width), "dim" if missing else column.style)
        if self._shows_bound and row.get("bound"):
            line.append(f"  {row['bound']}", "dim")
        self._print(line)

    def evaluation(self, step: int, accuracy: float, count: int) -> None:
        """A held-out accuracy in the middle of the table."""
        where = f" on {count} samples, step {step}"
        self._print(Text.assemble(("  · held-out accuracy ", "dim"), (percent(accuracy), "green"), (where, "dim")))

    def before_after(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Held-out accuracy (shares) per task before and after training; tasks in the order of ``after``."""
        wide = max([len("held-out accuracy"), *map(len, after)])
        self._print("")
        self._print(Text("  " + "held-out accuracy".ljust(wide) + "   before    after", style="dim"))
        for task, now in after.items():
            was = before.get(task)
            gain = None if was is None else now - was
            mood = "dim" if not gain else "green" if gain > 0 else "yellow"
            line = Text("  " + task.ljust(wide) + "  ")
            line.append(("–" if was is None else percent(was)).rjust(7), "dim")
            line.append("  " + percent(now).rjust(7), "bold")
            line.append("  " + ("" if gain is None else f"{100 * gain:+.1f}").rjust(6), mood)
            line.append("  " + _bar(was or 0.0, now), "dim")
            self._print(line)
        self._print("")

    def samples(self, title: str, samples: Sequence[Mapping[str, Any]], max_lines: int = 6) -> None:
        """Generations as a person reads them. Keys: prompt, completion, ground_truth (or None), correct (bool or None)."""
        if samples:
            self._print(Text(f"  {title}", style="dim"))
        for sample in samples:
            correct = sample.get("correct")
            for line in self._clip(str(sample["prompt"]), max_lines):
                self._print(Text.assemble(("    │ ", "dim"), (line, "dim")))
            for line in self._clip(str(sample["completion"]), max_lines):
                self._print(Text.assemble(("    │ ", "dim"), line))
            if correct is not None:
                truth = sample.get("ground_truth")
                mark = ("    ✓", "green") if correct else ("    ✗", "yellow")
                verdict = " correct" if correct else f" expected {truth}" if truth is not None else " wrong"
                self._print(Text.assemble(mark, (verdict, "dim")))
            self._print("")

    def error(self, message: str, hint: str = "") -> None:
        """The last thing printed by a run that failed."""
        self._print("")
        for i, line in enumerate(message.splitlines() or [""]):
            self._print(Text.assemble(("  error  " if i == 0 else "         ", "bold red"), line))
        if hint:
            self._print(Text.assemble(("  hint   ", "bold"), hint))

    @property
    def _shows_bound(self) -> bool:
        return sum(c.width + 2 for c in self._columns) + 2 + _BOUND_WIDTH <= self._width

    def _fitting(self) -> list[Column]:
        """The columns that fit beside each other, least important ones left out first."""
        columns = list(self._all_columns)
        while sum(c.width + 2 for c in columns) > self._width and any(c.rank for c in columns):
            columns.remove(max(columns, key=lambda c: c.rank))
        return columns

    def _clip(self, text: str, max_lines: int) -> list[str]:
        room = self._width - 6
        lines = [_harmless(line) for line in text.strip("\n").split("\n")]
        lines = [line if len(line) <= room else line[: room - 1] + "…" for line in lines]
        return lines if len(lines) <= max_lines else [*lines[: max_lines - 1], f"… {len(lines) - max_lines + 1} more lines"]

    def _print(self, text: Text | str) -> None:
        text = Text(text) if isinstance(text, str) else text
        if self._ascii:
            text = Text(text.plain.translate(_ASCII).encode("ascii", "replace").decode())
        text.rstrip()
        with suppress(SystemExit):  # rich leaves when nobody reads any more, and is silent from then on; a run goes on
            self._out.print(text, soft_wrap=True)


def _bar(before: float, after: float, cells: int = 24) -> str:
    """Both shares on one line: full up to the smaller, lighter up to the larger."""
    low, high = (round(max(0.0, min(1.0, x)) * cells) for x in sorted((before, after)))
    return "█" * low + "▓" * (high - low) + "░" * (cells - high)


def _harmless(line: str) -> str:
    """A policy may write anything, terminal commands too: show them instead of obeying."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _can_show(file: TextIO) -> bool:
    try:
        "".join(map(chr, _ASCII)).encode(getattr(file, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
