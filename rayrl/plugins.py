"""Names in a configuration become objects: a registry name, or `module:attribute` for something that a user wrote.

Registries map a name to its own `module:attribute`, so that listing what exists imports nothing and using one thing imports
only that thing.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rayrl.errors import ConfigError


def load(name: str, registry: Mapping[str, str], *, key: str) -> Any:
    """The object called ``name``. ``key`` is the configuration key that held the name, for the message.

    User modules are also looked for in the working directory. Raises `ConfigError` with the nearest known name.
    """
    path = registry.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not (colon and module_name and attribute):
        raise ConfigError(
            f"{key}: {name!r} is not known",
            f"{nearest(name, registry)}known names are {', '.join(sorted(registry))}; write module:attribute for your own.",
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as e:
        raise ConfigError(f"{key}: {name!r}: importing {module_name!r} failed with {type(e).__name__}: {e}", _import_hint(e)) from e
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            public = [a for a in dir(value) if not a.startswith("_")]
            raise ConfigError(
                f"{key}: {name!r}: {module_name!r} has no {attribute!r}",
                f"{nearest(part, public)}the attribute after the colon must exist in {getattr(module, '__file__', module_name)}.",
            )
        value = getattr(value, part)
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` for the known name that is closest to ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}? " if match else ""


def _import_hint(error: Exception) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return "Import the module in a Python shell and repair what it raises."
    parent, _, leaf = error.name.rpartition(".")
    folders = getattr(sys.modules.get(parent), "__path__", []) if parent else None
    guess = nearest(leaf, (m.name for m in pkgutil.iter_modules(folders)))
    return f"{guess}the module {error.name!r} must be in the working directory or installed on every node."
