"""Lesions that are drawn into a batch: their size, contrast and place by hand; and that a network learns to find them."""

from __future__ import annotations

import math

import pytest
import torch
from encoders import encoder_with
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from medae.config import validate
from medae.errors import ConfigError
from medae.models.autoencoder import LESION, AutoencoderConfig
from medae.models.encoder import EncoderConfig
from medae.models.networks import build_network
from medae.models.output import Output
from medae.models.unet import UNetConfig
from medae.objectives.denoising import DenoisingConfig
from medae.objectives.drawn_lesions import LesionShape, with_lesion
from medae.objectives.lesions import LesionsConfig, LesionsObjective
from medae.objectives.registry import build_objective, check_objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

EVERY = torch.ones(2, dtype=torch.bool)
SMOOTH = {"roughness": 0.0, "mottling": 0.0, "stretch": 1.0}


def scans(size: tuple[int, ...], channels: int = 1, slices: int = 1, seed: int = 0, count: int = 2) -> Batch:
    """Noise with a false mask and zeros along a border."""
    image = torch.randn(count, slices * channels, *size, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(count, 1, *size, dtype=torch.bool)
    mask[:, :, :3] = False
    return Batch(image * mask, torch.ones(count, channels, dtype=torch.bool), mask, slices=slices)


def config_of(**shape: object) -> LesionsConfig:
    return validate(LesionsConfig, {"shape": shape})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([(24, 30), (20, 12, 16), (16, 16, 1)]))
def test_only_the_inside_of_lesions_changes_in_channels_that_are_there(seed: int, size: tuple[int, ...]) -> None:
    batch = scans(size, channels=2, seed=seed)
    batch.present[1, 1] = False
    batch.image[1, 1] = 0
    changed, soft = with_lesion(batch, batch.image, EVERY, LesionShape(), Draw(seed, 0))
    assert soft.shape == (2, 1, *size) and soft.min() >= 0 and soft.max() <= 1
    assert not soft[~batch.mask].any() and soft.flatten(1).amax(1).min() > 0.3, "each sample has one, inside the mask"
    untouched = (soft == 0).expand_as(changed)
    assert torch.equal(changed[untouched], batch.image[untouched])
    assert not changed[1, 1].any()
    assert (changed - batch.image)[:, 0].abs().flatten(1).amax(1).min() > 0.1


@pytest.mark.parametrize(("size", "volume"), [((64, 64), math.pi * 36), ((40, 40, 40), 4 / 3 * math.pi * 216)])
@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_the_radius_is_that_of_the_ball_of_equal_volume(size: tuple[int, ...], volume: float, stretch: float) -> None:
    batch = scans(size, count=2)
    batch.mask[:] = True
    found = []
    for step in range(40):
        shape = validate(LesionShape, SMOOTH | {"stretch": stretch, "radius": [6, 6], "edge": [0.5, 0.5]})
        _, soft = with_lesion(batch, batch.image, EVERY, shape, Draw(0, step))
        for each in soft[:, 0] > 0.5:
            at = each.nonzero()
            if at.min() > 0 and all(at[:, axis].max() < length - 1 for axis, length in enumerate(size)):
                found.append(float(each.sum()))
    assert len(found) > 5, "some lie in the image as a whole"
    assert sum(found) / len(found) == pytest.approx(volume, rel=0.04)


def test_a_lesion_goes_on_in_the_neighbouring_slices_as_a_ball_does() -> None:
    batch = scans((64, 64), slices=3)
    batch.mask[:] = True
    shape = validate(LesionShape, SMOOTH | {"radius": [10, 10], "edge": [0.5, 0.5], "slice_distance": [6, 6]})
    ratios = []
    for step in range(20):
        _, soft = with_lesion(batch, batch.image, EVERY, shape, Draw(1, step))
        assert torch.equal(soft[:, 0], soft[:, 2])
        area = (soft > 0.5).flatten(2).sum(2)
        whole = area[:, 1] > 0.97 * math.pi * 100
        ratios += (area[whole, 0] / area[whole, 1]).tolist()
    assert len(ratios) > 5
    assert ratios == pytest.approx([1 - 0.6**2] * len(ratios), abs=0.03)


