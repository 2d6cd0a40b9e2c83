"""Registration: a known deformation is found again, in millimetres; a deformed case keeps its intensities and its labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from medae.data.sources import MSDSource, open_manifest
from medae.errors import DataError
from medae.plan import CTWindow, RobustZ, SpacePlan
from medae.preprocessing.entry import Entry
from medae.preprocessing.registration import Deformation, deform, likeness, register
from medae.preprocessing.store import build_store
from medae.volume import NativeGrid

SPACING = (1.0, 2.0, 1.5)
SHAPE = (36, 20, 26)
HU = CTWindow(mean=0, std=1)  # absolute: not scaled again


def body(shape: tuple[int, int, int] = SHAPE, spacing=SPACING, shift=(0.0, 0.0, 0.0), stretch=(1.0, 1.0, 1.0)):
    """A bright ellipsoid with a brighter ball in it, mm around the middle: the image, and labels 1 and 2 of them."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    x, y, z = ((each - move) / by for each, move, by in zip((x, y, z), shift, stretch, strict=True))
    labels = ((x / 12) ** 2 + (y / 14) ** 2 + (z / 13) ** 2 < 1).astype(np.int16)
    labels[(x - 3) ** 2 + (y + 2) ** 2 + z**2 < 25] = 2
    image = ndimage.gaussian_filter(np.array([0.0, 2.0, 4.0])[labels], 0.8).astype(np.float32)
    return image, labels


def entry(image: np.ndarray, labels: np.ndarray, spacing=SPACING, name: str = "case") -> Entry:
    affine = np.diag([*spacing, 1.0])
    native = NativeGrid(shape=image.shape, affine=tuple(map(tuple, affine.tolist())))
    whole, none = np.ones((1, *image.shape), bool), np.empty((0, 3), np.int16)
    there = np.array([True])
    return Entry(name, name, image[None], there, whole, {"label": labels[None]}, none, {"label": {}}, native, affine)


def dice(first: np.ndarray, second: np.ndarray, label: int) -> float:
    one, two = first == label, second == label
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def test_a_shift_is_found_in_millimetres_between_grids_of_other_spacings():
    """The moving scan has voxels of 2 mm and its body 4 mm to the right, 3 mm to the back."""
    fixed, _ = body()
    shape = (20, 24, 22)
    moving, _ = body(shape, (2.0, 2.0, 2.0), shift=(4.0, -3.0, 0.0))
    found = register(fixed, moving, SPACING, (2.0, 2.0, 2.0))
    middle = [(size - 1) / 2 * step for size, step in zip(SHAPE, SPACING, strict=True)]
    expected = [(size - 1) / 2 * 2.0 + by for size, by in zip(shape, (4.0, -3.0, 0.0), strict=True)]
    ball = (3.0, -2.0, 0.0)
    for away in ((0.0, 0.0, 0.0), ball):
        point = found.TransformPoint([a + b for a, b in zip(middle, away, strict=True)])
        assert point == pytest.approx([a + b for a, b in zip(expected, away, strict=True)], abs=1.0)


def test_labels_lie_on_those_of_the_scan_whose_shape_was_taken():
    fixed, truth = body()
    moving, labels = body(shift=(2.0, -3.0, 2.0), stretch=(0.85, 1.1, 0.9))
    rng = np.random.default_rng(0)
    noisy = [image + rng.normal(0, 0.1, SHAPE).astype(np.float32) for image in (fixed, moving)]
    found = register(noisy[0], noisy[1], SPACING, SPACING)
    deformed = deform(entry(moving, labels), entry(fixed, truth), found, "moving as fixed", HU)
    now = deformed.targets["label"][0].numpy()
    for label in (1, 2):
        assert dice(labels, truth, label) < 0.75
        assert dice(now, truth, label) > 0.9
    assert likeness(deformed.image[0].numpy(), fixed, deformed.mask[0].numpy()) > 0.97


@pytest.mark.parametrize("spacing", [None, 3.0, 4.5])
def test_nothing_is_folded_or_torn_up_to_the_rim(spacing):
    """The coarser grids do not divide the scan's 37 x 21 x 27 voxels, and everything moves at the rim too."""
    shape = (37, 21, 27)
    fixed, _ = body(shape)
    moving, _ = body(shape, shift=(2.0, -3.0, 2.0), stretch=(0.7, 1.2, 0.8))
    waves = [np.sin(np.indices(shape).sum(axis=0) / 3 + phase).astype(np.float32) for phase in (0.0, 1.0)]
    found = register(fixed + waves[0], moving + waves[1], SPACING, SPACING, Deformation(spacing=spacing))
    field = sitk.TransformToDisplacementField(found, sitk.sitkVectorFloat64, shape, (0.0, 0.0, 0.0), SPACING)
    assert sitk.GetArrayViewFromImage(sitk.DisplacementFieldJacobianDeterminant(field)).min() > 0
    moved = sitk.GetArrayFromImage(field)
    for axis, (steps, size) in enumerate(zip((27, 21, 37), reversed(SPACING), strict=True)):
        jumps = np.abs(np.diff(moved, axis=axis)).max(axis=-1)
        last = np.take(jumps, steps - 2, axis=axis)
        assert np.median(last) < 0.5 * size, "the last voxels move with their neighbours"


