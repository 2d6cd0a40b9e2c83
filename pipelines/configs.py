"""Finding and reading configurations: a path, or the name of one that ships with medae."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from medae.config import apply_overrides, read_yaml
from medae.errors import ConfigError


def shipped_folder() -> Path:
    """The configurations that ship with medae: inside the wheel, or beside the packages in a checkout."""
    inside = Path(str(files("medae"))) / "configs"
    return inside if inside.is_dir() else inside.parents[1] / "configs"


def find_config(name: str, section: str) -> Path:
    """``name`` as a file, else as a shipped configuration of the section (``pretrain``, ``pipelines``, …)."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    folder = shipped_folder()
    for candidate in (
        folder / section / f"{name}.yaml",
        folder / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml",
    ):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(file.stem for file in (folder / section).glob("*.yaml")))
    raise ConfigError(
        f"There is no configuration '{name}'.",
        where=section,
        remedy=f"Give a YAML file or one of the shipped names: {known}.",
    )


def read_config(
    name: str, section: str, overrides: Sequence[str] = (), extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The mapping in a configuration, with the command line's own keys and then ``--set`` applied."""
    return apply_overrides({**read_yaml(find_config(name, section)), **(extra or {})}, overrides)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``, key by key into nested mappings; lists and scalars are replaced.

    A nested mapping whose ``kind`` or ``format`` changes is replaced whole: its other keys belong to the other kind.
    """
    result = dict(base)
    for key, value in changes.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and _same_kind(before, value):
            result[key] = merge(before, value)
        else:
            result[key] = value
    return result


def _same_kind(before: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return all(value.get(tag, before.get(tag)) == before.get(tag) for tag in ("kind", "format"))
