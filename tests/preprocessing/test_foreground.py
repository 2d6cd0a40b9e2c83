"""Foreground masks on shapes with a known answer and on real heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medae.formats.read import read_volume
from medae.preprocessing.foreground import foreground_mask


def ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.linalg.norm(index - np.asarray(centre), axis=-1) <= radius


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_all_and_nonzero() -> None:
    image = torch.zeros(2, 7, 7, 7)
    image[0, 1:5, 1:5, 1:5] = -3
    image[0, 2, 2, 2] = 0  # an enclosed hole belongs to the foreground
    image[1, 6, 6, 6] = 1
    mask = foreground_mask(image, "nonzero")
    assert mask.shape == (1, 7, 7, 7)
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == 4**3 + 1
    assert foreground_mask(image, "all").all()


def test_head_is_found_in_noise_with_dark_bone_inside_and_bright_fat_outside() -> None:
    shape, centre = (64, 64, 64), (32, 30, 34)
    head, bone, brain = (ball(shape, centre, radius) for radius in (24, 22, 19))
    image = np.abs(np.random.default_rng(0).normal(0, 5, shape))
    image[head] = 400.0
    image[bone] = 8.0
    image[brain] = 100.0
    image[ball(shape, centre, 5)] = 5.0
    image[2:6, 2:6, 2:6] = 300.0  # something beside the head
    mask = foreground_mask(torch.from_numpy(image.astype(np.float32))[None], "head")[0].numpy()
    assert mask[head].all()
    assert not mask[~ball(shape, centre, 26)].any()


def test_thick_slices_do_not_run_into_their_neighbours() -> None:
    image = np.zeros((64, 64, 10))
    image[16:48, 16:48, 2:8] = 100.0
    image[16:48, 16:48, 2] = 400.0
    mask = foreground_mask(torch.from_numpy(image.astype(np.float32))[None], "head")[0].numpy()
    assert mask.any(axis=(0, 1)).tolist() == [False] * 2 + [True] * 6 + [False] * 2


def test_a_channel_without_contrast_does_not_decide() -> None:
    image = torch.zeros(2, 32, 32, 32)
    image[0, 8:24, 8:24, 8:24] = 50
    image[1] = 1e6
    assert dice(foreground_mask(image, "head")[0].numpy(), (image[0] > 0).numpy()) > 0.85
    assert not foreground_mask(image[1:], "head").any()


@pytest.mark.data
def test_head_on_real_scans(data_root: Path) -> None:
    """T1: it holds the brain and the skull, not the air. FLAIR: one filled piece in every slice through the brain."""
    for number in ("034", "451"):
        scan = next(data_root.glob(f"ixi_t1/sub-IXI{number}/anat/*_T1w.nii.gz"))
        regions = next(data_root.glob(f"ixi_t1/derivatives/dlmuse/sub-IXI{number}/**/*.nii.gz"))
        image = read_volume([scan], "intensity").image.as_tensor()
        brain = read_volume([regions], "mask").image[0].numpy() > 0
        mask = foreground_mask(image, "head")[0].numpy()
        assert mask[ndimage.binary_fill_holes(brain)].mean() > 0.999
        assert 1.6 < mask.sum() / brain.sum() < 4
    for file in sorted(data_root.glob("lgg/imagesTr/*.nii.gz"))[::12]:
        image = read_volume([file], "intensity").image.as_tensor()
        mask = foreground_mask(image, "head")[0].numpy()
        labels = Path(str(file).replace("imagesTr", "labelsTr").replace("_0000", ""))
        lesion = read_volume([labels], "mask").image[0].numpy() > 0
        assert mask[lesion].mean() > 0.99
        middle = mask[..., mask.shape[2] // 2]
        assert 0.15 < middle.mean() < 0.7
        np.testing.assert_array_equal(ndimage.binary_fill_holes(middle), middle)
