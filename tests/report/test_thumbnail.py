"""The small picture of a scan."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from medae.formats.raw import RawImage
from medae.report.colours import label_colour
from medae.report.thumbnail import GAP, HEIGHT, THINNEST, WIDTH, thumbnail
from medae.volume import NativeGrid


def raw(array: np.ndarray, affine: np.ndarray) -> RawImage:
    rows = tuple(tuple(float(value) for value in row) for row in affine)
    return RawImage(array, NativeGrid(shape=array.shape, affine=rows))


def drawn(image: RawImage, labels: RawImage | None = None) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(thumbnail(image, labels))).convert("RGB")).astype(int)


RAMP = np.broadcast_to(np.linspace(0, 100, 40)[:, None, None], (40, 60, 50)).copy()
"""Darkest at the patient's left on RAS axes' first voxels."""


def test_planes_are_at_true_proportions_and_within_the_frame():
    picture = drawn(raw(RAMP, np.eye(4)))
    widths = np.array([40, 40, 60]) * HEIGHT / 60  # axial 40 x 60, coronal 40 x 50, sagittal 60 x 50 mm
    assert picture.shape == (HEIGHT, sum(map(round, widths)) + 2 * GAP, 3)
    flat = drawn(raw(np.tile(RAMP[:, :, :1], (1, 1, 2)), np.diag([1.0, 1.0, 1.0, 1.0])))
    assert flat.shape[1] <= WIDTH + 2 * GAP + 3
    assert flat.shape[0] <= HEIGHT
    middle = flat[flat.shape[0] // 2 - THINNEST // 2 : flat.shape[0] // 2 + THINNEST // 2, HEIGHT:]
    assert middle.max() > 100  # two slices are still seen


def test_the_patients_right_is_on_the_left_whatever_the_stored_axes():
    for affine, array in ((np.eye(4), RAMP), (np.diag([-1.0, 1.0, 1.0, 1.0]), RAMP[::-1])):
        axial = drawn(raw(np.ascontiguousarray(array), affine))[:, : HEIGHT * 40 // 60]
        assert axial[:, 8:29].mean() > 150  # RAMP grows to the right of the patient
        assert axial[:, -21:].mean() < 100


def test_labels_are_drawn_in_their_colours_where_they_are_largest():
    labels = np.zeros(RAMP.shape, np.uint8)
    labels[10:30, 20:40, 44:48] = 2
    grey, coloured = drawn(raw(RAMP, np.eye(4))), drawn(raw(RAMP, np.eye(4)), raw(labels, np.eye(4)))
    assert np.ptp(grey, axis=2).max() < 20  # grey but for WebP
    spread = np.ptp(coloured, axis=2)
    red, green, blue = (int(label_colour(2)[place : place + 2], 16) for place in (1, 3, 5))
    assert spread.max() > 60
    place = np.unravel_index(spread.argmax(), spread.shape)
    assert (np.argsort(coloured[place]) == np.argsort([red, green, blue])).all()


def test_letters_name_the_sides_and_the_inside_of_a_label_shows_the_image():
    image, labels = np.zeros(RAMP.shape), np.zeros(RAMP.shape, np.uint8)
    image[10:30, 15:45, 10:40], labels[10:30, 15:45, 10:40] = np.linspace(50, 100, 30), 1
    image[0, 0, 0] = 100
    bare, labelled = drawn(raw(image, np.eye(4))), drawn(raw(image, np.eye(4)), raw(labels, np.eye(4)))
    width, middle = HEIGHT * 40 // 60, HEIGHT // 2
    for edge in (bare[middle - 8 : middle + 8, :14], bare[middle - 8 : middle + 8, width - 14 : width], bare[:16, 60:90]):
        assert edge.min(axis=-1).max() > 150
    coronal = slice(width + GAP + width // 3, width + GAP + 2 * width // 3)
    assert np.ptp(labelled[middle - 30 : middle + 30, coronal].mean(axis=(1, 2))) > 20, "a ramp, seen through the label"
    assert np.ptp(labelled, axis=2).max() > 90, "its outline"
    flat = drawn(raw(image[:, :, :2], np.eye(4)))
    assert flat[:, width + GAP :].min(axis=-1).max() < 60, "no letters on planes without room"


def test_constant_images_and_label_maps_of_another_shape_do_no_harm():
    flat = raw(np.full((5, 6, 7), 3.0), np.eye(4))
    assert drawn(flat, raw(np.ones((2, 2, 2), np.uint8), np.eye(4))).size > 0
    assert drawn(raw(np.full((5, 6, 7), np.nan), np.eye(4))).size > 0
