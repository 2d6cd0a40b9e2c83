"""What is recorded of training scans: ranges over all of them, absent channels, sides that structures reach."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.data.case import Case, ImageRef, Manifest
from medae.plan import SpacePlan
from medae.preprocessing.domain import domain_of, sides_reached
from medae.preprocessing.store import build_store
from medae.volume import NativeGrid


def grid(shape: tuple[int, int, int], crop=None, affine=None) -> NativeGrid:
    affine = np.eye(4) if affine is None else affine
    return NativeGrid(shape=shape, affine=tuple(map(tuple, affine.tolist())), crop=crop)


def test_sides_are_those_of_the_body_and_of_the_whole_image():
    labels = np.zeros((4, 5, 6), dtype=np.int16)
    labels[0, 2, 2] = 1  # left
    labels[3, 4, 5] = 2  # right, anterior, superior
    labels[2, 2, 2] = 3
    found = sides_reached(labels, grid((4, 5, 6)))
    assert found == {1: ("left",), 2: ("right", "anterior", "superior"), 3: ()}
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert sides_reached(labels, grid((4, 5, 6), affine=turned)) == found, "arrays are on nearest-RAS axes already"
    cropped = grid((10, 5, 6), crop=((3, 7), (0, 5), (0, 5)))
    assert sides_reached(labels[:, :, :5], cropped) == {1: (), 3: ()}
    labels[3, 4, 4] = 2
    assert sides_reached(labels[:, :, :5], cropped)[2] == ("anterior",)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    cases = []
    for number, (size, step) in enumerate(((8, 1.0), (10, 1.5))):
        image = np.zeros((size, size, size), dtype=np.float32)
        image[1:-1, 1:-1, 1:-1] = np.random.default_rng(number).uniform(1, 2, (size - 2,) * 3)
        label = np.zeros(image.shape, dtype=np.uint8)
        label[3, 3, 3] = 1
        if number:
            image[4:6, 4:6, :] = 1.5
            label[4, 4, 0:4] = 2  # reaches the inferior side
        names = {"T1": image, "label": label} | ({"T2": image} if number == 0 else {})
        for name, array in names.items():
            nib.save(nib.Nifti1Image(array, np.diag([step, step, step, 1])), tmp_path / f"{number}_{name}.nii.gz")
        refs = {
            name: ImageRef(files=(f"{number}_{name}.nii.gz",), sha256=f"{number}{name}", kind="intensity") for name in names
        }
        refs["label"] = refs["label"].model_copy(update={"kind": "labels"})
        label_ref = refs.pop("label")
        images = {name: ref.model_copy(update={"modality": "MR"}) for name, ref in refs.items()}
        cases.append(Case(id=str(number), subject=str(number), images=images, targets={"label": label_ref}))
    return Manifest(source="test", root=tmp_path, channels=("T1", "T2"), cases=tuple(cases))


def test_the_domain_of_two_scans(manifest: Manifest, tmp_path: Path):
    space = SpacePlan(channels=("T1", "T2"))
    store = build_store(manifest, space, tmp_path / "store", ["label"])
    found = domain_of(manifest, store, "label")
    assert found.scans == 2 and found.modalities == ("MR",)
    assert found.spacing == ((1.0, 1.5),) * 3
    assert found.extent[0] == (6.0, 12.0) and found.extent[2] == (6.0, 15.0), "the box of what is not 0"
    assert found.absent == ("T2",)
    assert found.reached == {1: (), 2: ("inferior",)}
    assert domain_of(manifest, store).reached == {}
    assert "1 to 1.5 mm left to right" in found.in_words()["Voxels"]
