"""From a reading to an opinion: the frozen rules, a set share of wrong ones, and the controls that carry no information."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

from tests.standin import arithmetic, rules
from tests.standin.reading import Reading

CONTROLS = ("none", "random", "permuted", "zero", "one")
"""none: honest rules. random: per text, at the honest positive rate. permuted: honest labels of other texts. zero and one: constant."""

_POOL = 64
"""Labels of other texts that a permuted one is drawn from."""


@dataclass
class Opinions:
    control: str = "none"
    wrong: float = 0.0
    """Share of texts that it has a wrong opinion of, for good."""
    seed: int = 0
    _true: list[bool] = field(default_factory=list)
    _given: dict[str, bool] = field(default_factory=dict)

    def answer(self, reading: Reading) -> str:
        """What belongs into the tag."""
        grades = [self.grade(reading, text) for text in reading.texts]
        if reading.tag == "label":
            return "FOO" if grades[0] >= 5.0 else "BAR"
        if reading.tag == "score":
            return f"{grades[0]:g}"
        if reading.tag == "best":
            return "tie" if grades[0] == grades[1] else "1" if grades[0] > grades[1] else "2"
        if reading.tag == "ranking":
            order = sorted(range(len(grades)), key=lambda i: -grades[i])
            return ", ".join(str(i + 1) for i in order)
        return ", ".join("good" if arithmetic.step_is_right(step) != self._errs(step) else "bad" for step in reading.texts)

    def grade(self, reading: Reading, text: str) -> float:
        """0 to 10; at least 5 is good."""
        goal = rules.goal_of(reading.goal)
        if self.control in ("zero", "one"):
            return 10.0 if self.control == "one" else 0.0
        if arithmetic.is_problem(reading.context):
            true = arithmetic.grade(reading.context, text)
        else:
            true = min(10.0, 5.0 + rules.quality(text, goal)) if rules.is_good(text, goal) else 1.0
        if self._errs(text):
            true = 10.0 - true
        if self.control == "none":
            return true
        return 10.0 if self._control(f"{reading.goal}\0{reading.context}\0{text}", true >= 5.0) else 0.0

    def _control(self, key: str, true: bool) -> bool:
        """An opinion that has nothing to do with the text but comes as often as the honest one; the same text gets the same."""
        if key not in self._given:
            draw, others = random.Random(f"{self.seed}/{key}"), self._true or [False, True]
            if self.control == "random":
                self._given[key] = draw.random() < sum(others) / len(others)
            elif len(others) > _POOL:
                self._given[key] = others.pop(draw.randrange(len(others)))
            else:
                self._given[key] = draw.choice(others)
            self._true.append(true)
        return self._given[key]

    def _errs(self, text: str) -> bool:
        number = int.from_bytes(hashlib.sha256(f"{self.seed}/wrong/{text}".encode("utf-8", "replace")).digest()[:8], "big")
        return number / 2**64 < self.wrong
