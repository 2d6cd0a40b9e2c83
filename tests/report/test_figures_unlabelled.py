"""The figure of teacher and student, looked at as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

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


@pytest.mark.parametrize(("size", "axis"), [((12, 8), 2), ((8, 8, 10), None)])
def test_each_answer_is_drawn_and_only_what_teaches(tmp_path, size, axis):
    def drawn(teacher: float, student: float, threshold: float | None = None) -> int:
        path = tmp_path / f"{teacher}-{student}-{threshold}.png"
        return outlined(
            teacher_and_student(shown(size, teacher, student), path, NAMES, threshold=threshold, slice_axis=axis)
        )

    nobody = drawn(0.2, 0.2)  # the legend
    one, both = drawn(0.7, 0.2), drawn(0.7, 0.7)
    assert nobody < one < both
    assert drawn(0.7, 0.2, threshold=0.8) == nobody, "the teacher was not sure enough to teach"
    assert drawn(0.9, 0.2, threshold=0.8) == one
