"""Encoders for objectives that ask for one."""

from __future__ import annotations

from medae.models.encoder import EncoderConfig


def encoder_with(*cell: int) -> EncoderConfig:
    """The shape of an encoder whose bottleneck has a cell of so many voxels along each axis."""
    dims = len(cell)
    strides = ((1,) * dims, cell)
    return EncoderConfig(
        spatial_dims=dims, widths=(2, 2), strides=strides, kernels=((1,) * dims, (3,) * dims), downsampling="maxpool"
    )
