"""The Output of every network."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Output:
    """What a network returns; S is 2 or 3 spatial dimensions.

    maps: ``[B, K, *S]`` each, finest first; coarser ones only under deep supervision. Logits for segmenters,
    intensities for autoencoders. latent: the bottleneck, ``[B, Z]`` (dense, variational) or ``[B, Z, *S']``.
    extras: further named tensors (``mu``, ``logvar``).
    """

    maps: tuple[Tensor, ...]
    latent: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def finest(self) -> Tensor:
        """The map at the input's resolution."""
        return self.maps[0]
