"""The Batch: what every objective receives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Plain tensors of one step; S is the plan's spatial dimensions, 2 or 3.

    image: float32 ``[B, C, *S]``, normalised, zero where a channel is absent. present: bool ``[B, C]``.
    mask: bool ``[B, 1, *S]``, true in the foreground. target: by name, integer label maps ``[B, 1, *S]``.
    keys: case ids, one a sample.
    """

    image: Tensor
    present: Tensor
    mask: Tensor
    target: dict[str, Tensor] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        target = {name: move(value) for name, value in self.target.items()}
        return replace(self, image=move(self.image), present=move(self.present), mask=move(self.mask), target=target)

    def __len__(self) -> int:
        return int(self.image.shape[0])
