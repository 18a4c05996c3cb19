"""From a recipe and overrides to a typed configuration that knows where each of its values came from.

Layers are applied leaf by leaf onto the schema, so a later layer changes exactly the keys that it names (lists are replaced,
mappings are merged). All mistakes of all layers are reported in one error: unknown keys with the nearest known key, ill-typed
values with key, value, expected type and origin, and every mandatory key that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rayrl.config import layers
from rayrl.config.checks import require_consistent
from rayrl.config.choices import choices
from rayrl.config.fields import Field, lookup, nearest, table
from rayrl.config.layers import Layer
from rayrl.config.schema import Config
from rayrl.errors import ConfigError

COMMAND_LINE = "command line"
DEFAULT = "default"
LANGUAGE_ONLY = ("model.path", "data.source")
"""Mandatory for a language model; an environment agent has neither."""
CONFIG_FILE, ORIGINS_FILE = "config.yaml", "config_origins.json"


@dataclass(frozen=True)
class Loaded:
    """A configuration and its provenance."""

    config: Config
    origins: Mapping[str, str]
    """Key of every leaf -> ``default``, ``FILE:LINE`` or ``command line``."""
    yaml: str
    """The whole configuration, interpolations resolved: loading it again gives the same configuration."""
    recipe: str
    """What was asked for: the recipe's file."""


def load(recipe: str | Path, overrides: Sequence[str] = (), *, profile: str | None = None, check: bool = True) -> Loaded:
    """Loads ``conf/base.yaml``, a recipe with all that it extends, a profile, and overrides ``key=value``.

    Args:
        recipe: a path, or a name under ``conf/recipes``.
        overrides: dotted keys with YAML values; they win over everything.
        profile: a name under ``conf/profiles`` that wins over the recipe (but not over the overrides).
        check: also apply the cross-field rules of `config.checks`; `rayrl plan` reports them itself.

    Raises:
        ConfigError: every mistake that was found, in one message.
    """
    path = layers.find_recipe(recipe)
    stack = layers.read_chain(path)
    if profile:
        stack.append(layers.read_layer(layers.find_profile(profile)))
    return _build([*stack, _command_line(overrides)], layers.display(path), {}, check)


