"""A labelled data set in a folder: noise with a bright cube, of another size in each scan."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

NAMES = tuple(f"scan{number}" for number in range(9))


def write_cubes(folder: Path) -> Path:
    """Scans in ``image``, the label maps of all of them in ``mask``; returns the folder."""
    for place, name in enumerate(NAMES):
        label = np.zeros((16, 16, 12), np.uint8)
        label[4 : 8 + place % 3, 4:10, 3:8] = 1
        noise = np.random.default_rng(place).normal(100, 5, label.shape).astype(np.float32)
        for kind, array in (("image", noise + 30 * label), ("mask", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"{name}.nii.gz")
    return folder
