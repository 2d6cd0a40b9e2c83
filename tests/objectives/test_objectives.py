"""Each objective against hand-computed losses, and against the mistakes that would make it worthless."""

import math
from dataclasses import replace

import pytest
import torch
from encoders import encoder_with
from pydantic import ValidationError
from torch import nn

from medae.errors import ConfigError
from medae.models.autoencoder import AutoencoderConfig
from medae.models.output import Output
from medae.objectives.denoising import DenoisingConfig
from medae.objectives.masked import MaskedConfig, hidden_blocks
from medae.objectives.reconstruction import ReconstructionConfig
from medae.objectives.registry import check_objective
from medae.objectives.segmentation import SegmentationConfig
from medae.objectives.variational import VariationalConfig, kl_per_voxel
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class Answer(nn.Module):
    """A network that always returns the same maps and remembers what it saw."""

    def __init__(self, *maps: torch.Tensor, **extras: torch.Tensor) -> None:
        super().__init__()
        self.output = Output(maps=maps, extras=extras)
        self.seen: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def forward(self, image: torch.Tensor, visible: torch.Tensor | None = None) -> Output:
        self.seen.append((image, visible))
        return self.output


def make_batch(image: torch.Tensor, mask: torch.Tensor | None = None, present: torch.Tensor | None = None) -> Batch:
    mask = torch.ones_like(image[:, :1], dtype=torch.bool) if mask is None else mask
    present = torch.ones(image.shape[:2], dtype=torch.bool) if present is None else present
    return Batch(image=image, present=present, mask=mask)


DRAW = Draw(seed=0, step=0)


def test_reconstruction_is_the_weighted_sum_of_its_terms():
    image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    output = torch.tensor([[[[1.0, 1.0], [0.0, 3.0]]]])
    (loss,) = ReconstructionConfig(l1=1.0, l2=0.5).build(encoder_with(1, 1))(Answer(output), make_batch(image), DRAW)
    assert loss.terms["l1"] == pytest.approx((1 + 0 + 2 + 0) / 4)
    assert loss.terms["l2"] == pytest.approx((1 + 0 + 4 + 0) / 4)
    assert loss.total == pytest.approx(0.75 + 0.5 * 1.25)


def test_only_the_foreground_and_present_channels_count_when_asked():
    image = torch.zeros(1, 2, 1, 4)
    output = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]], [[100.0] * 4]]])
    mask = torch.tensor([[[[True, True, False, False]]]])
    batch = make_batch(image, mask, present=torch.tensor([[True, False]]))
    (loss,) = ReconstructionConfig(region="foreground").build(encoder_with(1, 1))(Answer(output), batch, DRAW)
    assert loss.total == pytest.approx(1.5)
    (whole,) = ReconstructionConfig(region="all").build(encoder_with(1, 1))(Answer(output), batch, DRAW)
    assert whole.total == pytest.approx(2.5)


@pytest.mark.parametrize("size", [(16, 16), (9, 9, 9), (16, 16, 3), (5, 1)])
def test_ssim_is_zero_for_the_same_image_and_large_for_another(size):
    image = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))
    objective = ReconstructionConfig(l1=0, ssim=1).build(encoder_with(*size))
    (same,) = objective(Answer(image), make_batch(image), DRAW)
    (other,) = objective(Answer(-image), make_batch(image), DRAW)
    assert same.total == pytest.approx(0.0, abs=1e-5)
    assert other.total > 0.3


def test_ssim_leaves_absent_channels_out():
    image = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    output = torch.stack([image[:, 0], -image[:, 1]], 1).requires_grad_()
    objective = ReconstructionConfig(l1=0, ssim=1).build(encoder_with(1, 1))
    (loss,) = objective(Answer(output), make_batch(image, present=torch.tensor([[True, False]])), DRAW)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(0.0, abs=1e-5)
    assert (output.grad[:, 1] == 0).all()


def test_kl_against_the_closed_form():
    mu, logvar = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]])
    expected = 0.5 * (1.0) + 0.5 * (4.0 - 1.0 - math.log(4.0))
    assert kl_per_voxel(mu, logvar, torch.ones(1, 1, 2, 5)) == pytest.approx(expected / 10)
    image = torch.zeros(1, 1, 2, 5)
    (loss,) = VariationalConfig(kl=2.0).build(encoder_with(1, 1))(
        Answer(image + 1, mu=mu, logvar=logvar), make_batch(image), DRAW
    )
    assert loss.total == pytest.approx(1.0 + 2.0 * expected / 10)
    mask = torch.zeros(1, 1, 2, 5, dtype=torch.bool)
    mask[..., :2] = True
    (inside,) = VariationalConfig(region="foreground").build(encoder_with(1, 1))(
        Answer(image + 1, mu=mu, logvar=logvar), make_batch(image, mask), DRAW
    )
    assert inside.total == pytest.approx(1.0 + expected / 4), "both terms are a voxel that counts"


