"""Is a name a place on this machine or a name on a hub, and what did its writer mean when nothing is there?"""

from __future__ import annotations

import difflib
from pathlib import Path


def is_local(name: str) -> bool:
    """True for what exists on disk and for what can only be a path (hub names are ``name`` or ``owner/name``)."""
    return Path(name).exists() or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1


def nearest_files(path: Path | str) -> str:
    """A sentence for a hint: what lies near a path at which there is nothing."""
    path = Path(path)
    folder = next((p for p in path.parents if p.is_dir()), Path("."))
    if folder != path.parent:
        return f"the folder {path.parent} does not exist either; {folder} does."
    names = sorted(p.name for p in folder.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    return f"in {folder} there is {', '.join(close)}." if close else f"{folder} is empty."
