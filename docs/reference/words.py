"""Types, limits and defaults of configuration keys in words, as YAML has them.

Classes are left as ``{{module:name}}``, to be linked when it is known which section they have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from medae.config import to_dict

TAGS = ("kind", "format")
PLAIN = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    Any: "anything",
    type(None): "null",
}


def reference(model: type[BaseModel]) -> str:
    """The place of a link to a class' section."""
    return f"{{{{{model.__module__}:{model.__qualname__}}}}}"


def type_in_words(annotation: Any, info: FieldInfo | None = None) -> str:
    """A type, and the limits of its field."""
    limits = [] if info is None else _limits(info)
    return ", ".join([_words(annotation), *limits])


def _words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        words = _words(arguments[0])
    elif origin is Literal:
        words = " or ".join(f"`{value}`" for value in arguments)
    elif origin in (Union, UnionType):
        words = " or ".join(dict.fromkeys(_words(part) for part in arguments))
    elif origin is tuple:
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)}: "
        words = f"list of {number}{_words(arguments[0])}"
    elif origin is dict:
        words = f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        words = reference(annotation)
    else:
        words = "regular expression" if "Pattern" in str(annotation) else PLAIN[annotation]
    return words


def _limits(info: FieldInfo) -> Iterator[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for rule in info.metadata:
        for name, sign in signs.items():
            if (bound := getattr(rule, name, None)) is not None:
                yield f"{sign} {bound:g}"


def default_in_words(info: FieldInfo) -> str:
    """The default as JSON, a link where it is a class with the defaults of its own section."""
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        own = type(value)(**{tag: getattr(value, tag) for tag in TAGS if hasattr(value, tag)})
        return reference(type(value)) if value == own else f"`{json.dumps(to_dict(value))}`"
    return "empty" if value in ((), {}) else f"`{json.dumps(value, default=str)}`"


def is_tag(info: FieldInfo) -> bool:
    """Whether a key has one possible value, which only tells one kind from others."""
    return get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1


def tag(model: type[BaseModel]) -> str:
    """What tells a class from the others of its union, such as ``kind `masked```; empty if there are no others."""
    for name in TAGS:
        if (info := model.model_fields.get(name)) is not None and is_tag(info):
            return f"{name} `{get_args(info.annotation)[0]}`"
    return ""
