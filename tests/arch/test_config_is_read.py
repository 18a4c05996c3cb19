"""Every setting is read by the code that it claims to steer: a setting that nobody reads is a promise that nobody keeps."""

import ast
from pathlib import Path

import rayrl
from rayrl.config import fields

ROOT = Path(rayrl.__file__).parent
NOT_READERS = ("config", "plan.py", "check.py", "cli")
"""Validating or printing a setting is not obeying it. Placement and sizes are obeyed by the driver."""
OBEYED = ("config/placement.py", "config/reward_sources.py")

ANY_SECTION = {"config", "settings"}
ALIASES = {"sampling": {"s"}, "*": {"component", "spec", "c", "model"}}
"""What the readers call a section where they do not call it by its name."""

NOT_YET_READ: set[str] = set()


def test_every_field_is_read_by_the_code_it_steers():
    reads = _reads()
    unread = {key for key, field in fields.table().items() if not field.section and not _is_read(key, reads)}
    assert unread == NOT_YET_READ, f"unread: {sorted(unread - NOT_YET_READ)}; read by now: {sorted(NOT_YET_READ - unread)}"


def _is_read(key: str, reads: set[tuple[str, str]]) -> bool:
    section, name = key.split(".")[-2:]
    bases = {section} | ANY_SECTION | ALIASES.get(section, set())
    return any((base, name) in reads for base in bases)


def _reads() -> set[tuple[str, str]]:
    """``(base, attribute)`` of every attribute read, e.g. ``config.learner.ranks`` -> ("learner", "ranks")."""
    found = set()
    for path in ROOT.rglob("*.py"):
        relative = path.relative_to(ROOT).as_posix()
        if relative.split("/")[0] in NOT_READERS and relative not in OBEYED:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                found.add((base.strip("_"), node.attr))
    return found
