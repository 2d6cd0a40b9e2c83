"""The figure of teacher and student, looked at as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from medae.report import figures_unlabelled
from medae.report.colours import label_colour
from medae.report.figures_unlabelled import teacher_and_student

NAMES = {0: "background", 1: "cube"}


def shown(size: tuple[int, ...], teacher: float, student: float) -> dict[str, np.ndarray]:
    """Two patches with a cube, for which both give a probability."""
    image = np.random.default_rng(0).normal(size=(2, 1, *size)).astype(np.float32)
    cube = np.zeros((2, *size), dtype=np.float32)
    cube[(slice(None), *(slice(2, 6),) * len(size))] = 1

    def said(chance: float) -> np.ndarray:
        return np.stack([1 - chance * cube, chance * cube], axis=1)

    return {"teacher saw": image, "student saw": image + 1, "teacher said": said(teacher), "student said": said(student)}


def outlined(path: Path) -> int:
    """Pixels of the label's own colour: its outline."""
    with Image.open(path) as picture:
        found = np.asarray(picture.convert("RGB")).astype(int)
    wanted = np.round(np.array(to_rgb(label_colour(1))) * 255)
    return int((np.abs(found - wanted).max(axis=-1) <= 12).sum())


def test_each_answer_is_drawn_and_only_what_teaches(tmp_path):
    def drawn(teacher: float, student: float) -> int:
        path = tmp_path / f"{teacher}-{student}.png"
        return outlined(teacher_and_student(shown((12, 8), teacher, student), path, NAMES, threshold=0.6, slice_axis=2))

    nobody, one, both = drawn(0.55, 0.2), drawn(0.7, 0.2), drawn(0.7, 0.7)
    assert nobody < one < both, "a teacher that is not sure enough does not teach; the legend has the colour too"


def test_of_volumes_the_slice_with_most_of_the_teachers_labels_is_drawn(tmp_path):
    images = shown((8, 8, 9), 0.7, 0.7)
    for name in ("teacher said", "student said"):
        images[name][..., 1:] = np.array([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
        images[name][:, :, 2:6, 2:6, 0] = np.array([0.3, 0.7]).reshape(1, 2, 1, 1)
    assert outlined(teacher_and_student(images, tmp_path / "volume.png", NAMES)) > 500


def test_the_brightest_colour_is_the_largest_disagreement_that_is_shown(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures_unlabelled, "draw", lambda mosaic, path: drawn.append(mosaic) or path)
    teacher_and_student(shown((20, 20, 20), 0.95, 0.05), tmp_path / "x.png", NAMES)
    (mosaic,) = drawn
    assert mosaic.bar[2] == pytest.approx(0.9), "in 64 of 8000 voxels"
    teacher_and_student(shown((20, 20, 20), 0.7, 0.69), tmp_path / "x.png", NAMES)
    assert drawn[-1].bar[2] == 0.05, "next to nothing is not made to look like much"
