"""Masked autoencoding with a real network: what is hidden reaches nothing, what is visible costs nothing."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from medae.models.blocks import Norm
from medae.models.networks import Network, NetworkConfig, build_network
from medae.objectives.masked import MaskedConfig, MaskedObjective
from medae.objectives.registry import build_objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

SIZES = {2: (24, 28), 3: (16, 20, 24)}
NETWORKS = [
    pytest.param(dims, stem, downsampling, norm, id=f"{dims}D {stem} {downsampling} {norm}")
    for (dims, stem, downsampling), norm in zip(
        product((2, 3), ("plain", "space_to_depth"), ("strided", "maxpool")),
        ("instance", "batch", "group", "instance") * 2,
        strict=True,
    )
]
DRAW = Draw(4, 2)


def make_network(dims: int, stem: str, downsampling: str, norm: str = "instance", **changes: Any) -> Network:
    first = 1 if stem == "plain" else 2
    encoder = {
        "spatial_dims": dims,
        "stem": stem,
        "downsampling": downsampling,
        "norm": norm,
        "widths": [4, 6, 8],
        "strides": [[first] * dims, [2] * dims, [2] * dims],
        "kernels": [[3] * dims] * 3,
        "block": "residual",
    }
    torch.manual_seed(0)
    return build_network(TypeAdapter(NetworkConfig).validate_python({"kind": "autoencoder", "encoder": encoder, **changes}))


def goal_for(network: Network, **settings: Any) -> MaskedObjective:
    objective = build_objective(MaskedConfig(**settings), network.config)
    assert isinstance(objective, MaskedObjective)
    return objective


def make_batch(dims: int, samples: int = 2) -> Batch:
    size = SIZES[dims]
    image = torch.randn(samples, 1, *size, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(samples, 1, *size, dtype=torch.bool)
    mask[..., :6] = False
    return Batch(image, torch.ones(samples, 1, dtype=torch.bool), mask)


def with_image(batch: Batch, image: Tensor) -> Batch:
    return Batch(image, batch.present, batch.mask)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("skips", ["none", "concat"])
@pytest.mark.parametrize(("dims", "stem", "downsampling", "norm"), NETWORKS)
def test_nothing_that_is_hidden_reaches_the_output(
    dims: int, stem: str, downsampling: str, norm: str, skips: str, training: bool
):
    network = make_network(dims, stem, downsampling, norm, decoder={"skips": skips}).train(training)
    objective, batch = goal_for(network, sparse=True, region="foreground"), make_batch(dims)
    hidden = objective.hidden(batch, DRAW)
    visible = torch.where(hidden, torch.full_like(batch.image, torch.nan), batch.image)
    with torch.no_grad():
        _, output = objective.predict(network, batch, hidden)
        assert torch.equal(network(visible, visible=~hidden).finest, output)
        # Outside the foreground a hidden voxel is not even a target.
        outside = torch.where(hidden & ~batch.mask, batch.image + 7, batch.image)
        assert not torch.equal(outside, batch.image)
        (loss,) = objective(network, batch, DRAW)
        (same,) = objective(network, with_image(batch, outside), DRAW)
        (other,) = objective(network, with_image(batch, batch.image + 7 * (hidden & batch.mask)), DRAW)
    assert same.total == loss.total
    assert abs(other.total - loss.total) > 1, "inside it is"


@pytest.mark.parametrize(("dims", "stem", "downsampling", "norm"), NETWORKS[::3])
def test_a_visible_voxel_is_input_and_no_target(dims: int, stem: str, downsampling: str, norm: str):
    network = make_network(dims, stem, downsampling, norm)
    batch = make_batch(dims)

    class Frozen(nn.Module):
        """Sees the first image, whatever it is given: only the target can change."""

        def forward(self, image: Tensor, visible: Tensor | None = None) -> Any:
            return network(batch.image, visible)

    for sparse in (True, False):
        objective = goal_for(network, sparse=sparse)
        hidden = objective.hidden(batch, DRAW)
        (loss,) = objective(Frozen(), batch, DRAW)
        (same,) = objective(Frozen(), with_image(batch, torch.where(hidden, batch.image, batch.image - 5)), DRAW)
        assert same.total == loss.total
        (seen,) = objective(network, with_image(batch, torch.where(hidden, batch.image, batch.image - 5)), DRAW)
        (before,) = objective(network, batch, DRAW)
        assert seen.total != before.total, "but the network looks at it"


@pytest.mark.parametrize(("dims", "stem", "downsampling", "norm"), NETWORKS)
def test_norms_of_the_encoder_see_visible_voxels_only(dims: int, stem: str, downsampling: str, norm: str):
    """The statistics that each norm used, found from what came in and out of it, against those of the visible voxels."""
    network = make_network(dims, stem, downsampling, norm).train()
    batch, objective = make_batch(dims), goal_for(network, sparse=True)
    calls: list[tuple[str, Tensor, Tensor | None, Tensor]] = []
    for name, module in network.encoder.named_modules():
        if isinstance(module, Norm):
            # a copy, because the activation works in place
            module.register_forward_hook(lambda _, given, y, name=name: calls.append((name, *given, y.clone())))
    objective(network, batch, DRAW)
    assert len(calls) == sum(isinstance(module, Norm) for module in network.encoder.modules())
    hidden = objective.hidden(batch, DRAW)
    for name, x, seen, y in calls:
        assert seen is not None and 0 < seen.float().mean() < 1, name
        strides = network.encoder.config.strides[: 1 + int(name.split(".")[1])]
        step = [math.prod(axis) for axis in zip(*strides, strict=True)]
        assert torch.equal(seen, ~hidden[(..., *(slice(None, None, s) for s in step))]), "blocks are whole cells"
        members = x.shape[1] // math.gcd(x.shape[1], 8) if norm == "group" else 1
        for b, first in product(range(len(x)), range(0, x.shape[1], members)):
            rows = slice(None) if norm == "batch" else slice(b, b + 1)
            channels = slice(first, first + members)
            values = x[rows, channels][seen[rows].expand(-1, members, *seen.shape[2:])]
            expected = (x[rows, channels] - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(y[rows, channels], torch.where(seen[rows], expected, 0.0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_visible_features_keep_the_scale_of_the_whole_scan_only_if_sparse(dims: int):
    """Zeros in hidden blocks make every deviation smaller, so that what is seen is scaled up."""
    network, batch = make_network(dims, "plain", "strided").eval(), make_batch(dims, samples=4)
    hidden = goal_for(network, ratio=(0.7, 0.7), block=(8,) * dims).hidden(batch, DRAW)
    window = torch.nn.functional.max_pool2d if dims == 2 else torch.nn.functional.max_pool3d
    alone = ~window(hidden.float(), 5, 1, 2).bool().expand(-1, 4, *hidden.shape[2:])  # no hidden voxel near
    with torch.no_grad():
        whole, dense, sparse = (
            network.encoder(image, visible).levels[0][alone].std()
            for image, visible in (
                (batch.image, None),
                (torch.where(hidden, 0.0, batch.image), None),
                (torch.where(hidden, 0.0, batch.image), ~hidden),
            )
        )
    assert dense / whole > 1.3
    assert 0.85 < sparse / whole < 1.15


@pytest.mark.parametrize("order", ["dense first", "sparse first"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_norm_serves_a_dense_and_a_sparse_pass_of_one_step(dims: int, order: str):
    """As in a combination of objectives, and beside labelled patches. Gradients are those of the passes one by one."""
    network = make_network(dims, "plain", "strided", "batch").train()
    batch, objective = make_batch(dims), goal_for(network, sparse=True)
    passes = [lambda: network(batch.image).finest.square().mean(), lambda: objective(network, batch, DRAW)[0].total]
    if order == "sparse first":
        passes.reverse()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    (passes[0]() + passes[1]()).backward()
    both = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    kept = {name: value.clone() for name, value in network.named_buffers()}
    network.load_state_dict(start)
    network.zero_grad()
    for run in passes:
        run().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(both[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert kept and all(torch.equal(value, kept[name]) for name, value in network.named_buffers())
    assert any(not torch.equal(kept[name], start[name]) for name in kept), "both moved the statistics"


def test_a_sample_with_a_single_visible_cell_is_no_obstacle():
    network = make_network(2, "space_to_depth", "strided").train()
    image = torch.randn(2, 1, 32, 32)
    visible = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    visible[..., :8, :8] = True
    output = network(image, visible=visible)
    assert torch.isfinite(output.finest).all()
    output.finest.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_nothing_of_a_sparse_pass_is_left_in_the_network():
    network = make_network(2, "plain", "maxpool").eval()
    batch = make_batch(2)
    before = network(batch.image).finest
    state = {name: value.clone() for name, value in network.state_dict().items()}
    goal_for(network, sparse=True)(network, batch, DRAW)
    assert torch.equal(network(batch.image).finest, before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
