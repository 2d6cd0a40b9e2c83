from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from medae.models.blocks import NormKind
from medae.models.encoder import Encoder, EncoderConfig, adapt_stem, stem_parameters


def config(dims: int = 3, **changes: Any) -> EncoderConfig:
    values: dict[str, Any] = {
        "spatial_dims": dims,
        "stem": "space_to_depth",
        "widths": (4, 6, 8),
        "strides": ((2,) * dims,) * 3,
        "kernels": ((3,) * dims,) * 3,
    }
    return EncoderConfig(**(values | changes))


def test_shapes_indices_and_sizes_of_every_level():
    encoder = Encoder(config(downsampling="maxpool", strides=((1, 2, 2), (2, 2, 1), (2, 2, 2)), in_channels=2))
    features = encoder(torch.randn(2, 2, 9, 11, 7))
    assert [tuple(x.shape) for x in features.levels] == [(2, 4, 9, 6, 4), (2, 6, 5, 3, 4), (2, 8, 3, 2, 2)]
    assert features.sizes == ((9, 11, 7), (9, 6, 4), (5, 3, 4))
    assert features.indices[0] is None
    assert [tuple(x.shape) for x in features.indices[1:] if x is not None] == [(2, 4, 5, 3, 4), (2, 6, 3, 2, 2)]


def test_the_configuration_knows_sizes_and_cell():
    cfg = config(strides=((1, 2, 2), (2, 2, 1), (2, 2, 2)))
    assert cfg.cell == (4, 8, 4)
    assert cfg.sizes((9, 11, 7)) == ((9, 6, 4), (5, 3, 4), (3, 2, 2))
    assert cfg.levels == 3
    features = Encoder(cfg)(torch.randn(1, 1, 9, 11, 7))
    assert tuple(tuple(x.shape[2:]) for x in features.levels) == cfg.sizes((9, 11, 7))
    assert features.indices == (None, None, None)


def test_an_axis_of_one_voxel_is_no_obstacle():
    cfg = config(strides=((1, 2, 2), (1, 2, 2), (1, 2, 2)), kernels=((1, 3, 3),) * 3)
    assert Encoder(cfg)(torch.randn(1, 1, 1, 16, 16)).levels[-1].shape == (1, 8, 1, 2, 2)
    assert Encoder(config())(torch.randn(1, 1, 1, 16, 16)).levels[-1].shape == (1, 8, 1, 2, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": (4, 6)}, "one entry a level"),
        ({"widths": (4,), "strides": ((2, 2, 2),), "kernels": ((3, 3, 3),)}, "at least two levels"),
        ({"strides": ((2, 2),) * 3}, "needs 3 numbers"),
        ({"kernels": ((3, 3, 2),) * 3}, "must be odd"),
        ({"strides": ((2, 2, 2), (2, 0, 2), (2, 2, 2))}, "1 or more"),
        ({"stem": "plain"}, "full resolution"),
        ({"strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2))}, "needs its factor"),
        ({"kernels": ((3, 3, 3), (3, 3, 1), (3, 3, 3))}, "would skip voxels"),
        ({"dropout": 1.0}, "less than 1"),
        ({"norm": "layer"}, "'instance'"),
        ({"depth": 3}, "Extra inputs"),
    ],
)
def test_what_contradicts_itself_is_refused_in_plain_words(changes: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words):
        config(**changes)


def test_max_pooling_takes_kernels_smaller_than_the_stride():
    assert config(kernels=((1, 1, 1),) * 3, downsampling="maxpool").kernels[1] == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 2, 8, 8, 8), "expects an image"), ((1, 1, 8, 8), "expects an image"), ((1, 1, 8, 8, 8), "single voxel")],
)
def test_images_that_do_not_fit_are_refused_in_plain_words(shape: tuple[int, ...], words: str):
    with pytest.raises(ValueError, match=words):
        Encoder(config())(torch.randn(shape))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="visible must have shape"):
        Encoder(config(2))(torch.randn(1, 1, 16, 16), torch.ones(1, 1, 16, 8, dtype=torch.bool))


