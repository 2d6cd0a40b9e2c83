"""The decoder: a level at a time, upsampling then convolutions, with skips from the encoder where wanted."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medae.config import Config
from medae.models.blocks import ConvBlock
from medae.models.encoder import EncoderConfig, Features
from medae.models.upsampling import Upsampler, UpsamplingKind

SkipKind = Literal["none", "concat", "sum"]

LEAST_FULL_WIDTH = 8


class DecoderConfig(Config):
    """How a bottleneck becomes features at the image's resolution.

    upsampling: the way up between levels; None is the network's own choice, max_unpool in a SegNet, linear elsewhere. A
    space-to-depth stem is always undone by its inverse, a sub-pixel convolution.
    skips: from which encoder levels features are joined: one kind for all, or one a level except the coarsest (levels - 1
    entries, finest first); None is the network's own choice, concat in a U-Net, none elsewhere.
    blocks: plain convolution blocks a level. Norm and activation are the encoder's.
    width: channels of every level, for a decoder much lighter than its encoder; None is the encoder's width of that level.
    """

    upsampling: UpsamplingKind | None = None
    skips: SkipKind | tuple[SkipKind, ...] | None = None
    blocks: int = Field(default=1, ge=1)
    width: int | None = Field(default=None, ge=1)

    def widths(self, encoder: EncoderConfig) -> tuple[int, ...]:
        """Channels of the decoder's levels, finest first, without the bottleneck's."""
        own = encoder.widths[:-1]
        return own if self.width is None else (self.width,) * len(own)

    def skip_kinds(self, levels: int) -> tuple[SkipKind, ...]:
        """The kind of each skip, finest first, for an encoder of that many levels."""
        return self.skips if isinstance(self.skips, tuple) else (self.skips or "none",) * (levels - 1)

    def filled(self, upsampling: UpsamplingKind = "linear", skips: SkipKind = "none") -> DecoderConfig:
        """The same configuration with a network's own choices in the place of None."""
        return self.model_copy(update={"upsampling": self.upsampling or upsampling, "skips": self.skips or skips})

    def check(self, encoder: EncoderConfig) -> None:
        """Raise ValueError, in plain words, if this decoder does not fit the encoder."""
        if self.upsampling == "max_unpool" and encoder.downsampling != "maxpool":
            raise ValueError(
                "max_unpool puts values back to where maxima came from, but this encoder downsamples by strided "
                "convolutions and has no maxima: choose downsampling maxpool (plan.downsampling), or another "
                "decoder.upsampling"
            )
        entries = len(self.skip_kinds(encoder.levels))
        if entries != encoder.levels - 1:
            raise ValueError(
                f"decoder.skips has {entries} entries; an encoder of {encoder.levels} levels takes "
                f"{encoder.levels - 1}, finest first: every level but the coarsest, which is the decoder's input"
            )
        for kind, own, theirs in zip(self.skip_kinds(encoder.levels), self.widths(encoder), encoder.widths, strict=False):
            if kind == "sum" and own != theirs:
                raise ValueError(
                    f"a skip by sum needs as many channels on both sides, but the decoder's width is {own} and the "
                    f"encoder's {theirs} there: leave decoder.width out or join by concat"
                )

    def check_supervision(self, encoder: EncoderConfig) -> None:
        """Raise ValueError if the decoder has one map alone, so that deep supervision has no level to supervise."""
        if encoder.levels == 2 and encoder.stem == "plain":
            raise ValueError(
                "deep_supervision needs a level between the bottleneck and the image, and a network of two levels has none: "
                "leave it out, or plan more levels"
            )

    def shortcuts(self, encoder: EncoderConfig) -> tuple[str, ...]:
        """What carries location past the bottleneck, in words."""
        kinds = self.skip_kinds(encoder.levels)
        found = [f"skip connections ({kind})" for kind in ("concat", "sum") if kind in kinds]
        return (*found, "max-pooling indices") if self.upsampling == "max_unpool" else tuple(found)


class _Level(nn.Module):
    """From one level to the next finer one: up, join the skip, convolve. last: its features are the decoder's finest."""

    def __init__(self, encoder: EncoderConfig, config: DecoderConfig, level: int, last: bool):
        super().__init__()
        widths = (*config.widths(encoder), encoder.widths[-1])
        width = widths[level]
        self.skip = config.skip_kinds(encoder.levels)[level]
        self.up = Upsampler(config.upsampling or "linear", widths[level + 1], width, encoder.strides[level + 1])
        joined = width + encoder.widths[level] if self.skip == "concat" else width
        self.blocks = nn.ModuleList()
        for place in range(config.blocks):
            activation = None if last and place == config.blocks - 1 else encoder.activation
            inputs = width if place else joined
            self.blocks.append(ConvBlock(inputs, width, encoder.kernels[level], encoder.norm, activation))

    def forward(self, x: Tensor, skip: Tensor, size: tuple[int, ...], indices: Tensor | None) -> Tensor:
        x = self.up(x, size, indices)
        if self.skip == "concat":
            x = torch.cat((x, skip), 1)  # upsampled first, so that weights trained without skips fit the first half
        elif self.skip == "sum":
            x = x + skip
        for block in self.blocks:
            x = block(x)
        return x


class _Full(nn.Module):
    """From a space-to-depth stem's grid to the image's: a sub-pixel convolution, then the only one at full resolution."""

    def __init__(self, encoder: EncoderConfig, inputs: int, width: int):
        super().__init__()
        self.up = Upsampler("pixelshuffle", inputs, width, encoder.strides[0])
        self.block = ConvBlock(width, width, encoder.kernels[0], encoder.norm, activation=None)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        return self.block(self.up(x, size))


class Decoder(nn.Module):
    """Every level's features on the way up. ``channels``: of each map that it returns, finest first.

    The finest map is not rectified. A norm puts zero at the mean of a channel, which is background where a structure is
    rare; with few channels, all of them then tend to be at work in the background and silent in the structure, a rectifier
    lets nothing of it through, and its label is never found.
    """

    def __init__(self, encoder: EncoderConfig, config: DecoderConfig):
        super().__init__()
        config.check(encoder)
        self.config = config
        full = encoder.stem == "space_to_depth"
        self.levels = nn.ModuleList(
            _Level(encoder, config, level, last=level == 0 and not full) for level in range(encoder.levels - 1)
        )
        self.full: _Full | None = None
        self.channels: tuple[int, ...] = config.widths(encoder)
        if full:
            width = max(LEAST_FULL_WIDTH, self.channels[0] // 4)
            self.full = _Full(encoder, self.channels[0], width)
            self.channels = (width, *self.channels)

    def forward(self, bottleneck: Tensor, features: Features) -> tuple[Tensor, ...]:
        """Maps, finest first.

        bottleneck: ``[B, widths[-1], *S']``, in the place of the encoder's coarsest features. The finest map has the
        image's size; then one map a level, down to the last but one.
        """
        x = bottleneck
        maps: list[Tensor] = []
        for level in reversed(range(len(self.levels))):
            x = self.levels[level](x, features.levels[level], features.sizes[level + 1], features.indices[level + 1])
            maps.insert(0, x)
        if self.full is not None:
            maps.insert(0, self.full(x, features.sizes[0]))
        return tuple(maps)
