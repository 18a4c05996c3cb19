"""What a reward model learns from: labelled texts, compared pairs and ranked lists, in a bounded set that splits itself by content.

Whether an example is for training or for validation follows from a hash of what it is about, not from when it came: the split
is the same after a restart, in another process, and whichever label arrives first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash


@dataclass(frozen=True, slots=True)
class Label:
    """One text and what somebody says of it."""

    text: str
    value: float
    """A score, or the index of a class."""
    weight: float = 1.0
    group: str = ""
    """What must not be on both sides of the split (a prompt); empty is the text itself."""

    @property
    def key(self) -> int:
        """uint64 content hash: what the label is about."""
        return _digest(self.text)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two different texts and which is better. Raises `ValueError` for equal texts, which nothing can be learned from."""

    first: str
    second: str
    preference: float
    """In [0, 1]: 1 the first is better, 0 the second, 1/2 a tie."""
    weight: float = 1.0
    group: str = ""

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise ValueError("a pair of equal texts")
        if not 0.0 <= self.preference <= 1.0:
            raise ValueError(f"a preference of {self.preference}, expected 0 to 1")

    @property
    def key(self) -> int:
        """uint64 content hash, the same whichever text comes first."""
        return _digest("\x00".join(sorted((self.first, self.second))))


@dataclass(frozen=True, slots=True)
class Ranked:
    """Two or more different texts, the best first. Raises `ValueError` for fewer, or equal ones."""

    texts: tuple[str, ...]
    weight: float = 1.0
    group: str = ""

    def __post_init__(self) -> None:
        if len(set(self.texts)) != len(self.texts) or len(self.texts) < 2:
            raise ValueError(f"a ranking of {len(self.texts)} texts, {len(set(self.texts))} of them different")

    @property
    def key(self) -> int:
        """uint64 content hash, the same in whatever order the texts are ranked."""
        return _digest("\x00".join(sorted(self.texts)))


Example = Label | Pair | Ranked


def _digest(text: str, seed: int = 0) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed=seed)


class ExampleSet:
    """At most ``capacity`` examples, each about something else: a newer label of the same thing replaces the older one.

    When it is full the oldest example goes. ``validation_share`` of what the examples are about is held out, by content hash.
    """

    def __init__(self, capacity: int, validation_share: float) -> None:
        self._capacity, self._share = capacity, validation_share
        self._examples: dict[int, Example] = {}
        self._split: tuple[list[Example], list[Example]] | None = None
        self._groups: list[list[Example]] | None = None
        self.evicted = 0
        """Examples that made room for newer ones."""

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples.values())

    def add(self, examples: Iterable[Example]) -> int:
        """Returns how many of them are about something new."""
        new = 0
        for example in examples:
            key = example.key
            new += self._examples.pop(key, None) is None
            self._examples[key] = example
        for key in list(self._examples)[: max(0, len(self._examples) - self._capacity)]:
            del self._examples[key]
            self.evicted += 1
        self._split = self._groups = None
        return new

    @property
    def train(self) -> Sequence[Example]:
        return self._sides()[0]

    @property
    def train_groups(self) -> Sequence[Sequence[Example]]:
        """The training examples, those of one group together."""
        if self._groups is None:
            groups: dict[str, list[Example]] = {}
            for example in self.train:
                groups.setdefault(example.group or str(example.key), []).append(example)
            self._groups = list(groups.values())
        return self._groups

    @property
    def validation(self) -> Sequence[Example]:
        return self._sides()[1]

    def holds_out(self, group: str) -> bool:
        """Does everything of this group belong to the validation side?"""
        return _digest(group, seed=1) / 2.0**64 < self._share

    def held_out(self, example: Example) -> bool:
        """Does it belong to the validation side?"""
        return self.holds_out(example.group or str(example.key))

    def _sides(self) -> tuple[list[Example], list[Example]]:
        if self._split is None:
            self._split = ([], [])
            for example in self._examples.values():
                self._split[self.held_out(example)].append(example)
        return self._split

    def save(self, file: Path) -> None:
        """All examples in their order, as Parquet."""
        rows = [_row(e) for e in self]
        names = ("text", "other", "ranked", "value", "weight", "group")
        types = (pa.string(), pa.string(), pa.list_(pa.string()), pa.float64(), pa.float64(), pa.string())
        columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(types)]
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), file, compression="zstd")

    def load(self, file: Path) -> None:
        """Replaces the content by that of `save`."""
        self._examples, self._split, self._groups = {}, None, None
        for row in pq.read_table(file).to_pylist():
            example = _example(row)
            self._examples[example.key] = example


def _row(e: Example) -> tuple[Any, ...]:
    own: tuple[Any, ...]
    if isinstance(e, Pair):
        own = (e.first, e.second, None, e.preference)
    elif isinstance(e, Ranked):
        own = (None, None, list(e.texts), None)
    else:
        own = (e.text, None, None, e.value)
    return *own, e.weight, e.group


def _example(row: dict[str, Any]) -> Example:
    if row["ranked"] is not None:
        return Ranked(tuple(row["ranked"]), row["weight"], row["group"])
    rest = (row["value"], row["weight"], row["group"])
    return Label(row["text"], *rest) if row["other"] is None else Pair(row["text"], row["other"], *rest)
