import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medae.augmentation.augment import GATES, Augmentation, AugmentationConfig
from medae.augmentation.presets import LIGHT_CT, LIGHT_MR, STRONG_CT, STRONG_MR
from medae.config import to_dict
from medae.errors import ConfigError
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

SPATIAL = ("rotation", "scale", "elastic")
INTENSITY = ("bias_field", "blur", "low_resolution", "gamma", "inverted_gamma", "contrast", "brightness", "noise")
PARTS = SPATIAL + INTENSITY


def only(flip: tuple[float, ...] = (), **probabilities: float) -> AugmentationConfig:
    return AugmentationConfig.model_validate(
        {"flip": flip} | {part: {"probability": probabilities.get(part, 0.0)} for part in PARTS}
    )


def always(*, flip: tuple[float, ...] = ()) -> AugmentationConfig:
    return only(flip, **dict.fromkeys(PARTS, 1.0))


def batch_of(size: int, shape: tuple[int, ...], channels: int = 1, seed: int = 0, border: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(size, 1, *shape, dtype=torch.bool)
    mask[(..., *[slice(border, extent - border) for extent in shape])] = True
    image = (torch.rand(size, channels, *shape, generator=generator) + 1) * mask
    label = torch.randint(0, 2, (size, 1, *shape), generator=generator) * 7 * mask
    return Batch(image, torch.ones(size, channels, dtype=torch.bool), mask, {"label": label}, tuple("abcdefgh"[:size]))


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.image, second.image)
        and torch.equal(first.mask, second.mask)
        and all(torch.equal(first.target[name], second.target[name]) for name in second.target)
    )


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
def test_probability_zero_is_the_identity(shape):
    batch = batch_of(3, shape)
    result = Augmentation(only(), len(shape))(batch, Draw(0, 5))
    assert result.image is batch.image
    assert same(result, batch)


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
def test_flip_is_exact_and_moves_image_mask_and_label_together(shape):
    batch = batch_of(2, shape, border=1)
    batch.mask[:, :, 0] = True
    chances = (1.0,) + (0.0,) * (len(shape) - 1)
    result = Augmentation(only(flip=chances), len(shape))(batch, Draw(0, 0))
    assert torch.equal(result.image, batch.image.flip(2))
    assert torch.equal(result.mask, batch.mask.flip(2))
    assert torch.equal(result.target["label"], batch.target["label"].flip(2))


def test_each_axis_and_sample_flips_with_its_own_probability():
    batch = batch_of(8, (4, 5))
    augment = Augmentation(only(flip=(0.5, 0.0)), 2)
    flipped = 0
    for step in range(50):
        result = augment(batch, Draw(0, step))
        for b in range(8):
            mirrored = torch.equal(result.image[b], batch.image[b].flip(1))
            assert mirrored or torch.equal(result.image[b], batch.image[b])
            flipped += mirrored
    assert 160 < flipped < 240


@pytest.mark.parametrize(("shape", "spacing"), [((16, 17), None), ((12, 13, 14), None), ((20, 20, 5), (1.0, 1.0, 5.0))])
def test_same_draw_gives_the_same_result_however_the_batch_is_split(shape, spacing):
    batch = batch_of(4, shape, channels=2, border=2)
    augment = Augmentation(always(flip=(0.5,) * len(shape)), len(shape), spacing)
    whole = augment(batch, Draw(3, 7, scope=("augmentation",)))
    assert not torch.equal(whole.image, batch.image)
    for part in (slice(0, 1), slice(1, 4), slice(2, 4)):
        piece = Batch(batch.image[part], batch.present[part], batch.mask[part], {"label": batch.target["label"][part]})
        alone = augment(piece, Draw(3, 7, first=part.start, scope=("augmentation",)))
        assert torch.equal(alone.image, whole.image[part])
        assert torch.equal(alone.mask, whole.mask[part])
        assert torch.equal(alone.target["label"], whole.target["label"][part])


def test_samples_and_steps_draw_differently():
    batch = batch_of(1, (16, 16))
    twice = Batch(*(torch.cat([x, x]) for x in (batch.image, batch.present, batch.mask)))
    augment = Augmentation(only(rotation=1.0), 2)
    result = augment(twice, Draw(0, 0)).image
    assert not torch.equal(result[0], result[1])
    assert not torch.equal(result, augment(twice, Draw(0, 1)).image)
    assert torch.equal(result, augment(twice, Draw(0, 0)).image)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    step=st.integers(0, 10**6),
    values=st.sets(st.integers(0, 300), min_size=1, max_size=4),
)
def test_labels_are_never_invented_and_background_stays_zero(shape, step, values):
    generator = torch.Generator().manual_seed(step)
    batch = batch_of(2, tuple(shape), seed=step)
    mask = torch.rand(batch.mask.shape, generator=generator) < 0.7
    choices = torch.tensor(sorted(values))
    label = choices[torch.randint(len(choices), batch.mask.shape, generator=generator)]
    batch = Batch(batch.image * mask, batch.present, mask, {"label": label})
    augment = Augmentation(always(flip=(0.5,) * len(shape)), len(shape))
    result = augment(batch, Draw(0, step))
    assert set(result.target["label"].unique().tolist()) <= values | {0}
    assert result.target["label"].dtype == label.dtype
    assert result.mask.dtype == torch.bool
    assert torch.isfinite(result.image).all()
    assert (result.image[~result.mask] == 0).all()


