"""What a bundle has in the place of pydantic and of `medae.config`: configurations are built, and not checked.

They were checked, and completed with every default, when the model was stored. So a bundle needs no pydantic, whose
version 1 is still in the environments of some programs that run bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from medae.export.bundled import absent

F = TypeVar("F")


class Field:
    """The default of a field; limits are not checked."""

    def __init__(self, default: Any = None, *, default_factory: Callable[[], Any] | None = None, **_limits: Any) -> None:
        self.default, self.factory = default, default_factory

    def value(self) -> Any:
        """A default of its own for every configuration."""
        return self.default if self.factory is None else self.factory()


class Config:
    """Attributes from values by name, as the annotations of the class say: see `read`."""

    def __init__(self, **values: Any) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            if name in values:
                self.__dict__[name] = read(kind, values[name])
            else:
                default = getattr(type(self), name)
                self.__dict__[name] = default.value() if isinstance(default, Field) else default

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """The same with other values."""
        return type(self)(**{**self.__dict__, **update})


BaseModel = Config
ConfigDict = dict
PositiveInt = int


def AfterValidator(_check: Callable[[Any], Any]) -> None:
    """Nothing: what it completes was completed when the model was stored."""


def model_validator(**_how: Any) -> Callable[[F], F]:
    """The decorated check, which nobody calls."""
    return lambda check: check


def __getattr__(name: str) -> Any:
    """Functions that read and check configurations are absent."""
    return getattr(absent, name)


def read(kind: Any, value: Any) -> Any:
    """A value of plain JSON types as its annotation says: lists as tuples, blocks of keys as configurations."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return read(arguments[0], value)
    if origin in (Union, UnionType):
        return read(_choice(arguments, value), value)
    if origin is tuple:
        kinds = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(read(each, item) for each, item in zip(kinds, value, strict=True))
    if origin is dict:
        return {_key(arguments[0], key): read(arguments[1], item) for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, Config) and isinstance(value, Mapping):
        return kind(**value)
    return value


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    """Which of a union's alternatives a value is: by ``kind``, else by its shape."""
    flat = [choice for each in choices for choice in _alternatives(each)]
    if isinstance(value, Mapping):
        blocks = [choice for choice in flat if isinstance(choice, type) and issubclass(choice, Config)]
        return next(block for block in blocks if value.get("kind") == getattr(block, "kind", None))
    if isinstance(value, (list, tuple)):
        return next(choice for choice in flat if get_origin(choice) is tuple)
    return Any


def _alternatives(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [choice for each in get_args(kind) for choice in _alternatives(each)]
    return [] if kind is NoneType else [kind]


def _key(kind: Any, key: str) -> Any:
    """JSON has texts for keys."""
    return int(key) if kind is int else key
