"""Finding and reading configuration files: which YAML files a recipe consists of, in which order, and where each value stands.

A recipe is a path, or a name under ``conf/recipes`` (``arithmetic_grpo``, ``algorithms/dapo`` or just ``dapo``). It may name
``extends`` (another recipe) and ``profile`` (a file under ``conf/profiles``). The order, later wins:
``conf/base.yaml``, then for each recipe of the chain, oldest first: its profile, then the recipe itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

import rayrl
from rayrl.errors import ConfigError

EXTENDS, PROFILE = "extends", "profile"


@dataclass(frozen=True)
class Layer:
    """The content of one file (or of the command line)."""

    name: str
    """How the file is called in messages and origins."""
    data: Mapping[str, Any]
    lines: Mapping[str, int]
    """Dotted key -> line, where there are lines."""

    def origin(self, key: str) -> str:
        """``file:line`` of a key, or of the nearest key around it."""
        while key:
            if key in self.lines:
                return f"{self.name}:{self.lines[key]}"
            key = key.rpartition(".")[0]
        return self.name


def conf_folder() -> Path:
    """The checkout's ``conf``: under the working directory, else beside the package."""
    candidates = [Path.cwd() / "conf", Path(rayrl.__file__).resolve().parent.parent / "conf"]
    for folder in candidates:
        if (folder / "base.yaml").is_file():
            return folder
    raise ConfigError(
        "no folder conf/ with a base.yaml in the working directory or beside the package",
        "run rayrl from its checkout, or give the recipe as a path and put a conf/base.yaml in the working directory",
    )


def recipe_names() -> list[str]:
    """Every recipe under ``conf/recipes``, by the name that `load` takes."""
    root = conf_folder() / "recipes"
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def find_recipe(recipe: str | Path, beside: Path | None = None) -> Path:
    """Path of a recipe. ``beside`` is the file that named it (``extends``). Raises `ConfigError` that lists the recipes."""
    names = recipe_names()
    name = str(recipe).removesuffix(".yaml")
    for path in [*([beside.parent / f"{name}.yaml"] if beside else []), Path(recipe), Path(f"{name}.yaml")]:
        if path.is_file():
            return path
    matches = [n for n in names if n == name] or [n for n in names if n.endswith(f"/{name}")]
    if len(matches) == 1:
        return conf_folder() / "recipes" / f"{matches[0]}.yaml"
    if matches:
        raise ConfigError(f"recipe {name!r} is ambiguous: {', '.join(matches)}", "give the name with its folder")
    close = difflib.get_close_matches(name, [*names, *(n.rsplit("/", 1)[-1] for n in names)], n=1)
    asked = f" (extended by {display(beside)})" if beside else ""
    raise ConfigError(
        f"no recipe {str(recipe)!r}{asked}",
        (f"did you mean {close[0]!r}? " if close else "") + "Recipes: " + ", ".join(names),
    )


def find_profile(profile: str, beside: Path | None = None) -> Path:
    """Path of a profile: beside the file that names it, under ``conf`` or under ``conf/profiles``, with or without ``.yaml``."""
    name = profile.removesuffix(".yaml")
    roots = [*([beside.parent] if beside else []), Path(), conf_folder(), conf_folder() / "profiles"]
    for root in roots:
        if (root / f"{name}.yaml").is_file():
            return root / f"{name}.yaml"
    known = sorted(p.stem for p in (conf_folder() / "profiles").glob("*.yaml"))
    raise ConfigError(f"no profile {profile!r}", f"profiles: {', '.join(known)}")


def read_chain(recipe: Path) -> list[Layer]:
    """The layers of a recipe, ``conf/base.yaml`` first. Raises `ConfigError` for a circle of ``extends``."""
    chain: list[list[Layer]] = []
    seen: list[Path] = []
    path: Path | None = recipe
    while path is not None:
        if path.resolve() in seen:
            raise ConfigError(
                f"recipes extend each other in a circle: {' -> '.join(display(p) for p in [*seen, path])}", "remove one `extends`"
            )
        seen.append(path.resolve())
        layer = read_layer(path)
        data = dict(layer.data)
        parent, profile = data.pop(EXTENDS, None), data.pop(PROFILE, None)
        own = [Layer(layer.name, data, layer.lines)]
        chain.append(([read_layer(find_profile(str(profile), path))] if profile else []) + own)
        path = find_recipe(str(parent), path) if parent else None
    return [read_layer(conf_folder() / "base.yaml"), *(layer for layers in reversed(chain) for layer in layers)]


def read_layer(path: Path) -> Layer:
    """One YAML file with the line of every key. Raises `ConfigError` with the line where it does not parse."""
    name = display(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = OmegaConf.to_container(OmegaConf.create(text or "{}"), resolve=False)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where} is not valid YAML: {getattr(e, 'problem', e)}", "check indentation, colons and quotes there") from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {name}: {e}", "give a readable YAML file") from e
    if not isinstance(data, dict) or any(not isinstance(k, str) for k in data):
        raise ConfigError(f"{name} is not a mapping of keys to values", "write `section:` and its keys below it, indented")
    return Layer(name, {str(k): v for k, v in data.items()}, dict(_lines(node, "")) if node is not None else {})


def display(path: Path) -> str:
    """A path as a person reads it: relative to the working directory or to the checkout where it lies inside."""
    absolute = path.resolve()
    for root in (Path.cwd().resolve(), conf_folder().resolve().parent):
        if absolute.is_relative_to(root):
            return absolute.relative_to(root).as_posix()
    return str(absolute)


def _lines(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        yield dotted, key.start_mark.line + 1
        yield from _lines(value, f"{dotted}.")
