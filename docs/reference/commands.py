"""The page of all commands, from their declarations in ``pipelines.cli``."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from pipelines.cli import app


def commands_page() -> str:
    """A section a command: usage, what it does, arguments and options. Those of a group come after the others."""
    parts: list[tuple[str, Any]] = [("medae", app)]
    parts += [(f"medae {group.name}", group.typer_instance) for group in app.registered_groups]
    sections = []
    for prefix, part in parts:
        declared: Any = typer.main.get_group(part).commands
        for command in part.registered_commands:
            name = command.name or command.callback.__name__
            options = {p.name: " / ".join([*p.opts[:1], *p.secondary_opts[:1]]) for p in declared[name].params}
            sections.append(_section(f"{prefix} {name}", command.callback, options))
    return "\n".join(sections)


def _section(command: str, callback: Callable[..., Any], options: dict[str, str]) -> str:
    hints = get_type_hints(callback, include_extras=True)
    usage, rows = [command], []
    for name, parameter in signature(callback).parameters.items():
        kind, info = get_args(hints[name])[:2]
        if isinstance(info, ArgumentInfo):
            usage.append(info.metavar or name.upper())
            rows.append(f"| `{_escaped(usage[-1])}` | required | {info.help} |")
        elif isinstance(info, OptionInfo):
            written = " ".join([options[name], *_value(kind, info)])
            rows.append(f"| `{written}` | {_default(kind, parameter)} | {info.help} |")
    table = ["| argument | default | meaning |", "|---|---|---|", *rows]
    return "\n".join([f"## `{' '.join(usage)}`", "", str(callback.__doc__), "", *table, ""])


def _escaped(text: str) -> str:
    """As it has to be written in a cell of a table."""
    return text.replace("|", "\\|")


def _value(kind: Any, info: OptionInfo) -> list[str]:
    """The placeholder of an option's value, none for a switch."""
    if kind is bool:
        return []
    if info.metavar:
        return [info.metavar]
    types = [part for part in (get_args(kind) or (kind,)) if part is not type(None)]
    if isinstance(types[0], type) and issubclass(types[0], Enum):
        return [_escaped("|".join(choice.value for choice in types[0]))]
    return [{Path: "PATH", str: "TEXT", float: "NUMBER"}.get(types[0], "VALUE")]


def _default(kind: Any, parameter: Parameter) -> str:
    default = parameter.default
    if default is Parameter.empty:
        return "required"
    if kind is bool:
        return "on" if default else "off"
    if default is None:
        return "–" if "list" not in str(kind) else "none; may be repeated"
    return f"`{default.value if isinstance(default, Enum) else default}`"