def block_mask(size: tuple[int, ...], cell: tuple[int, ...], share: float) -> torch.Tensor:
    coarse = torch.rand(2, 1, *(math.ceil(n / c) for n, c in zip(size, cell, strict=True))) < share
    coarse.view(-1)[0] = True
    for axis, c in enumerate(cell):
        coarse = coarse.repeat_interleave(c, axis + 2)
    return coarse[(..., *(slice(n) for n in size))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
@pytest.mark.parametrize("downsampling", ["strided", "maxpool"])
@pytest.mark.parametrize("block", ["plain", "residual"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mask", ["blocks", "voxels"])
def test_nothing_of_a_hidden_voxel_reaches_any_feature(
    dims: int, block: str, downsampling: str, norm: NormKind, training: bool, mask: str
):
    torch.manual_seed(0)
    size = (21, 17, 18)[:dims]
    encoder = Encoder(config(dims, block=block, downsampling=downsampling, norm=norm, blocks=2)).train(training)
    visible = block_mask(size, encoder.config.cell, 0.4) if mask == "blocks" else torch.rand(2, 1, *size) < 0.4
    image = torch.randn(2, 1, *size)
    perturbed = torch.where(visible, image, 1e3 * torch.randn_like(image))
    perturbed.masked_fill_(~visible & (torch.rand_like(image) < 0.1), math.nan)
    with torch.no_grad():
        features, others = encoder(image, visible), encoder(perturbed, visible)
        seen_more = encoder(image)
    for level, other in zip(features.levels, others.levels, strict=True):
        assert torch.equal(level, other)
    assert torch.isfinite(features.levels[-1]).all()
    assert not torch.allclose(features.levels[-1], seen_more.levels[-1])  # the mask is not ignored


@pytest.mark.parametrize("downsampling", ["strided", "maxpool"])
def test_hidden_cells_are_empty_at_the_bottleneck(downsampling: str):
    encoder = Encoder(config(2, downsampling=downsampling))
    visible = block_mask((32, 24), encoder.config.cell, 0.4)
    bottleneck = encoder(torch.randn(2, 1, 32, 24), visible).levels[-1]
    assert torch.equal((bottleneck != 0).any(1, keepdim=True), visible[:, :, ::8, ::8])


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
@pytest.mark.parametrize("downsampling", ["strided", "maxpool"])
def test_with_everything_visible_the_sparse_encoder_is_the_dense_one(norm: NormKind, downsampling: str):
    torch.manual_seed(0)
    encoder = Encoder(config(norm=norm, downsampling=downsampling))
    image = torch.randn(2, 1, 15, 18, 17)
    dense, sparse = encoder(image), encoder(image, torch.ones_like(image, dtype=torch.bool))
    # cells that are cut off at the border are padded with zeros in both
    for a, b in zip(dense.levels, sparse.levels, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("block", ["plain", "residual"])
@pytest.mark.parametrize("stem", ["plain", "space_to_depth"])
def test_a_stem_for_more_channels_gives_the_same_features_for_equal_channels(block: str, stem: str):
    strides = ((1 if stem == "plain" else 2,) * 2, (2, 2), (2, 2))
    source = Encoder(config(2, block=block, stem=stem, strides=strides, in_channels=2))
    target = Encoder(config(2, block=block, stem=stem, strides=strides, in_channels=3))
    state = source.state_dict()
    shapes = {name for name, value in target.state_dict().items() if value.shape != state[name].shape}
    assert set(stem_parameters(source.config)) == shapes  # these tensors and no others depend on the channels
    for name in shapes:
        state[name] = adapt_stem(state[name], ("t1", "flair"), ("a", "b", "c"))
    target.load_state_dict(state)
    image = torch.randn(1, 1, 17, 16)
    a = source(image.expand(1, 2, 17, 16)).levels[-1]
    torch.testing.assert_close(target(image.expand(1, 3, 17, 16)).levels[-1], a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stem", ["plain", "space_to_depth"])
def test_channels_in_another_order_give_the_same_features(stem: str):
    strides = ((1 if stem == "plain" else 2,) * 2, (2, 2), (2, 2))
    source = Encoder(config(2, stem=stem, strides=strides, in_channels=2))
    target = Encoder(source.config)
    state = source.state_dict()
    for name in stem_parameters(source.config):
        state[name] = adapt_stem(state[name], ("t1", "flair"), ("flair", "t1"))
    target.load_state_dict(state)
    image = torch.randn(1, 2, 16, 16)
    torch.testing.assert_close(target(image.flip(1)).levels[-1], source(image).levels[-1], rtol=1e-4, atol=1e-5)


def test_a_channel_that_is_known_keeps_its_filters_and_a_new_one_gets_the_mean():
    weight = torch.tensor([[1.0, 3.0]]).reshape(1, 2, 1, 1)
    found = adapt_stem(weight, ("t1", "flair"), ("t2", "flair", "t1"))
    assert found.flatten().tolist() == pytest.approx([2 * 2 / 3, 3 * 2 / 3, 1 * 2 / 3])
    assert adapt_stem(weight, ("t1", "flair"), ("flair",)).flatten().tolist() == [6.0]
    assert adapt_stem(weight, ("t1", "flair"), ("CT", "PET")).flatten().tolist() == [1.0, 3.0], "by place"


@pytest.mark.parametrize("block", ["plain", "residual"])
def test_the_names_of_the_parameters_do_not_depend_on_the_number_of_channels(block: str):
    one, two = (Encoder(config(2, block=block, in_channels=n)).state_dict() for n in (1, 2))  # 1 x 4 channels = first width
    assert set(one) == set(two)


def test_dropout_is_drawn_from_torchs_global_generator_in_training_alone():
    encoder = Encoder(config(2, dropout=0.5))
    image = torch.randn(1, 1, 16, 16)
    torch.manual_seed(3)
    first = encoder(image).levels[-1]
    second = encoder(image).levels[-1]
    torch.manual_seed(3)
    assert torch.equal(encoder(image).levels[-1], first)
    assert not torch.equal(first, second)
    encoder.eval()
    assert torch.equal(encoder(image).levels[-1], encoder(image).levels[-1])
