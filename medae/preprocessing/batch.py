"""The Batch: what every objective receives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Plain tensors of one step; S is the plan's spatial dimensions, 2 or 3.

    image: float32 ``[B, slices x C, *S]``, normalised, zero where a channel is absent. present: bool ``[B, C]``. slices:
    that the image is of, one after the other; mask and target are those of the middle one.
    mask: bool ``[B, 1, *S]``, true in the foreground. target: by name, integer label maps ``[B, 1, *S]``.
    keys: case ids, one a sample. streams: batches of the same step that were drawn beside this one, by name (unlabelled
    scans beside labelled ones); each may have another number of samples.
    """

    image: Tensor
    present: Tensor
    mask: Tensor
    target: dict[str, Tensor] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    streams: dict[str, Batch] = field(default_factory=dict)
    slices: int = 1

    @property
    def centre(self) -> Tensor:
        """The image of the middle slice, which is the whole image in 3D: ``[B, C, *S]``."""
        return self.middle(self.image)

    def middle(self, values: Tensor) -> Tensor:
        """``[B, slices x C, *S]`` of the middle slice: ``[B, C, *S]``."""
        return values.chunk(self.slices, dim=1)[self.slices // 2]

    def in_every_slice(self, values: Tensor) -> Tensor:
        """``[B, C, *S]`` for each of the slices: ``[B, slices x C, *S]``."""
        return values.repeat(1, self.slices, *[1] * (values.ndim - 2))

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        target = {name: move(value) for name, value in self.target.items()}
        streams = {name: other.to(device, non_blocking) for name, other in self.streams.items()}
        moved = replace(self, image=move(self.image), present=move(self.present), mask=move(self.mask), target=target)
        return replace(moved, streams=streams)

    def laid_out(self, layout: torch.memory_format) -> Batch:
        """The same batch with every image in a memory layout."""
        streams = {name: other.laid_out(layout) for name, other in self.streams.items()}
        return replace(self, image=self.image.contiguous(memory_format=layout), streams=streams)

    def first(self, count: int) -> Batch:
        """At most so many samples, without the streams beside them."""
        target = {name: value[:count] for name, value in self.target.items()}
        return Batch(
            self.image[:count], self.present[:count], self.mask[:count], target, self.keys[:count], slices=self.slices
        )

    def __len__(self) -> int:
        return int(self.image.shape[0])
