"""What was flagged, as a list: by hand, in a file whose axes are neither in order nor in the usual direction."""

from __future__ import annotations

import csv
import io

import nibabel as nib
import numpy as np
import pytest

from medae.anomaly.findings import Finding, as_csv, findings_of
from medae.volume import NativeGrid

AFFINE = np.array([[0.0, 0.0, -3.0, 30.0], [-2.0, 0.0, 0.0, 10.0], [0.0, 1.5, 0.0, -5.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray, NativeGrid]:
    heat = np.zeros((6, 7, 8), dtype=np.float32)
    flagged = np.zeros(heat.shape, dtype=bool)
    flagged[0, 0, 0], heat[0, 0, 0] = True, 9.0
    flagged[2:4, 3, 4:6] = True
    heat[2:4, 3, 4:6] = [[1.0, 2.0], [6.0, 3.0]]
    native = NativeGrid(shape=heat.shape, affine=tuple(map(tuple, AFFINE.tolist())))
    return heat, flagged, native


def test_pieces_from_the_largest_with_volume_peak_and_place(scan) -> None:
    first, second = findings_of(*scan)
    assert first.volume_ml == pytest.approx(4 * 9.0 / 1000), "four voxels of 3 x 2 x 1.5 mm"
    assert (first.peak, first.mean) == (6.0, 3.0)
    assert (first.i, first.j, first.k) == (3, 3, 4)
    world = nib.affines.apply_affine(AFFINE, (3, 3, 4))
    assert (first.x_mm, first.y_mm, first.z_mm) == pytest.approx(world) == (18.0, 4.0, -0.5)
    assert (second.peak, second.i, second.j, second.k) == (9.0, 0, 0, 0)


def test_the_table_says_the_same(scan) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(findings_of(*scan)))))
    assert [float(row["volume_ml"]) for row in rows] == pytest.approx([0.036, 0.009])
    assert list(rows[0]) == list(Finding.__dataclass_fields__)
    assert [row["k"] for row in rows] == ["4", "0"]


def test_nothing_flagged_is_an_empty_table(scan) -> None:
    heat, flagged, native = scan
    assert findings_of(heat, flagged & False, native) == []
    assert as_csv([]).splitlines() == [",".join(Finding.__dataclass_fields__)]