@pytest.mark.parametrize("noise", ["coarse", "white"])
def test_noise_is_added_inside_the_mask_and_asked_to_be_removed(noise):
    image = torch.zeros(3, 2, 32, 32)
    mask = torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    mask[..., :16] = True
    present = torch.tensor([[True, True], [True, False], [True, True]])
    objective = DenoisingConfig(noise=noise, sigma=(0.5, 0.5)).build(encoder_with(8, 8))
    model = Answer(image)
    (loss,) = objective(model, make_batch(image, mask, present), DRAW)
    (seen, visible) = model.seen[0]
    assert visible is None
    assert loss.total == 0.0, "the clean image is the target"
    assert seen[..., 16:].abs().max() == 0 and seen[1, 1].abs().max() == 0
    inside = seen[0, 0, :, :16]
    assert 0.1 < inside.std() < 0.7
    neighbours = torch.corrcoef(torch.stack([inside[:, :-1].flatten(), inside[:, 1:].flatten()]))[0, 1]
    assert (neighbours > 0.8) if noise == "coarse" else (abs(neighbours) < 0.15)


@pytest.mark.parametrize("size", [(32, 32), (17, 16, 24)])
def test_coarse_noise_is_as_strong_everywhere(size):
    """Interpolated noise is strongest on the points of its grid: they lie elsewhere in every patch."""
    objective = DenoisingConfig(noise="coarse", sigma=(1.0, 1.0)).build(encoder_with(*[8] * len(size)))
    image = torch.zeros(600, 1, *size)
    everywhere = torch.ones_like(image, dtype=torch.bool)
    noise = objective.corrupt(make_batch(image, everywhere, torch.ones(600, 1, dtype=torch.bool)), DRAW)
    strength = noise.std(0).flatten()
    assert strength.max() / strength.min() < 1.5, "on a fixed grid it is 2 in 2D and 3 in 3D"
    assert noise.shape == image.shape


def test_white_noise_has_the_stated_deviation_and_each_sample_its_own():
    image = torch.zeros(2, 1, 24, 24, 24)
    objective = DenoisingConfig(noise="white", sigma=(0.2, 0.2)).build(encoder_with(8, 8, 8))
    noisy = objective.corrupt(make_batch(image), DRAW)
    assert noisy.std().item() == pytest.approx(0.2, rel=0.03)
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.equal(noisy[1:], objective.corrupt(make_batch(image[1:]), Draw(0, 0, first=1)))


@pytest.mark.parametrize("size", [(16, 16), (17, 9), (8, 8, 5), (16, 16, 1)])
def test_hidden_blocks_have_the_share_and_the_shape(size):
    block = tuple(4 if length >= 4 else 1 for length in size)
    hidden = hidden_blocks(DRAW, 8, size, block, (0.6, 0.75))
    assert hidden.shape == (8, 1, *size)
    grid = tuple(math.ceil(length / edge) for length, edge in zip(size, block, strict=True))
    corner = hidden[(slice(None), 0, *(slice(None, None, edge) for edge in block))]
    share = corner.flatten(1).float().mean(1)
    slack = 0.5 / math.prod(grid)
    assert ((share >= 0.6 - slack) & (share <= 0.75 + slack)).all()
    rebuilt = corner
    for axis, edge in enumerate(block):
        rebuilt = rebuilt.repeat_interleave(edge, dim=axis + 1).narrow(axis + 1, 0, size[axis])
    assert torch.equal(rebuilt, hidden[:, 0])


@pytest.mark.parametrize("sparse", [False, True])
def test_masked_loss_is_on_hidden_voxels_only_divided_by_their_count(sparse):
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) + 1
    objective = MaskedConfig(sparse=sparse, fill=-3.0).build(encoder_with(4, 4))
    hidden = objective.hidden(make_batch(image), DRAW)
    model = Answer(torch.where(hidden, image + 2, image + 50))
    (loss,) = objective(model, make_batch(image), DRAW)
    assert loss.total == pytest.approx(4.0, rel=1e-5)
    seen, visible = model.seen[0]
    assert (seen[hidden] == -3.0).all() and torch.equal(seen[~hidden], image[~hidden])
    assert torch.equal(visible, ~hidden) if sparse else visible is None


@pytest.mark.parametrize("size", [(8, 8), (3, 8)])
def test_a_patch_of_one_block_is_refused(size):
    with pytest.raises(ConfigError, match="one block"):
        hidden_blocks(DRAW, 2, size, (8, 8), (0.5, 0.5))


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (MaskedConfig, {"block": (0, 4)}),
        (DenoisingConfig, {"sigma": (1.0, -2.0)}),
        (DenoisingConfig, {"sigma": (0.5, 0.2)}),
        (DenoisingConfig, {"sigma": (0.0, 0.0)}),
        (SegmentationConfig, {"dice": 0.0, "cross_entropy": 0.0}),
    ],
)
def test_what_would_fail_or_teach_nothing_is_refused(config, keys):
    with pytest.raises(ValidationError):
        config(**keys)


