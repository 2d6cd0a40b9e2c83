from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from medae.models.blocks import ConvBlock, Norm, NormKind, ResidualBlock, drop_channels

NORMS: list[NormKind] = ["instance", "batch", "group"]


def test_a_norm_counts_visible_voxels_only():
    x = torch.tensor([[1.0, 3.0, 1000.0, -7.0]]).view(1, 1, 1, 4)
    visible = torch.tensor([[True, True, False, False]]).view(1, 1, 1, 4)
    y = Norm("instance", 1, eps=0.0)(x, visible)
    assert y.flatten().tolist() == [-1, 1, 0, 0]  # mean 2, deviation 1; hidden voxels are zero


def test_a_group_norm_shares_its_moments_within_a_group():
    x = torch.randn(2, 16, 4, 3)
    norm = Norm("group", 16)
    assert norm.groups == 8
    y = norm(x, torch.ones(2, 1, 4, 3, dtype=torch.bool))
    pairs = x.view(2, 8, 2, 4, 3)
    expected = (pairs - pairs.mean((2, 3, 4), keepdim=True)) / (
        pairs.var((2, 3, 4), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    torch.testing.assert_close(y, expected.view_as(x))
    assert Norm("group", 6).groups == 2  # the largest divisor that 8 shares


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("dims", [2, 3])
def test_with_everything_visible_a_norm_is_torchs(kind: NormKind, dims: int):
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(3, 16, *(4,) * dims)
    ours, dense = Norm(kind, 16), Norm(kind, 16)
    layers: dict[str, nn.Module] = {
        "instance": (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(16, affine=True),
        "batch": (nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)(16),
        "group": nn.GroupNorm(8, 16),
    }
    theirs = layers[kind]
    with torch.no_grad():
        for layer in (ours, dense, theirs):
            layer.weight.copy_(torch.linspace(0.5, 2, 16))  # type: ignore[operator, union-attr]
            layer.bias.copy_(torch.linspace(-1, 1, 16))  # type: ignore[operator, union-attr]
    everything = torch.ones(3, 1, *(4,) * dims, dtype=torch.bool)
    for training in (True, True, False):
        for layer in (ours, dense, theirs):
            layer.train(training)
        expected = theirs(x)
        torch.testing.assert_close(dense(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours(x, everything), expected, rtol=1e-4, atol=1e-5)
    if kind == "batch":
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
            assert torch.equal(getattr(dense, name), getattr(theirs, name))


def test_batch_statistics_of_visible_voxels_are_kept():
    norm = Norm("batch", 1, momentum=1.0)
    x = torch.tensor([[1.0, 3.0, 50.0], [5.0, 60.0, 70.0]]).view(2, 1, 1, 3)
    visible = torch.tensor([[True, True, False], [True, False, False]]).view(2, 1, 1, 3)
    norm(x, visible)
    assert norm.running_mean.item() == pytest.approx(3)
    assert norm.running_var.item() == pytest.approx(4)  # of 1, 3, 5, unbiased


@pytest.mark.parametrize("norm", [*NORMS, "none"])
@pytest.mark.parametrize("residual", [False, True])
def test_a_block_leaves_hidden_voxels_at_zero(norm: NormKind, residual: bool):
    visible = torch.rand(2, 1, 6, 5) < 0.5
    block = (
        ResidualBlock(3, 4, (3, 3), norm, "leaky_relu", project=True)
        if residual
        else ConvBlock(3, 4, (3, 3), norm, "leaky_relu")
    )
    y = block(torch.randn(2, 3, 6, 5), visible)
    assert torch.equal((y != 0).any(1, keepdim=True), visible)


def test_a_residual_block_adds_its_input():
    block = ResidualBlock(4, 4, (3, 3), "none", "relu")
    with torch.no_grad():
        block.second.conv.weight.zero_()
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x.clone()), x.clamp(min=0))
    assert block.shortcut is None


@pytest.mark.parametrize(("norm", "bias"), [("instance", False), ("none", True)])
def test_a_bias_is_there_where_no_norm_would_remove_it(norm: NormKind, bias: bool):
    assert (ConvBlock(1, 2, (3, 3), norm, "relu").conv.bias is not None) == bias


def test_features_keep_their_scale_through_many_layers_without_a_norm():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 16, 16)
    layers = nn.Sequential(*(ConvBlock(32, 32, (3, 3), "none", "leaky_relu") for _ in range(10)))
    assert 0.1 < layers(x).square().mean().item() < 10


def test_dropout_drops_whole_channels_and_keeps_the_mean():
    torch.manual_seed(0)
    y = drop_channels(torch.ones(50, 40, 3, 3), 0.25, training=True)
    channels = y.flatten(2)
    assert torch.equal(channels, channels[..., :1].expand_as(channels))
    assert sorted({round(value, 4) for value in y.unique().tolist()}) == [0, 1.3333]
    assert float(y.mean()) == pytest.approx(1, abs=0.05)
    x = torch.ones(1, 4, 2, 2, 2)
    assert torch.equal(drop_channels(x, 0.25, training=False), x)
    assert drop_channels(x, 0.0, training=True) is x


@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
def test_a_narrow_strided_projection_is_that_of_torch(stride: tuple[int, int]):
    block = ResidualBlock(4, 8, (3, 3), "none", "relu", stride, project=True)
    x = torch.randn(2, 4, 9, 7)
    assert block.shortcut is not None
    conv = block.shortcut.conv
    torch.testing.assert_close(block.shortcut(x), functional.conv2d(x, conv.weight, conv.bias, stride=stride))


def test_a_narrow_network_does_not_write_beyond_its_memory():
    """In a process of its own, which torch's own kernel kills on a CPU with AVX2 only."""
    program = (
        "import torch\n"
        "from medae.models.blocks import ResidualBlock\n"
        "block = ResidualBlock(6, 8, (3, 3), 'none', 'relu', (2, 2), project=True)\n"
        "for _ in range(100):\n"
        "    x = torch.randn(2, 6, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()\n"
        "    y = block(x)\n"
        "    y.backward(torch.randn_like(y).contiguous(memory_format=torch.channels_last))\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
