"""The figure of deformed scans, looked at as what is drawn."""

from __future__ import annotations

import numpy as np

from medae.report import figures_registration
from medae.report.figures_registration import Example, deformed_cases

NAMES = {0: "background", 1: "cube"}


def example() -> Example:
    """A labelled scan of 8 x 10 x 6 with its label in slice 2, deformed onto 6 x 8 x 5 with it in slice 3."""
    images = [np.full(shape, value, np.float32) for shape, value in (((8, 10, 6), 1), ((6, 8, 5), 2), ((6, 8, 5), 3))]
    before, after = np.zeros((8, 10, 6), np.int16), np.zeros((6, 8, 5), np.int16)
    before[2:5, 2:5, 2], after[1:3, 1:3, 3] = 1, 1
    for image, place in zip(images, (2, 3, 3), strict=True):
        image[..., place] += 10
    steps = (1.0, 2.0, 1.0), (2.0, 1.0, 3.0)
    return Example(("one", "two"), tuple(images), (before, after), steps, "correlation 0.91")


def test_scans_are_drawn_where_the_labels_are_with_outlines_and_sizes_in_mm(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures_registration, "draw", lambda mosaic, path: drawn.append(mosaic) or path)
    assert deformed_cases([example(), example()], tmp_path / "x.png", NAMES) == tmp_path / "x.png"
    (mosaic,) = drawn
    assert len(mosaic.rows) == 2 and "cube" in mosaic.legend
    labelled, shape, deformed = mosaic.rows[0].panels
    assert [float(panel.grey.max()) for panel in (labelled, shape, deformed)] == [11, 12, 13]
    assert [panel.title for panel in mosaic.rows[0].panels] == ["one, labelled", "two", "deformed, correlation 0.91"]
    assert labelled.size_mm == (8.0, 20.0) and shape.size_mm == deformed.size_mm == (12.0, 8.0)
    assert labelled.outlines[0][0].sum() == 9 and deformed.outlines[0][0].sum() == 4 and not shape.outlines


def test_of_a_plan_of_slices_its_own_slices_are_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures_registration, "draw", lambda mosaic, path: drawn.append(mosaic) or path)
    deformed_cases([example()], tmp_path / "x.png", NAMES, slice_axis=0)
    assert drawn[0].rows[0].panels[0].size_mm == (20.0, 6.0) and "Sagittal" in drawn[0].note


def test_it_can_be_drawn(tmp_path):
    assert deformed_cases([example()], tmp_path / "x.png", NAMES).stat().st_size > 5000
