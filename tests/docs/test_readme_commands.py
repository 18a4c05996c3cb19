"""What the README tells people to type must work: every command parses, every recipe, setting and script it names exists, and
the commands of `rayrl` that are not marked ``# not run`` succeed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import rayrl
from rayrl.cli.parser import build_parser
from rayrl.config import fields, layers
from rayrl.errors import ConfigError

CHECKOUT = Path(rayrl.__file__).resolve().parent.parent
README = CHECKOUT / "README.md"
NOT_RUN = "# not run"
_BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")
_SETTING = re.compile(r"[a-z_]+(\.[A-Za-z_]+)+=")


class Command(NamedTuple):
    words: list[str]
    run: bool

    def __str__(self) -> str:
        return " ".join(self.words)


def commands(text: str) -> list[Command]:
    """Each command of the fenced shell blocks, continuation lines joined, variables in front dropped."""
    found = []
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and _ASSIGNMENT.match(words[0]):
                words.pop(0)
            found += [Command(part, NOT_RUN not in line) for part in _split(words)]
    return found


def _split(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "|", ";"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [p for p in parts if p]


def check(words: list[str]) -> None:
    """Raises where a command names something that does not exist."""
    for word in words[1:]:
        if _SETTING.match(word):
            key = word.split("=", 1)[0]
            assert fields.lookup(key) is not None, f"{key} is no setting"
    if words[0] == "rayrl":
        arguments, rest = build_parser().parse_known_args(words[1:])
        assert all("=" in r and not r.startswith("-") for r in rest), f"not understood: {rest}"
        if getattr(arguments, "recipe", None):
            layers.find_recipe(arguments.recipe)
        if getattr(arguments, "profile", None):
            layers.find_profile(arguments.profile)
        if getattr(arguments, "explain", None):
            fields.explain(arguments.explain)
    elif words[0].startswith(("launch/", "./launch/", ".ci/")):
        assert (CHECKOUT / words[0]).is_file(), f"{words[0]} does not exist"


README_COMMANDS = commands(README.read_text(encoding="utf-8")) if README.exists() else []


@pytest.mark.parametrize("command", README_COMMANDS, ids=str)
def test_every_command_of_the_readme_names_what_exists(command):
    check(command.words)


@pytest.mark.parametrize("command", [c for c in README_COMMANDS if c.run and c.words[0] == "rayrl"], ids=str)
def test_every_light_command_of_the_readme_runs(command):
    done = subprocess.run([sys.executable, "-m", *command.words], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_extractor_finds_joins_and_marks():
    shell = "SEED=1 launch/demo.sh  # not run: long\nrayrl plan \\\n  arithmetic_grpo && rayrl check\n# a remark\n"
    text = f"```bash\n{shell}```\n```python\nx\n```\n"
    expected = [(["launch/demo.sh"], False), (["rayrl", "plan", "arithmetic_grpo"], True), (["rayrl", "check"], True)]
    assert commands(text) == expected


@pytest.mark.parametrize(
    "line",
    ["rayrl fly", "rayrl train no_such_recipe", "rayrl plan arithmetic_grpo run.stepz=3", "launch/nothing.sh", "rayrl check --fast"],
)
def test_a_wrong_command_would_be_noticed(line):
    with pytest.raises((SystemExit, AssertionError, ConfigError)):
        check(shlex.split(line))