def coded(shape: tuple[int, ...], size: int = 1) -> Batch:
    """The image holds each voxel's place, a channel an axis, the label its number: both tell where they were read."""
    places = torch.stack(torch.meshgrid(*[torch.arange(extent, dtype=torch.float32) for extent in shape], indexing="ij"))
    number = torch.arange(places[0].numel()).view(1, 1, *shape)
    mask = torch.ones(size, 1, *shape, dtype=torch.bool)
    image = places.expand(size, -1, *[-1] * len(shape)).clone()
    return Batch(
        image,
        mask[:, :1].flatten(2).any(2).expand(size, len(shape)),
        mask,
        {"label": number.repeat(size, *[1] * (len(shape) + 1))},
    )


def apart(result: Batch, shape: tuple[int, ...]) -> torch.Tensor:
    """Voxels, along the axis where they are most, between where a voxel's intensity and its label were read."""
    origin = torch.stack(torch.unravel_index(result.target["label"][:, 0], shape), dim=1).float()
    return (result.image - origin).abs().amax(1)[result.mask[:, 0]]


@pytest.mark.parametrize("part", SPATIAL)
@pytest.mark.parametrize("dims", [2, 3])
def test_each_move_takes_image_and_label_along(part, dims):
    shape = (24, 22, 20)[:dims]
    batch = coded(shape)
    moved = 0.0
    for step in range(5):
        result = Augmentation(only(**{part: 1.0}), dims)(batch, Draw(1, step))
        assert apart(result, shape).max() <= 0.5 + 1e-3
        moved = max(moved, (result.image - batch.image)[result.mask.expand_as(result.image)].abs().max().item())
    assert moved > 0.75


@settings(max_examples=25, deadline=None)
@given(
    extents=st.lists(st.integers(4, 20), min_size=2, max_size=3),
    pitch=st.lists(st.floats(0.5, 5), min_size=3, max_size=3),
    margin=st.sampled_from([0.0, 0.3]),
    step=st.integers(0, 10**6),
)
def test_image_and_label_move_together_whatever_happens(extents, pitch, margin, step):
    """A label never lies more than half a voxel from the intensities that it belongs to, flips and margins included."""
    dims, patch = len(extents), tuple(extents)
    config = AugmentationConfig(
        preset="none",
        flip=(0.5,) * dims,
        margin=margin,
        rotation={"probability": 0.7, "degrees": 60},
        scale={"probability": 0.7, "lower": 0.5, "upper": 2},
        elastic={"probability": 0.7, "displacement": 4, "spacing": 10},
    )
    augment = Augmentation(config, dims, pitch[:dims], patch)
    window = tuple(size + 2 * more for size, more in zip(patch, augment.margin, strict=True))
    result = augment(coded(window, 3), Draw(0, step))
    assert result.image.shape == (3, dims, *patch)
    assert result.mask.flatten(1).any(1).all()
    assert apart(result, window).max() <= 0.5 + 2e-3


