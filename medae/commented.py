"""YAML with a comment beside each entry."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

WIDTH = 118
INDENT = "  "


def commented_yaml(parts: Mapping[str, Mapping[Any, Any]], comments: Mapping[str, str], heading: Sequence[str] = ()) -> str:
    """Two levels of keys, each entry of the second on one line, as YAML.

    parts: by names on one line; plain JSON types. comments: by ``part.key``; beside the entry where the line has room
    for it, else above. heading: paragraphs that come first, as comments. Reading the text back gives ``parts``.
    """
    lines = [line for paragraph in heading for line in _comment(paragraph, "", "  ")]
    for part, entries in parts.items():
        title = _on_one_line({part: None}).removesuffix(" null")
        lines += ["", title] if lines else [title]
        for key, value in entries.items():
            entry = INDENT + _on_one_line({key: value})
            comment = _flat(comments.get(f"{part}.{key}", ""))
            beside = f"{entry}  # {comment}"
            if comment and len(beside) > WIDTH:
                lines += [*_comment(comment, INDENT), entry]
            else:
                lines.append(beside if comment else entry)
    return "\n".join(lines) + "\n"


def _on_one_line(entry: Mapping[str, Any]) -> str:
    """One key and its value, which is in flow style if it holds others."""
    readable = json.dumps(entry, ensure_ascii=False).isprintable()  # what is not, such as a line separator, is escaped
    text = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, allow_unicode=readable, width=math.inf)
    return text.strip()[1:-1]


def _comment(text: str, indent: str, hanging: str = "") -> list[str]:
    return textwrap.wrap(_flat(text), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# {hanging}")


def _flat(text: str) -> str:
    """Without line breaks, which would end a comment, and control characters, which YAML does not allow."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
