"""Networks that see several slices and answer for one: what they are compared with, and what is hidden from them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medae.config import Config, validate
from medae.models.autoencoder import AutoencoderConfig
from medae.models.encoder import EncoderConfig
from medae.models.networks import build_network
from medae.models.output import Output
from medae.models.vae import VAEConfig
from medae.objectives.registry import ObjectiveConfig, build_objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

SLICES, CHANNELS = 3, 2
ENCODER = EncoderConfig(
    spatial_dims=2,
    in_channels=SLICES * CHANNELS,
    slices=SLICES,
    widths=(4, 8),
    strides=((1, 1), (2, 2)),
    kernels=((3, 3),) * 2,
)
DRAW = Draw(seed=0, step=0)
OBJECTIVES = {
    "denoising": {"kind": "denoising"},
    "white": {"kind": "denoising", "noise": "both"},
    "masked": {"kind": "masked"},
    "restoration": {"kind": "restoration"},
    "reconstruction": {"kind": "reconstruction", "ssim": 0.5},
    "adversarial": {"kind": "adversarial", "of": {"kind": "denoising"}, "discriminator": {"widths": [4, 8]}},
    "combined": {"kind": "combined", "parts": [{"objective": {"kind": "masked"}}, {"objective": {"kind": "denoising"}}]},
}


class ObjectiveChoice(Config):
    objective: ObjectiveConfig


class Middle(nn.Module):
    """Answers with what it sees of the middle slice, and remembers all that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor, visible: torch.Tensor | None = None) -> Output:
        self.seen.append(image)
        return Output((image.chunk(SLICES, dim=1)[SLICES // 2],))


@pytest.fixture
def batch() -> Batch:
    image = torch.randn(4, SLICES * CHANNELS, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(4, 1, 16, 16, dtype=torch.bool)
    mask[:, :, 2:14, 3:15] = True
    present = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    image *= present.repeat(1, SLICES)[..., None, None]
    return Batch(image, present, mask, slices=SLICES)


def objective_of(name: str) -> nn.Module:
    choice = validate(ObjectiveChoice, {"objective": OBJECTIVES[name]}).objective
    return build_objective(choice, AutoencoderConfig(encoder=ENCODER))


@pytest.mark.parametrize("kind", [AutoencoderConfig, VAEConfig])
def test_networks_answer_for_one_slice(kind, batch) -> None:
    assert build_network(kind(encoder=ENCODER))(batch.image).finest.shape == (4, CHANNELS, 16, 16)
    other = torch.cat([1 + batch.image[:, :CHANNELS], batch.image[:, CHANNELS:]], dim=1)
    network = build_network(AutoencoderConfig(encoder=ENCODER)).eval()
    assert not torch.allclose(network(batch.image).finest, network(other).finest), "the neighbours are looked at"


def test_a_residual_network_adds_the_middle_slice(batch) -> None:
    network = build_network(AutoencoderConfig(encoder=ENCODER, residual=True)).eval()
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    assert torch.equal(network(batch.image).finest, batch.centre)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_on_several_slices_and_shows_the_middle_one(name: str, batch) -> None:
    torch.manual_seed(0)
    network, objective = build_network(AutoencoderConfig(encoder=ENCODER)), objective_of(name)
    losses = objective(network, batch, DRAW)
    sum(loss.total for loss in losses).backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    shown = objective.example(network, batch, DRAW)
    assert all(each.shape == (4, CHANNELS, 16, 16) for each in shown.values())
    assert torch.equal(shown["input"], batch.centre)


def test_a_network_that_returns_what_it_sees_of_the_middle_slice_loses_nothing_uncorrupted(batch) -> None:
    (loss,) = objective_of("reconstruction")(Middle(), batch, DRAW)
    assert loss.total == pytest.approx(0, abs=1e-5)


def test_coarse_noise_is_the_same_in_every_slice_inside_the_mask_and_in_present_channels(batch) -> None:
    model = Middle()
    objective_of("denoising")(model, batch, DRAW)
    noise = (model.seen[0] - batch.image).unflatten(1, (SLICES, CHANNELS))
    torch.testing.assert_close(noise[:, 0], noise[:, 1])
    torch.testing.assert_close(noise[:, 2], noise[:, 1])
    assert noise[0].abs().max() > 0.1
    assert not noise[1, :, 1].any(), "the second channel of the second sample is absent"
    assert not noise[:, :, :, :2].any(), "outside the mask"


def test_masked_blocks_are_hidden_in_every_slice(batch) -> None:
    model = Middle()
    objective_of("masked")(model, batch, DRAW)
    hidden = (model.seen[0] == 0).unflatten(1, (SLICES, CHANNELS))[0]
    assert torch.equal(hidden[0], hidden[1]) and torch.equal(hidden[1], hidden[2])
    assert 0.4 < hidden.float().mean() < 0.9


def test_a_channel_has_one_intensity_curve_in_all_slices() -> None:
    one = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16).repeat(6, CHANNELS, 1, 1)
    same = Batch(
        one.repeat(1, SLICES, 1, 1),
        torch.ones(6, CHANNELS, dtype=torch.bool),
        torch.ones(6, 1, 16, 16).bool(),
        slices=SLICES,
    )
    choice = {"kind": "restoration", "nonlinear": 1.0, "shuffling": 0.0, "painting": 0.0, "flip": 0.0}
    objective = build_objective(
        validate(ObjectiveChoice, {"objective": choice}).objective, AutoencoderConfig(encoder=ENCODER)
    )
    model = Middle()
    objective(model, same, DRAW)
    seen = model.seen[0].unflatten(1, (SLICES, CHANNELS))
    torch.testing.assert_close(seen[:, 0], seen[:, 1])
    torch.testing.assert_close(seen[:, 2], seen[:, 1])
    assert not torch.allclose(seen[:, 0, 0], seen[:, 0, 1]), "channels have curves of their own"


@pytest.mark.parametrize(("slices", "channels"), [(2, 4), (3, 4), (0, 1)])
def test_channels_that_are_not_of_so_many_slices_are_refused(slices: int, channels: int) -> None:
    with pytest.raises(ValueError, match=r"slices|greater"):
        EncoderConfig(
            spatial_dims=2,
            in_channels=channels,
            slices=slices,
            widths=(4, 8),
            strides=((1, 1), (2, 2)),
            kernels=((3, 3),) * 2,
        )