@pytest.mark.parametrize("patch", [(20, 16), (14, 12, 10)])
def test_what_turns_brings_the_margin_into_the_corners(patch):
    dims = len(patch)
    config = AugmentationConfig(preset="none", margin=0.5, rotation={"probability": 1, "degrees": 15})
    augment = Augmentation(config, dims, patch=patch)
    assert augment.margin == tuple(size // 2 for size in patch)
    window = coded(tuple(2 * size for size in patch), 4)
    middle = (..., *(slice(size // 2, size // 2 + size) for size in patch))
    bare = Batch(window.image[middle], window.present, window.mask[middle], {"label": window.target["label"][middle]})
    result, without = augment(window, Draw(0, 0)), augment(bare, Draw(0, 0))
    assert result.mask.all()
    assert not without.mask.all()
    both = without.mask.expand_as(result.image)
    assert (result.image - without.image)[both].abs().max() <= 0.5 + 1e-3
    assert torch.equal(result.target["label"][without.mask], without.target["label"][without.mask])


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_what_does_not_move_is_the_middle_of_what_was_read(chance):
    batch = batch_of(2, (12, 11))
    config = AugmentationConfig(preset="none", flip=(chance, 0.0), margin=0.25, rotation={"probability": 1e-9})
    augment = Augmentation(config, 2, patch=(8, 7))
    assert augment.margin == (2, 2)
    result = augment(batch, Draw(0, 0))
    for name, before, after in (
        ("image", batch.image, result.image),
        ("mask", batch.mask, result.mask),
        ("label", batch.target["label"], result.target["label"]),
    ):
        middle = before[..., 2:10, 2:9]
        assert torch.equal(after, middle.flip(2) if chance else middle), name


def test_no_margin_is_read_where_nothing_can_move():
    assert Augmentation(AugmentationConfig(preset="strong"), 3, (1.0, 1.0, 1.0), (32, 32, 8)).margin == (7, 7, 0)
    assert Augmentation(AugmentationConfig(preset="none", margin=0.5), 3, patch=(32, 32, 8)).margin == (0, 0, 0)
    assert Augmentation(AugmentationConfig(), 3, patch=(32, 32, 8)).margin == (0, 0, 0)


@pytest.mark.parametrize("shape", [(15, 14), (13, 12, 11)])
def test_flip_composes_with_the_other_moves(shape):
    batch = batch_of(3, shape, border=2)
    mirrored = Batch(batch.image.flip(2), batch.present, batch.mask.flip(2), {"label": batch.target["label"].flip(2)})
    moves = {"rotation": 1.0, "scale": 1.0, "elastic": 1.0}
    both = Augmentation(only((1.0,) + (0.0,) * (len(shape) - 1), **moves), len(shape))(batch, Draw(0, 2))
    after = Augmentation(only(**moves), len(shape))(mirrored, Draw(0, 2))
    assert torch.allclose(both.image, after.image, atol=1e-4)
    assert torch.equal(both.target["label"], after.target["label"])
    assert not torch.allclose(after.image, mirrored.image, atol=0.1)


def test_rotation_is_rigid_in_millimetres():
    # a square of 8 mm in voxels of 1 x 2 mm, turned by some angle: distances in mm are kept
    shape, spacing = (64, 32), (1.0, 2.0)
    config = AugmentationConfig.model_validate(
        {part: {"probability": 0} for part in PARTS} | {"rotation": {"probability": 1, "degrees": 90}}
    )
    ramp = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(32.0) * 2, indexing="ij"))[None]
    batch = Batch(ramp, torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 1, *shape, dtype=torch.bool))
    result = Augmentation(config, 2, spacing)(batch, Draw(0, 3)).image[0]
    middle = result[:, 28:36, 14:18]
    down = middle[:, 1:, :] - middle[:, :-1, :]
    across = middle[:, :, 1:] - middle[:, :, :-1]
    assert torch.allclose(down.norm(dim=0), torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(across.norm(dim=0), torch.tensor(2.0), atol=1e-3)
    assert down.mean((1, 2))[1].abs() > 0.05


def test_short_axis_keeps_still():
    shape = (32, 32, 4)
    depth = torch.arange(4.0).expand(1, 1, *shape).clone()
    batch = Batch(depth, torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, *shape, dtype=torch.bool))
    for step in range(5):
        result = Augmentation(only(rotation=1.0, scale=1.0, elastic=1.0), 3)(batch, Draw(0, step))
        assert torch.allclose(result.image[result.mask], depth[result.mask], atol=1e-4)
        assert (~result.mask).any() or result.mask.all()


def test_content_of_the_edge_is_not_mixed_with_background():
    batch = batch_of(4, (20, 20, 20), border=4)
    constant = Batch(batch.mask.float() * 5, batch.present, batch.mask, batch.target)
    result = Augmentation(only(rotation=1.0, scale=1.0, elastic=1.0, blur=1.0), 3)(constant, Draw(0, 0))
    assert torch.allclose(result.image[result.mask], torch.tensor(5.0), atol=1e-4)
    assert not torch.equal(result.mask, batch.mask)


def test_absent_channels_stay_zero():
    batch = batch_of(2, (10, 10), channels=2)
    image = batch.image.clone()
    image[0, 1] = 0
    present = torch.tensor([[True, False], [True, True]])
    result = Augmentation(always(), 2)(Batch(image, present, batch.mask, batch.target), Draw(0, 0))
    assert (result.image[0, 1] == 0).all()
    assert (result.image[1, 1] != 0).any()


def test_presets_are_chosen_by_name_and_modality_and_a_given_transformation_replaces_theirs():
    assert AugmentationConfig().transforms(ct=False) == LIGHT_MR
    assert AugmentationConfig().transforms(ct=True) == LIGHT_CT
    assert AugmentationConfig(preset="strong").transforms(ct=False) == STRONG_MR
    assert AugmentationConfig(preset="strong").transforms(ct=True) == STRONG_CT
    assert AugmentationConfig(preset="strong", modality="mr").transforms(ct=True) == STRONG_MR
    own = AugmentationConfig.model_validate({"preset": "strong", "noise": {"std": 0.5}, "margin": 0}).transforms(ct=True)
    assert own.noise.std == 0.5
    assert own.margin == 0
    assert own.blur == STRONG_CT.blur
    again = AugmentationConfig.model_validate(to_dict(AugmentationConfig(preset="strong")))
    assert again.transforms(ct=False) == STRONG_MR


@pytest.mark.parametrize(("ct", "mr"), [(LIGHT_CT, LIGHT_MR), (STRONG_CT, STRONG_MR)])
def test_ct_keeps_its_units(ct, mr):
    assert ct.bias_field.probability == ct.gamma.probability == ct.inverted_gamma.probability == 0
    assert ct.brightness.shift == 0.05 < mr.brightness.shift
    assert (ct.contrast.lower, ct.contrast.upper) == (0.9, 1.1)
    assert ct.noise == mr.noise and ct.rotation == mr.rotation


def test_every_transformation_of_intensity_is_drawn():
    assert sorted(GATES) == sorted(LIGHT_MR.intensities()) == sorted(INTENSITY)


@pytest.mark.parametrize("part", INTENSITY)
def test_each_transformation_of_intensity_happens_with_its_probability_alone(part):
    batch = batch_of(8, (12, 11))
    result = Augmentation(only(**{part: 0.5}), 2)(batch, Draw(2, 0))
    differ = (result.image != batch.image).flatten(1).any(1)
    assert 0 < differ.sum() < 8
    assert torch.equal(result.mask, batch.mask)
    assert torch.equal(result.target["label"], batch.target["label"])


@pytest.mark.parametrize("shape", [(24, 20), (14, 12, 10)])
@pytest.mark.parametrize("ct", [True, False])
def test_the_strong_preset_leaves_finite_values_and_zero_outside_the_mask(shape, ct):
    batch = batch_of(4, shape, channels=2, border=2)
    augment = Augmentation(AugmentationConfig(preset="strong"), len(shape), ct=ct)
    for step in range(4):
        result = augment(batch, Draw(0, step))
        assert torch.isfinite(result.image).all()
        assert (result.image[~result.mask.expand_as(result.image)] == 0).all()
        assert set(result.target["label"].unique().tolist()) <= {0, 7}


def test_wrong_number_of_flips_is_an_error():
    with pytest.raises(ConfigError, match="flip has 2 entries"):
        Augmentation(only(flip=(0.5, 0.5)), 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"elastic": {"displacement": 8.0, "spacing": 16.0}},
        {"scale": {"lower": 2.0, "upper": 1.0}},
        {"noise": {"probability": 1.5}},
        {"preset": "heavy"},
        {"low_resolution": {"lower": 0.5}},
        {"bias_field": {"gain": 0.5}},
        {"flip": (0.5, -0.1)},
        {"zoom": 1},
    ],
)
def test_senseless_configurations_are_refused(wrong):
    with pytest.raises(ValidationError):
        AugmentationConfig.model_validate(wrong)