def test_a_block_has_a_number_an_axis():
    network = AutoencoderConfig(encoder=encoder_with(4, 4))
    check_objective(MaskedConfig(block=(2, 4)), network)
    with pytest.raises(ConfigError, match="3 numbers for 2 spatial dimensions"):
        check_objective(MaskedConfig(block=(4, 4, 4)), network)


def test_masked_loss_has_no_gradient_on_visible_voxels():
    image = torch.rand(1, 1, 8, 8)
    objective = MaskedConfig().build(encoder_with(2, 2))
    output = torch.zeros_like(image, requires_grad=True)
    (loss,) = objective(Answer(output), make_batch(image), DRAW)
    loss.total.backward()
    hidden = objective.hidden(make_batch(image), DRAW)
    assert (output.grad[~hidden] == 0).all() and (output.grad[hidden] != 0).all()


def segmentation_batch() -> Batch:
    image = torch.zeros(1, 1, 4, 4)
    label = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    label[..., :2] = 1
    return Batch(image, torch.ones(1, 1, dtype=torch.bool), torch.ones_like(label, dtype=torch.bool), {"label": label})


def test_segmentation_loss_by_hand():
    batch = segmentation_batch()
    (loss,) = SegmentationConfig().build(encoder_with(1, 1))(Answer(torch.zeros(1, 2, 4, 4)), batch, DRAW)
    # Probability 1/2 everywhere: cross-entropy ln 2; Dice 2 * 4 / (8 + 8) = 1/2.
    assert loss.total == pytest.approx(math.log(2) + 0.5, abs=1e-4)
    perfect = torch.cat([1.0 - batch.target["label"].float(), batch.target["label"].float()], dim=1) * 40
    (best,) = SegmentationConfig().build(encoder_with(1, 1))(Answer(perfect), batch, DRAW)
    assert best.total < 1e-4


def test_coarser_maps_count_half_as_much():
    batch = segmentation_batch()
    uniform, coarse = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
    coarse[:, 1, :, 0], coarse[:, 0, :, 1] = 40, 40
    (loss,) = SegmentationConfig().build(encoder_with(1, 1))(Answer(uniform, coarse), batch, DRAW)
    assert loss.total == pytest.approx((math.log(2) + 0.5) * 2 / 3, abs=1e-4)


def test_a_map_is_weighted_by_its_resolution_whatever_is_between():
    """FCN-32s: the coarsest scores and their enlargement, with nothing in between."""
    target = torch.ones(1, 1, 16, 16, dtype=torch.int16)
    batch = replace(make_batch(torch.zeros(1, 1, 16, 16)), target={"label": target})
    sure, wrong = torch.tensor([0.0, 30.0]), torch.tensor([0.0, -20.0])
    maps = (sure.view(1, 2, 1, 1).expand(1, 2, 16, 16), wrong.view(1, 2, 1, 1).expand(1, 2, 2, 4))
    (loss,) = SegmentationConfig(dice=0.0).build(encoder_with(1, 1))(Answer(*maps), batch, DRAW)
    assert loss.total == pytest.approx(20 * (1 / 8) / (1 + 1 / 8), abs=1e-3)


def test_three_levels_count_four_two_and_one_sevenths():
    """All voxels are foreground. One map at a time is sure of the background, by a difference of the logits of 20."""
    target = torch.ones(1, 1, 4, 4, dtype=torch.int16)
    batch = replace(make_batch(torch.zeros(1, 1, 4, 4)), target={"label": target})

    def maps(*logits: float) -> list[torch.Tensor]:
        difference = [torch.full((1, size, size), x) for x, size in zip(logits, (4, 2, 1), strict=True)]
        return [torch.stack([torch.zeros_like(x), x], 1) for x in difference]

    (right,) = SegmentationConfig(dice=0.0).build(encoder_with(1, 1))(Answer(*maps(30.0, 30.0, 30.0)), batch, DRAW)
    assert right.total == pytest.approx(0.0, abs=1e-4)
    for wrong, weight in zip(((-20.0, 30.0, 30.0), (30.0, -20.0, 30.0), (30.0, 30.0, -20.0)), (4, 2, 1), strict=True):
        (loss,) = SegmentationConfig(dice=0.0).build(encoder_with(1, 1))(Answer(*maps(*wrong)), batch, DRAW)
        assert loss.total == pytest.approx(20 * weight / 7, abs=1e-3)
