"""What pydantic finds wrong with a configuration, in the words of the file that a user wrote."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

TAGS = ("kind", "format")
"""Keys by which one of several blocks is chosen."""


def problem_line(model: type[BaseModel], problem: ErrorDetails) -> str:
    """``key: what is wrong with it``, the key as in the YAML, by dots."""
    path, models = _walk(model, problem["loc"])
    return f"{'.'.join(path) or '(whole)'}: {_sentence(problem, models)}"


def _walk(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path without the tags of unions, which no file has, and the blocks that the last key may belong to."""
    path: list[str] = []
    owners, inside = [model], [model]
    for place, part in enumerate(location):
        found = [kind.model_fields[part].annotation for kind in inside if part in kind.model_fields]
        tagged = [kind for kind in inside if part in _tags(kind)]
        if found:
            owners, inside = inside, [kind for annotation in found for kind in _models(annotation)]
        elif tagged and place:
            inside = tagged
            continue
        elif isinstance(part, str):
            if "[" in part:  # one of the types that a value may have
                continue
            owners = inside
        path.append(str(part))
    return path, owners


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The blocks that may stand where the annotation does."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    return tuple(tag for key in TAGS if key in model.model_fields for tag in get_args(model.model_fields[key].annotation))


def _sentence(problem: ErrorDetails, owners: list[type[BaseModel]]) -> str:
    kind, given, context = problem["type"], problem["input"], problem.get("ctx", {})
    tag = str(context.get("discriminator", "")).strip("'").removesuffix("()").rpartition("_")[2]  # of a key, or a function
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return _unknown(str(problem["loc"][-1]), sorted({key for owner in owners for key in owner.model_fields}))
    if kind == "union_tag_not_found":
        return f"{tag} is missing; it says which of several blocks this is"
    if kind == "union_tag_invalid":
        expected = [name.strip().strip("'") for name in str(context["expected_tags"]).split(",")]
        nearest = _nearest(str(context["tag"]), expected)
        return f"{tag} '{context['tag']}' is unknown; choose one of {', '.join(expected)}{nearest}"
    sentence = problem["msg"].removeprefix("Value error, ")
    if sentence.startswith("Input should "):
        shown = f", not {given!r}" if isinstance(given, (str, int, float)) else ""
        wanted = re.sub(
            r"a valid dictionary or (instance|object) .*", "a block of keys", sentence.removeprefix("Input should ")
        )
        return f"should {wanted.replace('a valid ', 'a ')}{shown}"
    return sentence


def _unknown(key: str, known: list[str]) -> str:
    return f"is unknown{_nearest(key, known) or '; known here: ' + ', '.join(known)}"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
