"""Every random draw as a function of what it is for.

A draw depends on (seed, purpose, step, place in the global batch) and on nothing else: not on the number of
workers, not on what ran before. A resumed run therefore repeats the draws of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. ``seed_for(0, "sampling", step, place)``."""
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(seed_for(seed, *purpose))


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A torch generator for one purpose; on the CPU, so that its numbers are the same on every device."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))


@dataclass(frozen=True)
class Draw:
    """The random numbers of one training step, addressed by name and by place in the global batch.

    seed, step: of the run. first: place of the local batch's first sample in the global batch (over all
    processes). scope: names that lead here; ``draw.scoped("noise")`` is independent of ``draw.scoped("mask")``.
    """

    seed: int
    step: int
    first: int = 0
    scope: tuple[str, ...] = ()

    def scoped(self, name: str) -> Draw:
        """The same step's draws for another purpose."""
        return replace(self, scope=(*self.scope, name))

    def generator(self, place: int) -> torch.Generator:
        """The generator of one sample; ``place`` counts within the local batch."""
        return torch_generator(self.seed, *self.scope, self.step, self.first + place)

    def uniform(self, batch: int, shape: tuple[int, ...] = ()) -> Tensor:
        """Numbers in [0, 1), float32, ``[batch, *shape]``; each sample has its own stream."""
        rows = [torch.rand(shape, generator=self.generator(b)) for b in range(batch)]
        return torch.stack(rows)

    def normal(self, batch: int, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal numbers, float32, ``[batch, *shape]``; each sample has its own stream."""
        rows = [torch.randn(shape, generator=self.generator(b)) for b in range(batch)]
        return torch.stack(rows)


@contextmanager
def seeded_step(seed: int, step: int, process: int = 0) -> Iterator[None]:
    """Seed torch's global generators for one step (dropout, VAE draws) and restore them afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_for(seed, "global", step, process))
        yield
