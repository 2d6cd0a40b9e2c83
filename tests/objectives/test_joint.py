"""The joint pretext loss: it trains the shared encoder and its own branch, and leaves the labelled batch alone."""

from __future__ import annotations

import pytest
import torch

from medae.errors import ConfigError
from medae.objectives.base import Trained
from medae.objectives.denoising import DenoisingConfig
from medae.objectives.joint import JointConfig
from medae.objectives.masked import MaskedConfig
from medae.objectives.reconstruction import ReconstructionConfig
from medae.seeding import Draw
from medae.training import checkpoint

KINDS = [("unet", 2), ("unet", 3), ("segnet", 2), ("segnet", 3), ("fcn", 2), ("fcn", 3)]
PRETEXTS = [ReconstructionConfig(), DenoisingConfig(), MaskedConfig(), MaskedConfig(sparse=True)]


def build(semi, network, steps=10, **keys):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return JointConfig(**keys).build(semi.supervised(), network.encoder.config, steps)


def attached(semi, kind="unet", dims=2, **keys):
    network = semi.network(kind, dims)
    objective = build(semi, network, **keys)
    objective.attach(Trained(network, None, lambda module: module))
    return objective, network


@pytest.mark.parametrize(("kind", "dims"), KINDS)
def test_the_unlabelled_patches_train_the_encoder_and_the_branch_only(semi, kind, dims):
    objective, network = attached(semi, kind, dims)
    batch = semi.Source(dims).batch(0)
    (pretext,) = objective.pretext(objective.autoencoder(), batch.streams["unlabelled"], Draw(0, 0))
    pretext.total.backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in network.named_parameters() if name.startswith("encoder.")}
    assert all(parameter.grad is not None for parameter in objective.branch.parameters())


@pytest.mark.parametrize("pretext", PRETEXTS, ids=lambda config: f"{config.kind}{getattr(config, 'sparse', '')}")
@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_is_the_supervised_one_plus_the_weighted_pretext(semi, pretext, dims):
    objective, network = attached(semi, dims=dims, pretext=pretext, weight=0.5)
    batch = semi.Source(dims).batch(0)
    (both,) = objective(network, batch, Draw(0, 0))
    (labelled,) = semi.supervised()(network, batch, Draw(0, 0))
    own = Draw(0, 0).scoped("unlabelled")
    (unlabelled,) = objective.pretext(objective.autoencoder(), batch.streams["unlabelled"], own)
    assert both.total.item() == pytest.approx((labelled.total + 0.5 * unlabelled.total).item(), rel=1e-5)
    assert unlabelled.total > 0
    assert set(both.terms) == {*labelled.terms, *(f"unlabelled_{name}" for name in unlabelled.terms)}


def test_the_weight_is_constant_or_falls_to_nothing():
    assert [JointConfig(weight=0.4).weight_at(step, 10) for step in (0, 9)] == [0.4, 0.4]
    fading = JointConfig(weight=0.4, fades=True)
    assert [fading.weight_at(step, 10) for step in (0, 5, 10)] == pytest.approx([0.4, 0.2, 0.0])


@pytest.mark.parametrize(
    "pretext",
    [
        {"kind": "segmentation"},
        {"kind": "variational"},
        {"kind": "combined", "parts": [{"objective": {"kind": "masked"}}, {"objective": {"kind": "variational"}}]},
    ],
)
def test_a_pretext_that_needs_labels_or_a_latent_draw_is_refused(semi, pretext):
    with pytest.raises(ConfigError, match="does not fit"):
        build(semi, semi.network(), pretext=pretext)


def test_the_branch_is_trained_and_kept_in_the_checkpoint_and_not_in_the_network(semi, tmp_path):
    network = semi.network()
    before = set(network.state_dict())
    objective = build(semi, network)
    first = [parameter.detach().clone() for parameter in objective.branch.parameters()]
    semi.train(tmp_path, network, objective, 2)
    assert any(not torch.equal(a, b) for a, b in zip(first, objective.branch.parameters(), strict=True))
    assert set(network.state_dict()) == before
    stored = checkpoint.load(tmp_path).tensors
    assert {f"objective/branch.{name}" for name in objective.branch.state_dict()} <= set(stored)
    assert any(name.startswith("optimiser model/objective.branch.") for name in stored)
    assert not [name for name in stored if name.startswith("objective/") and "encoder" in name], "one encoder, one copy"


def test_a_norm_that_is_kept_still_stays_still(semi):
    """A frozen encoder's batch norms are in evaluation mode while the network trains."""
    network = semi.network(norm="batch")
    objective = build(semi, network).train()
    objective.attach(Trained(network, None, lambda module: module))
    network.train().encoder.eval()
    before = {name: value.clone() for name, value in network.encoder.named_buffers()}
    objective(network, semi.Source(2).batch(0), Draw(0, 0))
    assert not any(module.training for module in network.encoder.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.named_buffers())


def test_batch_norms_statistics_are_those_of_the_labelled_patches(semi):
    networks = [semi.network(norm="batch").train() for _ in range(2)]
    objective = build(semi, networks[0], pretext=MaskedConfig(), weight=0.0).train()
    objective.attach(Trained(networks[0], None, lambda module: module))
    for step in range(3):
        batch = semi.Source(2).batch(step)
        objective(networks[0], batch, Draw(0, step))
        semi.supervised()(networks[1], batch, Draw(0, step))
    one, other = (dict(network.named_buffers()) for network in networks)
    assert all(torch.equal(one[name], other[name]) for name in other) and any("running" in name for name in other)
    assert all((value != 1).any() for name, value in objective.branch.named_buffers() if name.endswith("running_var"))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_masked_pretext_beside_labelled_patches_takes_batch_norm(semi, dims):
    """The labelled patches go through the same norms first, without a mask."""
    network = semi.network(dims=dims, norm="batch").train()
    objective = build(semi, network, pretext=MaskedConfig(sparse=True)).train()
    objective.attach(Trained(network, None, lambda module: module))
    (loss,) = objective(network, semi.Source(dims).batch(0), Draw(0, 0))
    loss.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_a_weight_of_nothing_is_the_supervised_training_bit_for_bit(semi, tmp_path):
    """Where clipping does not act: zero gradients of the branch are in the norm, and may move its last bit."""
    networks = [semi.network(dropout=0.3) for _ in range(3)]
    semi.train(tmp_path / "a", networks[0], build(semi, networks[0], weight=0.0), 2, clip=None)
    semi.train(tmp_path / "b", networks[1], semi.supervised(), 2, unlabelled=False, clip=None)
    semi.train(tmp_path / "c", networks[2], build(semi, networks[2]), 2, clip=None)
    same = [all(torch.equal(a, b) for a, b in zip(n.parameters(), networks[1].parameters(), strict=True)) for n in networks]
    assert same == [True, True, False]