def test_nothing_is_changed_where_nothing_moves():
    image, labels = body()
    case = entry(image, labels)
    same = deform(case, case, sitk.Transform(3, sitk.sitkIdentity), "same", HU)
    assert torch.equal(same.image[0], torch.from_numpy(image)) and same.mask.all()
    assert torch.equal(same.targets["label"][0], torch.from_numpy(labels))
    assert same.targets["label"].dtype == torch.int16 and same.image.dtype == torch.float32
    assert same.case_id == "same" and np.array_equal(same.affine, case.affine) and same.native.shape == SHAPE


def test_what_comes_from_beyond_the_scan_is_outside_the_mask():
    """Five voxels of 1 mm to the right: the scan ends five voxels before its other edge. Its own mask goes along."""
    image, labels = body()
    whole = entry(image + 10, labels)
    masked = whole.mask.copy()
    masked[:, :, :2] = False
    case = replace(whole, mask=masked)
    moved = deform(case, whole, sitk.TranslationTransform(3, (5.0, 0.0, 0.0)), "moved", HU)
    assert not moved.mask[0, -5:].any() and not moved.image[0, -5:].any() and not moved.targets["label"][0, -5:].any()
    assert not moved.mask[0, :, :2].any() and not moved.image[0, :, :2].any()
    assert torch.equal(moved.image[0, :-5, 2:], torch.from_numpy(case.image[0, 5:, 2:]))
    assert torch.equal(moved.targets["label"][0, :-5], torch.from_numpy(labels[5:]))


def test_the_foreground_keeps_its_intensities_up_to_its_edge():
    """A block of -2 in a background of 0, moved by 0.4 of a voxel: every voxel of the mask is -2, none fades."""
    image = np.zeros(SHAPE, np.float32)
    image[8:20, 5:14, 6:18] = -2
    whole = entry(image, (image != 0).astype(np.int16))
    case = replace(whole, mask=(image != 0)[None])
    moved = deform(case, whole, sitk.TranslationTransform(3, (0.4, 0.8, -0.6)), "moved", HU)
    inside = moved.image[moved.mask]
    assert len(inside) == pytest.approx(12 * 9 * 12, rel=0.03), "corners are rounded"
    assert torch.allclose(inside, torch.tensor(-2.0)) and not moved.image[~moved.mask].any()


def test_a_scan_whose_distance_of_slices_is_wrong_is_stretched_to_fit():
    """Slices said to be 5 mm apart that are 1.5: five thirds of three times too long, and registered all the same."""
    fixed, truth = body()
    moving, labels = body(shift=(2.0, -3.0, 2.0))
    wrong = (1.0, 2.0, 5.0)
    found = register(fixed, moving, SPACING, wrong)
    now = deform(entry(moving, labels, wrong), entry(fixed, truth), found, "x", HU).targets["label"][0].numpy()
    assert dice(now, truth, 1) > 0.85


def test_where_the_whole_scan_is_foreground_its_rim_is_repeated():
    """Nothing is known beyond a crop; a block of zeros there would be an edge that no scan has."""
    image, labels = body()
    labels[-1] = 1
    whole = entry(image + 10, labels)
    moved = deform(whole, whole, sitk.TranslationTransform(3, (5.0, 0.0, 0.0)), "moved", HU)
    assert moved.mask.all()
    assert torch.equal(moved.image[0, -6:], torch.from_numpy(whole.image[0, -1:]).expand(6, -1, -1))
    assert moved.targets["label"][0, -6:].eq(1).all()