@pytest.mark.parametrize(("bright", "sign"), [(1.0, 1), (0.0, -1)])
def test_the_contrast_is_added_to_the_structures_or_to_their_mean(bright: float, sign: int) -> None:
    batch = scans((40, 40))
    fixed = SMOOTH | {"contrast": [2, 2], "bright": bright, "edge": [0.2, 0.2], "radius": [5, 5]}
    added, soft = with_lesion(batch, batch.image, EVERY, validate(LesionShape, fixed | {"uniformity": [0, 0]}), Draw(0, 0))
    torch.testing.assert_close(added - batch.image, sign * 2 * soft, atol=1e-5, rtol=0)
    flat, again = with_lesion(batch, batch.image, EVERY, validate(LesionShape, fixed | {"uniformity": [1, 1]}), Draw(0, 0))
    assert torch.equal(soft, again), "the place depends on nothing else"
    for image, new, weight in zip(batch.image[:, 0], flat[:, 0], soft[:, 0], strict=True):
        mean = float((image * weight).sum() / weight.sum())
        core = weight > 0.999
        assert core.any()
        torch.testing.assert_close(new[core], torch.full_like(new[core], mean + sign * 2), atol=0.02, rtol=0)


def test_a_core_is_the_middle_of_a_lesion_and_as_often_darker_as_brighter() -> None:
    batch = scans((64, 64), count=16)
    batch.mask[:], batch.image[:] = True, 1.0
    given_shape = SMOOTH | {"contrast": [2, 2], "bright": 1.0, "edge": [0.2, 0.2], "radius": [12, 12]}
    shape = validate(LesionShape, given_shape | {"core": 0.75, "core_size": [0.5, 0.5]})
    dark = bright = 0
    for step in range(10):
        image, soft = with_lesion(batch, batch.image, torch.ones(16, dtype=torch.bool), shape, Draw(3, step))
        for own, weight in zip(image[:, 0], soft[:, 0], strict=True):
            whole, low = int((weight > 0.5).sum()), int((own < 0).sum())
            bright += low == 0
            if whole > 0.96 * math.pi * 144 and low:
                assert own[own < 0].median() == pytest.approx(-1), "the mean less the contrast"
                assert own[(weight > 0.99) & (own > 0)].median() == pytest.approx(3), "the rim is brighter"
                assert low / whole == pytest.approx(0.25, abs=0.02)
                dark += 1
    assert dark > 5 and 0.4 < bright / 160 < 0.85, "5 of 8: a quarter without a core, and half of the cores"


def test_draws_are_of_their_step_and_sample_and_some_samples_have_no_lesion() -> None:
    objective = LesionsObjective(LesionsConfig(share=0.5, most=2))
    batch = scans((32, 32), count=40)
    one, same, other = (objective.draw(batch, Draw(0, step)) for step in (3, 3, 4))
    assert torch.equal(one.image, same.image) and torch.equal(one.lesion, same.lesion)
    assert not torch.equal(one.image, other.image)
    changed = (one.image != batch.image).flatten(1).any(1)
    assert 10 <= int(changed.sum()) <= 30
    assert not one.lesion[~changed].any()
    half = Batch(batch.image[20:], batch.present[20:], batch.mask[20:])
    assert torch.equal(objective.draw(half, Draw(0, 3, first=20)).image, one.image[20:]), "whichever process draws it"


class Answer(nn.Module):
    """Says what it is told."""

    def __init__(self, image: torch.Tensor, logits: torch.Tensor) -> None:
        super().__init__()
        self.image, self.logits = image, logits

    def forward(self, image: torch.Tensor) -> Output:
        return Output((self.image,), extras={LESION: self.logits})


