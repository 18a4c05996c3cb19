"""Every key of the configuration as one table: type, default, documentation, read from `schema.py` itself.

The documentation of a field is the string under it in the source, so that there is one place to write and one to read.
Keys are dotted; ``*`` stands for a name that the user chooses (``rewards.components.*.weight``).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import MISSING

from rayrl.config import schema
from rayrl.config.choices import choices
from rayrl.errors import ConfigError


@dataclass(frozen=True)
class Field:
    """One key of the schema."""

    key: str
    type: str
    """As written in the schema, e.g. ``list[float]`` or ``str | None``."""
    base: Any
    """The type without ``None``: ``int``, ``str``, ``list``, ``dict`` or the dataclass of a section."""
    default: Any
    """None for a section."""
    doc: str
    section: bool = False
    """Has keys of its own that the schema names."""
    free: bool = False
    """A mapping whose content the schema does not know (arguments of plug-ins)."""


@functools.cache
def table() -> dict[str, Field]:
    """All fields by key, sections included, in the order of the schema."""
    return {f.key: f for f in _walk(schema.Config, "")}


def lookup(key: str) -> Field | None:
    """The field that ``key`` addresses, with names of the user's choice and free arguments allowed for; None for an unknown key."""
    parts, known, here = key.split("."), table(), ""
    for part in parts:
        for candidate in (f"{here}.{part}" if here else part, f"{here}.*"):
            if candidate in known:
                here = candidate
                break
        else:
            above = known.get(here)
            return above if above is not None and above.free else None
    return known.get(here)


def nearest(key: str) -> str | None:
    """The key that someone who wrote ``key`` most likely meant: same last part, similar spelling, or its words in the documentation."""
    keys, leaf = list(table()), key.rsplit(".", 1)[-1]
    same_leaf = [k for k in keys if k.rsplit(".", 1)[-1] == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda k: difflib.SequenceMatcher(None, k, key).ratio())
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if close:
        return close[0]
    by_leaf = {k.rsplit(".", 1)[-1]: k for k in keys}
    close = difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.7)
    if close:
        return by_leaf[close[0]]
    words = leaf.lower().split("_")
    return next((k for k, f in table().items() if not f.section and all(w in f.doc.lower() for w in words)), None)


def explain(key: str) -> str:
    """What a key means, its type, default and choices; for a section all keys in it. Raises `ConfigError` for an unknown key."""
    found = lookup(key)
    if found is None:
        guess = nearest(key)
        raise ConfigError(f"unknown key {key!r}", f"did you mean {guess!r}?" if guess else "`rayrl plan --explain .` lists every key")
    if not found.section:
        lines = [f"{found.key}: {found.type} = {shown(found.default)}"]
        if choices(found.key):
            lines.append(f"  one of: {', '.join(choices(found.key))}")
        return "\n".join([*lines, *(f"  {line}" for line in found.doc.splitlines())])
    prefix = f"{found.key}."
    inner = [f for k, f in table().items() if k.startswith(prefix) and not f.section]
    width = max(len(f.key) for f in inner)
    head = f"{found.key}: {found.doc}".rstrip(": ")
    return "\n".join([head, *(f"  {f.key:<{width}}  {shown(f.default)}  —  {' '.join(f.doc.split())}" for f in inner)])


def overview() -> str:
    """One line per key of the whole schema."""
    return "\n".join(explain(k) for k, f in table().items() if f.section and "." not in k)


def _walk(cls: type, prefix: str) -> Iterator[Field]:
    hints, docs = typing.get_type_hints(cls), _docs()[cls.__name__]
    for f in dataclasses.fields(cls):
        key, base = prefix + f.name, _without_none(hints[f.name])
        doc = docs.get(f.name, "")
        written = f.type if isinstance(f.type, str) else str(f.type)
        if _is_section(base):
            yield Field(key, written, base, None, doc, section=True)
            yield from _walk(base, f"{key}.")
            continue
        value = typing.get_args(base)[1] if typing.get_origin(base) is dict else None
        if isinstance(value, type) and _is_section(value):
            yield Field(key, written, dict, {}, doc, section=True)
            yield Field(f"{key}.*", value.__name__, value, None, "", section=True)
            yield from _walk(value, f"{key}.*.")
            continue
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        origin = typing.get_origin(base) or base
        yield Field(key, written, origin, default, doc, free=origin is dict)


def _is_section(base: Any) -> bool:
    return isinstance(base, type) and dataclasses.is_dataclass(base)


def _without_none(hint: Any) -> Any:
    options = [a for a in typing.get_args(hint) if a is not NoneType]
    return options[0] if NoneType in typing.get_args(hint) and len(options) == 1 else hint


@functools.cache
def _docs() -> dict[str, dict[str, str]]:
    """Class name -> field name -> the string under the field."""
    tree = ast.parse(Path(schema.__file__).read_text(encoding="utf-8"))
    result: dict[str, dict[str, str]] = {}
    for cls in (n for n in tree.body if isinstance(n, ast.ClassDef)):
        docs: dict[str, str] = {}
        for field, below in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = below.value.value if isinstance(below.value, ast.Constant) else None
                if isinstance(text, str):
                    docs[field.target.id] = text.strip()
        result[cls.name] = docs
    return result


def shown(value: Any) -> str:
    """A value as it is written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "(must be set)" if isinstance(value, str) and value == MISSING else str(value)
