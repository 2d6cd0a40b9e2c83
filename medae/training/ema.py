"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A second copy of a model whose weights trail behind the first's.

    The decay in step ``s`` (from 0) is min(decay, (1 + s) / (10 + s)), so that the random start is soon forgotten;
    it depends on the step alone. Buffers (running statistics of batch norm) are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = [mine.detach() for mine in self.model.parameters()]
        current = [theirs.detach() for theirs in model.parameters()]
        torch._foreach_lerp_(average, current, 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
