"""Content addresses: the same text, and the same question, has the same key in every process and every run."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from rayrl.annotations import Question

_FIELD = b"\x00\x1f"
"""Between hashed fields, whose lengths are hashed too: no two lists of fields run together."""


def as_text(text: bytes | str) -> str:
    """Bytes are what an environment showed, one byte per character."""
    return text.decode("latin-1") if isinstance(text, bytes) else text


def as_bytes(text: bytes | str) -> bytes:
    """The bytes that are hashed: those of the environment, or UTF-8 where a character has no single byte."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def item_key(text: bytes | str, context: str = "") -> int:
    """uint64: xxh3-64 of the text's bytes; with a context, of both."""
    if not context:
        return xxhash.xxh3_64_intdigest(as_bytes(text)) or 1  # 0 is no message
    return int(_digest([context, as_text(text)])[:16], 16)


def question_key(template: str, goal: str, model: str, context: str, texts: Sequence[str]) -> str:
    """32 hex digits. ``template`` is the hash of the prompt template, ``goal`` the sentence that it asks about."""
    return _digest([template, goal, model, context, *texts])


def _digest(fields: Sequence[str]) -> str:
    digest = xxhash.xxh3_128()
    for field in fields:
        data = field.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + _FIELD + data)
    return digest.hexdigest()


def in_order(pair: Question) -> Question:
    """The same two texts are the same question, whichever was named first."""
    return pair if pair.texts == tuple(sorted(pair.texts)) else Question(tuple(sorted(pair.texts)), pair.context, pair.uncertainty)


def clean(text: str) -> str:
    """Half a surrogate pair is no character: it could not be written to disk or sent."""
    return text.encode("utf-8", "replace").decode("utf-8")
