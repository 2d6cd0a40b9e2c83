import numpy as np
import pytest

from medae.planning.structures import Found, structures_in, summarised


def test_volumes_of_labels_and_of_their_pieces():
    labels = np.zeros((10, 10, 10), np.int16)
    labels[0:2, 0:2, 0:2] = 1  # 8 voxels
    labels[2, 2, 2] = 1  # touches the cube's corner: the same piece
    labels[5, 5, 5:8] = 1  # 3 voxels apart from it
    labels[9] = 7  # 100 voxels
    found = structures_in(labels, (0.5, 2.0, 3.0))
    assert set(found) == {1, 7}
    assert sorted(found[1].pieces) == [9.0, 27.0]
    assert found[1].share == pytest.approx(12 / 1000)
    assert found[7] == Found(0.1, (300.0,))
    assert structures_in(np.zeros((3, 3, 3), np.int16), (1, 1, 1)) == {}


def test_the_summary_counts_cases_and_pieces():
    cases = [{1: Found(0.1, (10.0,))}, {1: Found(0.3, (20.0, 30.0)), 2: Found(0.2, (5.0,))}, {}]
    summary = summarised(cases)
    assert (summary[1].cases, summary[2].cases) == (2, 1)
    assert summary[1].share == pytest.approx(0.4 / 3)
    assert summary[1].pieces == 1.5
    assert summary[1].volume == pytest.approx((12.0, 30.0, 48.0))  # between 10 and 50 a case
    assert summary[1].piece == pytest.approx((11.0, 20.0, 29.0))  # of 10, 20 and 30
    assert summary[2].volume == (5.0, 5.0, 5.0)