def test_the_page_on_augmentation_tells_the_presets():
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "augmentation.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert set(rows) == set(vars(LIGHT_MR))
    for name, cells in rows.items():
        told = [[float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)] for cell in cells.split(" | ")]
        for numbers, preset in zip(told, (LIGHT_MR, LIGHT_CT, STRONG_MR, STRONG_CT), strict=True):
            part = getattr(preset, name)
            values = [part] if name == "margin" else [value for key, value in to_dict(part).items() if key != "one_axis"]
            if name == "noise":
                values.insert(1, 0.0)  # the least strength
            assert numbers == (values if values[0] else [0.0]), name


def test_a_channel_changes_alike_in_all_slices_that_a_network_sees():
    one = batch_of(8, (24, 20), channels=2, border=3)
    stacked = replace(one, image=one.image.repeat(1, 3, 1, 1), slices=3)
    config = only(rotation=1.0, bias_field=1.0, gamma=1.0, contrast=1.0, brightness=1.0, blur=1.0, low_resolution=1.0)
    augment = Augmentation(config, 2)
    alone, together = augment(one, Draw(0, 0)), augment(stacked, Draw(0, 0))
    assert together.image.shape == (8, 6, 24, 20)
    torch.testing.assert_close(together.image, alone.image.repeat(1, 3, 1, 1))
    assert not torch.allclose(alone.image, one.image, atol=0.1)
    assert torch.equal(together.mask, alone.mask)
