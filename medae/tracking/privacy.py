"""What leaves for the tracking store: names and values in its alphabet and lengths, and no absolute path among them.

A path under the working folder is kept relative to it; any other absolute path, or one under a home folder, becomes
``<path>``: its folders and its file name may name a person, a ward or a patient.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medae.config import flatten
from medae.errors import MedaeError

MAX_KEY = 250
MAX_PARAM = 6000
MAX_TAG = 5000
HIDDEN = "<path>"

# Inside a text: a file: or sqlite: address, an absolute POSIX path, one under a home folder, a Windows path, a share.
# The look-behinds leave addresses (https://, runs:/, models:/), ratios (mm/s) and relative paths alone.
_PATH = re.compile(
    r"""(?:file:/+|\w+:/{3,})[^\s'",;)\]}>]+
      | (?<!runs:)(?<!models:)(?<!mlflow-artifacts:)(?<![\w/.<>~*\\-])(?:~[\w.-]*)?/(?:[^\s/'",;:)\]}>]+/?)+
      | (?<!\w)[A-Za-z]:[\\/][^\s'",;)\]}>]*
      | \\\\[\w.-]+\\[^\s'",;)\]}>]*""",
    re.VERBOSE,
)
_WHOLE = re.compile(r"(?:/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\|file:/)")


def public(value: Any) -> Any:
    """``value`` (any nesting of mappings, lists, texts, numbers) with every absolute path taken out."""
    if isinstance(value, Mapping):
        return {public(str(key)): public(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [public(item) for item in value]
    if isinstance(value, Path):
        return _hide(str(value)) if value.is_absolute() else value.as_posix()
    if isinstance(value, str):
        # A text that begins as a path is one to its end: folder names may hold blanks.
        if _WHOLE.match(value) and "\n" not in value:
            return _hide(value)
        return _PATH.sub(lambda found: _hide(found.group()), value)
    return value


def public_error(error: MedaeError) -> str:
    """What an error says, with every absolute path taken out. Its place alone is a path to its end, blanks and all."""
    where, remedy = (None if part is None else str(public(part)) for part in (error.where, error.remedy))
    return str(MedaeError(str(public(error.what)), where=where, remedy=remedy))


def _hide(path: str) -> str:
    here = Path.cwd()
    # In a container the working folder may be the root, to which every path is relative.
    if here != here.parent and Path(path).is_relative_to(here):
        return Path(path).relative_to(here).as_posix()
    return HIDDEN


def as_params(values: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """A nested configuration as flat parameters, and the names of those that were too long and are cut short."""
    rows, shortened = {}, []
    for key, value in flatten(public(values)).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        name = as_name(key)
        rows[name] = _shorten(text, MAX_PARAM)
        if rows[name] != text:
            shortened.append(name)
    return rows, shortened


def as_tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Tags as texts of a length that every store takes."""
    return {as_name(key): _shorten(str(public(value)), MAX_TAG) for key, value in values.items()}


def as_name(name: str) -> str:
    """``name`` in the alphabet of MLflow: letters, digits, ``_ - . /`` and blanks, and no ``//`` or ``./`` in it."""
    clean = posixpath.normpath(re.sub(r"[^\w.\- /]", "_", name)).lstrip("./")
    return clean[:MAX_KEY] or "_"


def _shorten(text: str, limit: int) -> str:
    note = f" ... ({len(text)} characters, cut short)"
    return text if len(text) <= limit else text[: limit - len(note)] + note
