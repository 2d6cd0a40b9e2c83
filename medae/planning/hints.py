"""What a user may fix of a plan, and what a rule gives."""

from __future__ import annotations

from typing import Generic, Literal, NamedTuple, TypeVar

from pydantic import Field, field_validator

from medae.config import Config
from medae.plan import BrainFinder, Foreground, IntensityScheme, Millimetres
from medae.planning.memory import bytes_of

T = TypeVar("T")


class PlanHints(Config):
    """What the user fixes; None leaves it to the rules.

    slice_axis: implies 2 spatial dimensions. slices: that a network of slices sees at a time, its own in the middle.
    spacing: mm along I, J, K, None within it keeps an axis as it is.
    widths: one entry a level. kernel: of the convolutions, odd, where the rules have 3. patch: along the spatial dimensions.
    memory: that a training step may take, such as 8G (or 8GiB, 8192M, 8GB for 8 billion bytes); patch and batch are made to
    fit.
    """

    spatial_dims: Literal[2, 3] | None = None
    slice_axis: Literal[0, 1, 2] | None = None
    slices: int | None = Field(default=None, ge=1)
    spacing: tuple[Millimetres | None, Millimetres | None, Millimetres | None] | None = None
    intensity: IntensityScheme | None = None
    foreground: Foreground | None = None
    brain_from: tuple[str, ...] | None = None
    brain_extraction: BrainFinder | None = None
    bias_correction: Literal["none", "n4"] | None = None
    stem: Literal["plain", "space_to_depth"] | None = None
    downsampling: Literal["strided", "maxpool"] | None = None
    levels: int | None = Field(default=None, ge=1)
    widths: tuple[int, ...] | None = Field(default=None, min_length=1)
    kernel: int | None = Field(default=None, ge=1)
    patch: tuple[int, ...] | None = Field(default=None, min_length=2, max_length=3)
    batch: int | None = Field(default=None, ge=1)
    memory: str | None = None

    @field_validator("memory")
    @classmethod
    def _readable(cls, memory: str | None) -> str | None:
        if memory is not None:
            bytes_of(memory)
        return memory

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int | None) -> int | None:
        if kernel is not None and kernel % 2 == 0:
            raise ValueError("kernel is odd, so that a convolution has a centre")
        return kernel


class Choice(NamedTuple, Generic[T]):
    """A value and why it was chosen."""

    value: T
    reason: str


def or_default(hint: T | None, value: T, reason: str) -> Choice[T]:
    """The user's choice, else a value that no fingerprint decides."""
    return Choice(value, reason) if hint is None else given(hint)


def given(value: T) -> Choice[T]:
    """What the user fixed."""
    return Choice(value, "given")
