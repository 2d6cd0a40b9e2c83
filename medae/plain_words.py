"""What pydantic finds wrong with a configuration, in the words of the file that a user wrote."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

TAGS = ("kind", "format")
"""Keys by which one of several blocks is chosen."""


def problem_lines(model: type[BaseModel], problems: Iterable[ErrorDetails]) -> list[str]:
    """``key: what is wrong with it``, a line a key; the key as in the YAML, joined by dots, or none if keys do not fit."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        path, owner, here = _walk(model, problem["loc"])
        found.setdefault(".".join(path), []).append(_sentence(problem, owner, here))
    lines = {path: ", or ".join(dict.fromkeys(sentences)) for path, sentences in found.items()}
    return [f"{path}: {line}" if path else line for path, line in lines.items()]


def _walk(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel], Any]:
    """The path without pydantic's names for the alternatives of a union, the block of its last key, and its type."""
    path: list[str] = []
    owner: type[BaseModel] = model
    here: Any = model
    for part in location:
        choices = _alternatives(here)
        if len(choices) > 1:
            here = next((choice for choice in choices if _is_called(choice, str(part))), Any)
            continue
        here = choices[0] if choices else Any
        if isinstance(here, type) and issubclass(here, BaseModel):
            owner = here
            here = here.model_fields[str(part)].annotation if str(part) in here.model_fields else Any
        else:
            here = next(iter([each for each in get_args(here)[::-1] if each is not ...]), Any)
        path.append(str(part))
    return path, owner, here


def _alternatives(annotation: Any) -> list[Any]:
    """What may stand there, without null."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        found = [choice for each in get_args(annotation) for choice in _alternatives(each)]
        return [choice for choice in found if choice is not NoneType]
    return [annotation]


def _is_called(choice: Any, name: str) -> bool:
    """Whether pydantic calls this alternative so: by its tag, or by its type."""
    if isinstance(choice, type) and issubclass(choice, BaseModel):
        return name in (choice.__name__, *_tags(choice).values())
    kind = "literal" if get_origin(choice) is Literal else (get_origin(choice) or choice).__name__
    return name.startswith(kind)


def _tags(model: type[BaseModel]) -> dict[str, Any]:
    """The key that chooses this block, and its value."""
    found = {key: get_args(model.model_fields[key].annotation) for key in TAGS if key in model.model_fields}
    return {key: values[0] for key, values in found.items() if len(values) == 1}


def _sentence(problem: ErrorDetails, owner: type[BaseModel], here: Any) -> str:
    kind, given, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return _unknown(str(problem["loc"][-1]), list(owner.model_fields))
    blocks = [choice for choice in _alternatives(here) if isinstance(choice, type) and issubclass(choice, BaseModel)]
    tags = {value: key for block in blocks for key, value in _tags(block).items()}
    if tags and (kind.startswith("union_tag") or (len(blocks) > 1 and kind == "model_attributes_type")):
        return _unchosen(given, tags, context.get("tag"))
    sentence = problem["msg"].removeprefix("Value error, ")
    if sentence.startswith("Input should "):
        shown = f", not {given!r}" if isinstance(given, (str, int, float)) else ""
        wanted = (
            sentence.removeprefix("Input should ")
            .replace("a valid i", "an i")
            .replace("valid ", "")
            .replace("tuple", "list")
        )
        return f"should {re.sub('a dictionary or (instance|object) .*', 'a block of keys', wanted)}{shown}"
    return sentence


def _unchosen(given: Any, tags: dict[str, str], tag: str | None) -> str:
    """None of several blocks was chosen. tags: the value that chooses each, and its key."""
    (key, *_) = tags.values()
    choices = f"choose one of {', '.join(tags)}"
    if not isinstance(given, (dict, BaseModel)):
        return f"should be a block of keys with a {key}: {choices}"
    if tag is None:
        return f"{key} is missing: {choices}"
    return f"{key} '{tag}' is unknown: {choices}{nearest(tag, list(tags))}"


def _unknown(key: str, known: list[str]) -> str:
    return f"is unknown{nearest(key, known) or '; known here: ' + ', '.join(sorted(known))}"


def nearest(name: str, known: list[str]) -> str:
    """``; did you mean NAME?`` for what is nearly a known name, else nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