def test_mr_is_scaled_again_in_the_new_shape_and_ct_is_not():
    """The middle of a scan fills the other's grid: more of its foreground is bright."""
    image, labels = body()
    masked = image > 0.5
    case = replace(entry(np.where(masked, image - 1, 0).astype(np.float32), labels), mask=masked[None])
    larger = sitk.ScaleTransform(3, (0.6, 0.6, 0.6))
    larger.SetCenter([(size - 1) / 2 * step for size, step in zip(SHAPE, SPACING, strict=True)])
    plain = deform(case, case, larger, "x", HU)
    scaled = deform(case, case, larger, "x", RobustZ())
    values = scaled.image[scaled.mask]
    assert float(values.median()) == pytest.approx(0, abs=1e-6)
    assert 1.4826 * float(values.abs().median()) == pytest.approx(1, abs=1e-5)
    assert float(plain.image.max()) == pytest.approx(float(case.image.max()), abs=0.1)
    assert torch.equal(plain.mask, scaled.mask) and not scaled.image[~scaled.mask].any()


def test_an_absent_channel_stays_absent():
    image, labels = body()
    one = entry(image, labels)
    case = replace(one, image=np.stack([image, np.zeros_like(image)]), present=np.array([True, False]))
    moved = deform(case, one, sitk.TranslationTransform(3, (0.0, 2.0, 0.0)), "moved", HU)
    assert moved.present.tolist() == [True, False] and not moved.image[1].any() and moved.image[0].any()


def test_the_same_scans_give_the_same_bits_in_any_number_of_threads():
    fixed, moving = body()[0], body(shift=(2.0, 0.0, 1.0))[0]
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    points = []
    try:
        for threads in (1, 2, 2):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found = register(fixed, moving, SPACING, SPACING)
            points.append([found.TransformPoint((x, 11.0, 13.0)) for x in (3.0, 14.5, 30.0)])
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert points[0] == points[1] == points[2]


@pytest.mark.parametrize("config", [Deformation(spacing=3.0), Deformation(smooth=2.0)])
def test_coarser_and_smoother_registrations_find_the_body_too(config):
    fixed, truth = body()
    moving, labels = body(shift=(2.0, -3.0, 2.0), stretch=(0.85, 1.1, 0.9))
    found = register(fixed, moving, SPACING, SPACING, config)
    plain = register(fixed, moving, SPACING, SPACING)
    now = deform(entry(moving, labels), entry(fixed, truth), found, "x", HU).targets["label"][0].numpy()
    assert dice(now, truth, 1) > 0.85
    assert found.TransformPoint((10.0, 10.0, 10.0)) != plain.TransformPoint((10.0, 10.0, 10.0)), "the setting has an effect"


def test_scans_without_contrast_keep_their_middles_on_each_other():
    flat = np.zeros(SHAPE, np.float32)
    found = register(flat, flat, SPACING, SPACING)
    assert found.TransformPoint((17.5, 19.0, 18.75)) == pytest.approx((17.5, 19.0, 18.75), abs=1e-6)


def test_a_thin_scan_is_refused():
    image, _ = body()
    with pytest.raises(DataError, match="fewer than 8 voxels"):
        register(image, image[:, :, :7], SPACING, SPACING)


def test_likeness_is_the_correlation_within_the_mask():
    first = np.array([1.0, 2.0, 3.0, 100.0]).reshape(2, 2, 1)
    where = np.array([True, True, True, False]).reshape(2, 2, 1)
    assert likeness(first, first * -2 + 1, where) == pytest.approx(-1)
    assert likeness(first, np.array([1.0, 1.0, 2.0, 0]).reshape(2, 2, 1), where) == pytest.approx(np.sqrt(3) / 2)
    assert likeness(first, np.ones((2, 2, 1)), where) == 0 == likeness(first, first, np.zeros_like(where))


def test_real_hippocampi_take_each_others_shapes(data_root: Path, tmp_path: Path):
    """A labelled scan in the shapes of three others, which it then fits better than put middle on middle."""
    manifest = open_manifest(MSDSource(root=data_root / "hippocampus"))
    manifest = manifest.model_copy(update={"cases": manifest.cases[:4]})
    store = build_store(manifest, SpacePlan(channels=manifest.channels, foreground="all"), tmp_path, ["label"])
    moving, *others = (store[case] for case in store.case_ids)
    before, after, alike = [], [], []
    for fixed in others:
        middles = [(np.array(each.shape) - 1) / 2 * each.spacing for each in (fixed, moving)]
        there = sitk.TranslationTransform(3, (middles[1] - middles[0]).tolist())
        found = register(fixed.image[0], moving.image[0], fixed.spacing, moving.spacing)
        for transform, scores in ((there, before), (found, after)):
            labels = deform(moving, fixed, transform, "x", HU).targets["label"][0].numpy()
            scores.append(np.mean([dice(labels, fixed.targets["label"][0], label) for label in (1, 2)]))
        alike.append(likeness(deform(moving, fixed, found, "x", HU).image[0].numpy(), fixed.image[0], fixed.mask[0]))
    assert np.mean(after) > np.mean(before) + 0.08
    assert min(alike) > 0.8
