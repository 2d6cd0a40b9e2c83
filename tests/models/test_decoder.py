from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medae.models.decoder import Decoder, DecoderConfig
from medae.models.encoder import Encoder, EncoderConfig


def encoder_config(stem: str = "plain", **changes: Any) -> EncoderConfig:
    first = (1, 1) if stem == "plain" else (2, 2)
    values: dict[str, Any] = {"spatial_dims": 2, "stem": stem, "widths": (4, 6, 8), "strides": (first, (2, 2), (2, 2))}
    return EncoderConfig(**(values | {"kernels": ((3, 3),) * 3} | changes))


def run(encoder: EncoderConfig, config: DecoderConfig, size: tuple[int, int] = (13, 10)) -> tuple[Decoder, tuple[Any, ...]]:
    torch.manual_seed(0)
    features = Encoder(encoder)(torch.randn(2, 1, *size))
    decoder = Decoder(encoder, config)
    return decoder, decoder(features.levels[-1], features)


@pytest.mark.parametrize(
    ("stem", "shapes"),
    [
        ("plain", [(2, 4, 13, 10), (2, 6, 7, 5)]),
        ("space_to_depth", [(2, 8, 13, 10), (2, 4, 7, 5), (2, 6, 4, 3)]),
    ],
)
def test_maps_come_finest_first_and_the_finest_has_the_images_size(stem: str, shapes: list[tuple[int, ...]]):
    decoder, maps = run(encoder_config(stem), DecoderConfig())
    assert [tuple(x.shape) for x in maps] == shapes
    assert decoder.channels == tuple(shape[1] for shape in shapes)


def test_after_a_space_to_depth_stem_one_convolution_runs_at_full_resolution():
    sizes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def note(layer: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        sizes.append((tuple(output.shape[2:]), layer.kernel_size))

    encoder = encoder_config("space_to_depth", blocks=3)
    net, decoder = Encoder(encoder), Decoder(encoder, DecoderConfig(blocks=3, skips="concat"))
    for module in [*net.modules(), *decoder.modules()]:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)  # type: ignore[arg-type]
    features = net(torch.randn(1, 1, 16, 12))
    decoder(features.levels[-1], features)
    assert [kernel for size, kernel in sizes if size == (16, 12)] == [(3, 3)]


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("kind", ["concat", "sum"])
def test_a_skip_joins_its_own_level_and_no_other(level: int, kind: Any):
    encoder = encoder_config()
    decoder = Decoder(encoder, DecoderConfig(skips=tuple(kind if i == level else "none" for i in range(2))))
    features = Encoder(encoder)(torch.randn(1, 1, 12, 12))
    levels = [x.detach().requires_grad_() for x in features.levels[:2]]
    changed = type(features)((*levels, features.levels[-1]), features.indices, features.sizes)
    decoder(features.levels[-1].detach(), changed)[0].square().mean().backward()
    assert [x.grad is not None and bool(x.grad.any()) for x in levels] == [i == level for i in range(2)]


def test_a_concatenated_skip_comes_after_what_was_upsampled():
    decoder, _ = run(encoder_config(), DecoderConfig(skips="concat"))
    plain, _ = run(encoder_config(), DecoderConfig())
    wide, narrow = decoder.levels[0].blocks[0].conv.weight, plain.levels[0].blocks[0].conv.weight
    assert wide.shape[1] == 2 * narrow.shape[1]
    encoder = encoder_config()
    features = Encoder(encoder)(torch.randn(1, 1, 12, 12))
    state = plain.state_dict()
    for level in range(2):
        weight = torch.zeros_like(decoder.levels[level].blocks[0].conv.weight)
        weight[:, : weight.shape[1] // 2] = state[f"levels.{level}.blocks.0.conv.weight"]
        state[f"levels.{level}.blocks.0.conv.weight"] = weight
    decoder.load_state_dict(state)
    bottom = features.levels[-1]
    torch.testing.assert_close(decoder(bottom, features)[0], plain(bottom, features)[0])


def test_a_sum_is_a_sum():
    encoder = encoder_config(norm="none")
    features = Encoder(encoder)(torch.randn(1, 1, 12, 12))
    summed, plain = Decoder(encoder, DecoderConfig(skips="sum")), Decoder(encoder, DecoderConfig())
    plain.load_state_dict(summed.state_dict())
    empty = type(features)((*(torch.zeros_like(x) for x in features.levels[:2]), features.levels[-1]), *_rest(features))
    bottom = features.levels[-1]
    torch.testing.assert_close(summed(bottom, empty)[0], plain(bottom, features)[0])
    level, x = summed.levels[1], torch.randn(1, 8, 3, 3)
    up = level.up(x, (6, 6))
    expected = level.blocks[0](up + features.levels[1])
    torch.testing.assert_close(level(x, features.levels[1], (6, 6), None), expected)


def _rest(features: Any) -> tuple[Any, Any]:
    return features.indices, features.sizes


def test_what_does_not_fit_the_encoder_is_refused_in_plain_words():
    with pytest.raises(ValueError, match="no maxima"):
        DecoderConfig(upsampling="max_unpool").check(encoder_config())
    with pytest.raises(ValueError, match="3 entries; an encoder of 3 levels takes 2"):
        Decoder(encoder_config(), DecoderConfig(skips=("none", "sum", "sum")))


def test_shortcuts_are_named():
    pooled = encoder_config(downsampling="maxpool")
    assert DecoderConfig().shortcuts(pooled) == ()
    assert DecoderConfig(skips=("sum", "concat"), upsampling="max_unpool").shortcuts(pooled) == (
        "skip connections (concat)",
        "skip connections (sum)",
        "max-pooling indices",
    )


def test_a_networks_own_choice_fills_what_was_left_open_and_nothing_else():
    assert DecoderConfig().filled(skips="concat") == DecoderConfig(upsampling="linear", skips="concat")
    chosen = DecoderConfig(upsampling="cubic", skips="none")
    assert chosen.filled("max_unpool", "concat") == chosen


@pytest.mark.parametrize(("stem", "shapes"), [("plain", [4, 4]), ("space_to_depth", [8, 4, 4])])
@pytest.mark.parametrize("skips", ["none", "concat"])
def test_a_light_decoder_is_narrow_at_every_level(stem: str, shapes: list[int], skips: Any):
    encoder = encoder_config(stem, widths=(16, 24, 32))
    light, maps = run(encoder, DecoderConfig(width=4, skips=skips))
    assert [x.shape[1] for x in maps] == shapes == list(light.channels)
    full = Decoder(encoder, DecoderConfig(skips=skips))
    assert 4 * sum(p.numel() for p in light.parameters()) < sum(p.numel() for p in full.parameters())


def test_a_light_decoder_cannot_add_what_is_wider():
    encoder = encoder_config()
    with pytest.raises(ValueError, match="width is 5 and the encoder's 4"):
        DecoderConfig(width=5, skips="sum").check(encoder)
    DecoderConfig(width=4, skips=("sum", "none")).check(encoder)
