"""From a file to plan space and back, over random geometries: what is kept, and how closely.

Geometries: oblique by up to 45 degrees about any axis, axes permuted and flipped, anisotropic up to 1:5, plan spacings finer
or coarser than the file's. With ``h`` the larger of the file's and the plan's spacing along each axis:

- the file's own spacing: the same bits, there and back;
- an image whose structures are 12 h or longer from crest to crest comes back within 8 % of its amplitude, to the very edge;
- a blob of 8 h radius keeps its volume within 16 % in plan space, and within 12 % there and back, with a Dice of at least
  0.93: a label's surface moves by up to half a voxel of the file along each axis and voxels are counted whole;
- a plan that is finer along every axis brings back every label exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medae.data.case import Case, ImageRef, Manifest
from medae.inference.native import labels_to_native, maps_to_native
from medae.plan import CTWindow, SpacePlan
from medae.preprocessing.prepare import Prepared, prepare_case

WAVE, IMAGE = 12.0, 0.08
RADIUS, VOLUME, BACK, DICE = 8.0, 0.16, 0.12, 0.93
SAME = CTWindow(lower=-1e6, upper=1e6, mean=0.0, std=1.0)
SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Geometry:
    """A file's grid: voxels and mm along its axes, and a 4x4 affine."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: np.ndarray

    def world(self) -> np.ndarray:
        index = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"))
        return np.einsum("ab,bijk->aijk", self.affine[:3, :3], index) + self.affine[:3, 3, None, None, None]

    def coarser(self, plan: tuple[float, ...]) -> np.ndarray:
        """h along the file's axes, mm. plan: spacing along the nearest-RAS axes."""
        axes = nib.io_orientation(self.affine)[:, 0].astype(int)
        return np.maximum(self.spacing, np.asarray(plan)[axes])


@st.composite
def geometries(draw: st.DrawFn, sizes: tuple[int, int] = (3, 22), spacings: tuple[float, float] = (0.6, 3.0)) -> Geometry:
    shape = draw(st.tuples(*[st.integers(*sizes)] * 3))
    spacing = draw(st.tuples(*[st.floats(*spacings)] * 3))
    order = draw(st.permutations(range(3)))
    signs = np.array(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-45, 45)] * 3)), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ (np.eye(3)[:, order] * signs * spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Geometry(shape, spacing, affine.astype(np.float32).astype(np.float64))  # as a header keeps it


def prepared(
    folder: Path, geometry: Geometry, spacing: tuple[float | None, ...], image: np.ndarray, label: np.ndarray | None = None
) -> Prepared:
    refs = {}
    for name, array in (("image", image), ("label", np.zeros(geometry.shape) if label is None else label)):
        file = nib.Nifti1Image(array.astype(np.float32 if name == "image" else np.int16), geometry.affine)
        nib.save(file, folder / f"{name}.nii")
        refs[name] = ImageRef(files=(f"{name}.nii",), sha256=name, kind="intensity" if name == "image" else "labels")
    case = Case(id="a", subject="a", images={"image": refs["image"]}, targets={"label": refs["label"]})
    manifest = Manifest(source="test", root=folder, channels=("image",), cases=(case,))
    return prepare_case(manifest, case, SpacePlan(spacing=spacing, intensity=SAME, foreground="all"), ["label"])


plans = st.tuples(*[st.floats(0.6, 3.0)] * 3)


@SETTINGS
@given(geometries(), st.integers(0, 2**32 - 1))
def test_the_files_own_spacing_keeps_every_bit(tmp_path: Path, geometry: Geometry, seed: int) -> None:
    random = np.random.default_rng(seed)
    image, label = random.normal(0, 99, geometry.shape).astype(np.float32), random.integers(0, 9, geometry.shape)
    found = prepared(tmp_path, geometry, (None, None, None), image, label)
    np.testing.assert_array_equal(maps_to_native(found.image, found)[0], image)
    np.testing.assert_array_equal(labels_to_native(found.targets["label"], found), label)


@SETTINGS
@given(geometries(), plans, st.tuples(*[st.floats(0, 2 * np.pi)] * 3))
def test_a_smooth_image_comes_back(
    tmp_path: Path, geometry: Geometry, plan: tuple[float, ...], phases: tuple[float, ...]
) -> None:
    index = np.meshgrid(*map(np.arange, geometry.shape), indexing="ij")
    lengths = WAVE * geometry.coarser(plan)
    # a wave along each axis of the file, amplitude 1 in all
    waves = [
        np.cos(2 * np.pi * place * step / length + phase)
        for place, step, length, phase in zip(index, geometry.spacing, lengths, phases, strict=True)
    ]
    image = sum(waves) / 3
    found = prepared(tmp_path, geometry, plan, image)
    assert np.abs(maps_to_native(found.image, found)[0] - image).max() <= IMAGE


def blob(geometry: Geometry, plan: tuple[float, ...], where: tuple[float, ...]) -> np.ndarray:
    """An ellipsoid of RADIUS h along each axis, around a place near the middle (in voxels of the file)."""
    index = np.meshgrid(*map(np.arange, geometry.shape), indexing="ij")
    radii = RADIUS * geometry.coarser(plan) / geometry.spacing
    parts = [
        ((place - (size - 1) / 2 - shift) / radius) ** 2
        for place, size, shift, radius in zip(index, geometry.shape, where, radii, strict=True)
    ]
    return sum(parts) <= 1


@SETTINGS
@given(geometries((54, 60), (0.8, 2.4)), st.tuples(*[st.floats(0.8, 2.4)] * 3), st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_a_label_keeps_its_volume(
    tmp_path: Path, geometry: Geometry, plan: tuple[float, ...], where: tuple[float, ...]
) -> None:
    label = blob(geometry, plan, where)
    found = prepared(tmp_path, geometry, plan, label.astype(np.float32), label)
    volume = label.sum() * np.prod(geometry.spacing)
    assert float(found.targets["label"].sum()) * np.prod(found.spacing) == pytest.approx(volume, rel=VOLUME)
    back = labels_to_native(found.targets["label"], found) > 0
    assert back.sum() == pytest.approx(label.sum(), rel=BACK)
    assert 2 * (back & label).sum() / (back.sum() + label.sum()) >= DICE


@SETTINGS
@given(geometries(), st.tuples(*[st.floats(0.2, 1.0)] * 3), st.integers(0, 2**32 - 1))
def test_a_finer_plan_brings_back_every_label(
    tmp_path: Path, geometry: Geometry, finer: tuple[float, ...], seed: int
) -> None:
    axes = nib.io_orientation(geometry.affine)[:, 0].astype(int)
    plan = np.empty(3)
    plan[axes] = np.array(geometry.spacing) * finer
    label = np.random.default_rng(seed).integers(0, 9, geometry.shape)
    found = prepared(tmp_path, geometry, tuple(plan.tolist()), label.astype(np.float32), label)
    np.testing.assert_array_equal(labels_to_native(found.targets["label"], found), label)
