"""Configuration: frozen pydantic models, read from YAML, changed by ``--set a.b=c``, dumped and hashed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medae.errors import ConfigError
from medae.plain_words import problem_lines


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=BaseModel)

YAML_BREAKS = ("\x85", "\u2028", "\u2029")
"""Characters that YAML reads as line breaks and PyYAML writes as they are, if it may write Unicode."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it is missing, not YAML or not a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("The configuration file does not exist.", where=path, remedy="Check the path.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The configuration cannot be read: {error}", where=path, remedy="Correct the file.") from error
    if not isinstance(content, dict):
        raise ConfigError(
            "The configuration is not a mapping of keys to values.", where=path, remedy="Start it with 'key: value' lines."
        )
    return content


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A deep copy of ``content`` with each ``a.b=value`` set; values are YAML or else text; integers index lists.

    What YAML reads as ``key: value`` without braces is text: a value that ends in a colon is no block of keys.
    """
    result = copy.deepcopy(dict(content))
    for override in overrides:
        path, found, text = override.partition("=")
        keys = path.strip().split(".")
        if not found or not all(keys):
            raise ConfigError(
                f"'{override}' is not of the form key=value.", where="--set", remedy="Write for example --set fit.steps=200."
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:  # such as *_T1w.nii.gz
            value = text
        if isinstance(value, dict) and not text.lstrip().startswith("{"):
            value = text
        target: Any = result
        for key in keys[:-1]:
            target = _descend(target, key, override)
        _assign(target, keys[-1], value, override)
    return result


def _descend(target: Any, key: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_position(target, key, override)]
    if not isinstance(target, dict):
        raise _no_place(key, override)
    if not isinstance(target.get(key), (dict, list)):
        target[key] = {}
    return target[key]


def _assign(target: Any, key: str, value: Any, override: str) -> None:
    if isinstance(target, list):
        target[_position(target, key, override)] = value
    elif isinstance(target, dict):
        target[key] = value
    else:
        raise _no_place(key, override)


def _no_place(key: str, override: str) -> ConfigError:
    return ConfigError(f"There is no '{key}' to set in '{override}'.", where="--set", remedy="Check the names before it.")


def _position(target: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(target):
        raise ConfigError(
            f"'{key}' in '{override}' is not a place in a list of {len(target)}.", where="--set", remedy="Count from 0."
        )
    return int(key)


def validate(model: type[C], content: Mapping[str, Any], where: str | Path | None = None) -> C:
    """``content`` as a ``model``. Raises ConfigError that names every key that does not fit."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        rows = [f"    {line}" for line in problem_lines(model, error.errors())]
        raise ConfigError(
            "The configuration does not fit:\n" + "\n".join(rows),
            where=where,
            remedy="Correct or remove the keys named above.",
        ) from error
    except ConfigError as error:  # of a check that knows the key
        found = [str(place) for place in (where, error.where) if place is not None]
        raise ConfigError(error.what, where=": ".join(found) or None, remedy=error.remedy) from error


def load(path: Path, model: type[C], overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, apply ``--set`` overrides, validate."""
    return validate(model, apply_overrides(read_yaml(path), overrides), where=path)


def to_dict(config: BaseModel) -> dict[str, Any]:
    """Plain JSON types, every default included."""
    result: dict[str, Any] = config.model_dump(mode="json")
    return result


def to_yaml(config: BaseModel) -> str:
    """The configuration as YAML, every default included, keys in the order of declaration."""
    content = to_dict(config)
    breaks = any(mark in json.dumps(content, ensure_ascii=False) for mark in YAML_BREAKS)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=not breaks, width=110)


def digest(value: BaseModel | Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a configuration, hexadecimal."""
    content = to_dict(value) if isinstance(value, BaseModel) else value
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; lists stay whole."""
    rows: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows |= flatten(value, f"{name}.")
        else:
            rows[name] = value
    return rows