def test_the_loss_by_hand() -> None:
    objective = LesionsObjective(LesionsConfig(l1=1.0, cross_entropy=2.0, dice=3.0))
    batch = scans((32, 32))
    lesion = objective.draw(batch, Draw(0, 0)).lesion
    (perfect,) = objective(Answer(batch.image, 200 * lesion - 100), batch, Draw(0, 0))
    assert float(perfect.total) == pytest.approx(0, abs=1e-4)
    (undecided,) = objective(Answer(batch.image + 0.5, torch.zeros_like(lesion)), batch, Draw(0, 0))
    assert float(undecided.terms["l1"]) == pytest.approx(0.5, abs=1e-5)
    assert float(undecided.terms["cross_entropy"]) == pytest.approx(math.log(2), abs=1e-5)
    inside, truth = float(batch.mask.sum()), float(lesion.sum())
    assert truth > 20
    dice = 1 - (2 * 0.5 * truth + 1) / (0.5 * inside + truth + 1)
    assert float(undecided.terms["dice"]) == pytest.approx(dice, abs=1e-5)
    by_hand = 0.5 + 2 * math.log(2) + 3 * dice
    assert float(undecided.total) == pytest.approx(by_hand, abs=1e-4)
    shown = objective.example(Answer(batch.image, 200 * lesion - 100), batch, Draw(0, 0))
    torch.testing.assert_close(shown["found"], lesion * batch.image.max())
    assert (shown["corrupted"] != shown["input"]).any() and torch.equal(shown["output"], batch.image)
    everywhere = objective.example(Answer(batch.image, torch.full_like(lesion, 100.0)), batch, Draw(0, 0))
    torch.testing.assert_close(everywhere["found"], batch.mask * batch.image.max())
    assert not batch.mask.all()


@pytest.mark.parametrize("slices", [1, 3])
def test_a_network_learns_to_find_them(slices: int) -> None:
    encoder = EncoderConfig(
        spatial_dims=2, in_channels=slices, slices=slices, widths=(8, 8), strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2
    )
    network = AutoencoderConfig(encoder=encoder, lesion_head=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_network(network)
    objective = build_objective(config_of(radius=[3, 8], contrast=[3, 6], bright=1.0), network)
    assert isinstance(objective, LesionsObjective)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        (loss,) = objective(model, scans((32, 32), slices=slices, seed=step, count=8), Draw(0, step))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    unseen = scans((32, 32), slices=slices, seed=10**6, count=8)
    drawn = objective.draw(unseen, Draw(1, 0))
    with torch.no_grad():
        found = model.eval()(drawn.image).extras[LESION]
    inside, truth = unseen.mask, drawn.lesion > 0
    assert found[inside & truth].median() > found[inside & ~truth].quantile(0.95)


def test_the_objective_and_the_lesion_head_need_each_other() -> None:
    plain, headed = (AutoencoderConfig(encoder=encoder_with(2, 2), lesion_head=head) for head in (False, True))
    check_objective(LesionsConfig(), headed)
    with pytest.raises(ConfigError, match="'lesions' does not fit a network without a lesion head"):
        check_objective(LesionsConfig(), plain)
    with pytest.raises(ConfigError, match="'denoising' does not fit a network with a lesion head"):
        check_objective(DenoisingConfig(), headed)
    with pytest.raises(ConfigError, match="goes with unet"):
        check_objective(LesionsConfig(), UNetConfig(encoder=encoder_with(2, 2), classes=2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"radius": [0, 3]},
        {"edge": [3, 1]},
        {"uniformity": [0, 1.5]},
        {"core_size": [0.5, 2]},
        {"contrast": [-1, 1]},
        {"stretch": 0.5},
    ],
)
def test_ranges_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises((ValidationError, ConfigError)):
        validate(LesionShape, wrong)