def reload(run_dir: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """The configuration that `save` wrote into a run folder, with overrides on top; origins are those of the first start."""
    path = Path(run_dir) / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{run_dir} is not a run folder: it has no {CONFIG_FILE}", "give the folder that `rayrl train` printed")
    origins_file = Path(run_dir) / ORIGINS_FILE
    origins = json.loads(origins_file.read_text(encoding="utf-8")) if origins_file.is_file() else {}
    return _build([layers.read_layer(path), _command_line(overrides)], layers.display(path), origins, check=True)


def save(loaded: Loaded, run_dir: str | Path) -> None:
    """Writes ``config.yaml`` (resolved) and ``config_origins.json`` into the run folder."""
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(
        f"# Resolved from {loaded.recipe}; {ORIGINS_FILE} says where each value came from.\n{loaded.yaml}", "utf-8"
    )
    (folder / ORIGINS_FILE).write_text(json.dumps(dict(loaded.origins), indent=1) + "\n", "utf-8")


def _command_line(overrides: Sequence[str]) -> Layer:
    problems = [f"override {o!r} is not of the form key=value" for o in overrides if "=" not in o or not o.split("=", 1)[0]]
    if problems:
        raise ConfigError("\n".join(problems), "write overrides as section.key=value, e.g. run.steps=20")
    data: dict[str, Any] = {}
    for override in overrides:
        key, text = override.split("=", 1)
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        except (yaml.YAMLError, OmegaConfBaseException) as e:
            raise ConfigError(
                f"override {override!r}: the value is not valid YAML", "quote it, e.g. 'data.answer_pattern=\"#### (.*)\"'"
            ) from e
        here = data
        *above, last = key.strip().split(".")
        for part in above:
            inner = here.setdefault(part, {})
            here[part] = here = inner if isinstance(inner, dict) else {}
        here[last] = value["value"] if isinstance(value, dict) else None
    return Layer(COMMAND_LINE, data, {})


def _build(stack: Sequence[Layer], recipe: str, origins: Mapping[str, str], check: bool) -> Loaded:
    config = OmegaConf.structured(Config)
    problems: list[str] = []
    written: dict[str, str] = {}
    for layer in stack:
        for key, value in _leaves(layer, layer.data, "", problems):
            problem = _assign(config, key, value)
            if problem:
                problems.append(f"{problem} (set in {layer.origin(key)})")
            written[key] = origins.get(key, layer.origin(key)) if layer.name != COMMAND_LINE else COMMAND_LINE
    if problems:
        raise ConfigError("\n".join(problems), "`rayrl plan --explain KEY` says what a key means; `--explain .` lists all keys")
    if OmegaConf.select(config, "agent.env") is not None:
        _excuse(config, LANGUAGE_ONLY)
    missing = [
        key for key in _leaf_keys(config) if OmegaConf.is_missing(OmegaConf.select(config, key.rpartition(".")[0]), key.rpartition(".")[2])
    ]
    if missing:
        lines = [f"{key} must be set: {_doc(key)}" for key in missing]
        raise ConfigError("\n".join(lines), f"set them in {recipe} or on the command line, e.g. {missing[0]}=...")
    try:
        OmegaConf.resolve(config)
        plain = OmegaConf.to_object(config)
    except OmegaConfBaseException as e:
        raise ConfigError(f"{e.full_key}: {str(e).splitlines()[0]}", "check the ${...} in this value") from e
    assert isinstance(plain, Config)
    if check:
        require_consistent(plain)
    everything = {key: written.get(key, _around(key, written)) for key in _leaf_keys(config)}
    return Loaded(plain, everything, OmegaConf.to_yaml(config), recipe)


def _leaves(layer: Layer, data: Mapping[str, Any], prefix: str, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Leaf keys of a layer with their values; what is no key of the schema goes to ``problems``."""
    for name, value in data.items():
        key = f"{prefix}{name}"
        field = lookup(key)
        if field is None and isinstance(value, Mapping) and value:
            list(_leaves(layer, value, f"{key}.", problems))
        elif field is None:
            guess = nearest(key)
            problems.append(f"unknown key {key!r} (set in {layer.origin(key)})" + (f"; did you mean {guess!r}?" if guess else ""))
        elif not field.section:
            yield key, value
        elif isinstance(value, Mapping):
            if field.key.endswith(".*"):
                yield key, {}
            yield from _leaves(layer, value, f"{key}.", problems)
        elif value is not None:
            problems.append(f"{key} is a section and cannot be {value!r} (set in {layer.origin(key)})")


def _assign(config: DictConfig, key: str, value: Any) -> str | None:
    """Sets one leaf; returns what is wrong with the value, or None."""
    field = lookup(key)
    assert field is not None
    if field.section:  # a named entry springs into being with its defaults
        above, _, name = key.rpartition(".")
        entries = OmegaConf.select(config, above)
        if name not in entries:
            entries[name] = OmegaConf.structured(field.base)
        return None
    value = _off(key, value)
    if not _plausible(field, value):
        return _ill_typed(field, key, value)
    if field.free and value is None:
        return None
    try:
        OmegaConf.update(config, key, value, merge=field.free, force_add=field.free)
    except OmegaConfBaseException:
        return _ill_typed(field, key, value)
    return None


def _excuse(config: DictConfig, keys: Sequence[str]) -> None:
    """Mandatory ``keys`` that nobody set become empty."""
    for key in keys:
        section, _, name = key.rpartition(".")
        if OmegaConf.is_missing(OmegaConf.select(config, section), name):
            OmegaConf.update(config, key, "")


def _off(key: str, value: Any) -> Any:
    """YAML reads a bare ``off`` as false; where "off" is one of the choices it is the word that was meant."""
    return "off" if value is False and "off" in choices(key) else value


def _plausible(field: Field, value: Any) -> bool:
    """Refuses what OmegaConf would quietly convert: 2.5 to the integer 2, true to the string "True", 1 to true."""
    if isinstance(value, str) and "${" in value:
        return True
    if field.base is int:
        return not isinstance(value, bool) and not (isinstance(value, float) and not value.is_integer())
    if field.base is float:
        return not isinstance(value, bool)
    if field.base is bool:
        return value is None or isinstance(value, bool)
    if field.base is str:
        return not isinstance(value, bool)
    return True


def _ill_typed(field: Field, key: str, value: Any) -> str:
    allowed = f" (one of: {', '.join(choices(field.key))})" if choices(field.key) else ""
    return f"{key}: {value!r} is not a {field.type}{allowed}"


def _doc(key: str) -> str:
    field = lookup(key)
    return " ".join(field.doc.split()) if field else ""


def _leaf_keys(config: DictConfig) -> list[str]:
    keys = [k for k, f in table().items() if not f.section and "*" not in k]
    entries = OmegaConf.select(config, "rewards.components")
    pattern = "rewards.components.*."
    keys += [k.replace("*", name) for name in entries for k, f in table().items() if k.startswith(pattern) and not f.section]
    return keys


def _around(key: str, written: Mapping[str, str]) -> str:
    """Origin of a free mapping that was given item by item: that of its last item."""
    inside = [origin for k, origin in written.items() if k.startswith(f"{key}.")]
    return inside[-1] if inside else DEFAULT
