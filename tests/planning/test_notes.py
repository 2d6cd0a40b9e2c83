"""What a person is told to look at, and what not."""

import pytest
from handmade import found, structure

from medae.planning.rules import make_plan


def notes(source, **hints) -> str:
    return "\n".join(make_plan(source, **hints).notes)


def test_a_plain_data_set_has_no_notes():
    assert notes(found((35, 50, 36), ranges=((0.0, 900.0), (0.0, 1100.0)), labels={1: structure(), 2: structure()})) == ""


def test_unknown_slice_distance_is_noted_in_2d_and_3d():
    flat = found((256, 256, 36))
    assert "distance of the slices is probably not known" in notes(flat)
    assert "256x256x36 mm" in notes(flat)
    assert "Consider slice_axis" not in notes(flat)
    assert "Consider slice_axis" in notes(flat, spatial_dims=3)


def test_mixed_spacing_along_an_axis_that_is_resampled():
    mixed = found((200, 200, 60), [(0.7, 0.7, 0.6), (0.7, 0.7, 1.2), (0.9, 0.9, 2.5)])
    assert "spacing along K runs from 0.6 to 2.5 mm" in notes(mixed)
    assert "along I" not in notes(mixed)
    assert "along K" not in notes(mixed, slice_axis=2)


def test_cases_thinner_than_half_the_patch():
    thin = found([(48, 48, 2), (48, 48, 2), *[(48, 48, 12)] * 8], (0.7, 0.7, 0.7))
    assert "at most 2 voxels along K, where the patch has 12" in notes(thin)
    assert "voxels along K" not in notes(found([(48, 48, 7), *[(48, 48, 12)] * 9], (0.7, 0.7, 0.7)))


def test_scans_in_different_units():
    ranges = ((0.0, 139.0), (0.0, 358_214.0), (0.0, 900.0))
    text = notes(found([(35, 50, 36)] * 3, ranges=ranges, eight_bit=1))
    assert "run from 139 to 358,214, 1 of 3 scans in 8 bits" in text
    assert notes(found([(35, 50, 36)] * 2, ranges=((0.0, 139.0), (0.0, 2000.0)))) == ""
    assert notes(found((35, 50, 36), ranges=((0.0, 0.0),))) == "", "an empty scan is the check's business"


def test_labels_in_a_part_of_the_window():
    narrow = found((64, 64, 64), modality="CT", labelled=(-20.0, 40.0, 160.0))
    assert "labelled voxels lie between -20 and 160 HU (median 40)" in notes(narrow)
    assert notes(found((64, 64, 64), modality="CT", labelled=(-890.0, -200.0, 320.0))) == ""


@pytest.mark.parametrize(("least", "noted"), [(7.9, True), (8.1, False)])
def test_pieces_too_small_for_the_spacing(least, noted):
    source = found((64, 64, 64), labels={2: structure(piece=(least, 50.0, 90.0), pieces=3.0)})
    assert ("pieces of label 2 have fewer than 8 voxels" in notes(source)) == noted
    assert "pieces of label 2" in notes(source, spacing=(2.0, 2.0, 2.0)), "of the plan's spacing"


def test_labels_that_are_not_used_are_not_spoken_of():
    labels = {1: structure(cases=10), 2: structure(cases=1, piece=(2.0, 50.0, 90.0), pieces=3.0)}
    source = found((64, 64, 64), labels=labels)
    (target,) = source.labels
    assert all(note.startswith(f"{target}: ") for note in make_plan(source, targets=(target,)).notes)
    assert len(make_plan(source, targets=(target,)).notes) == 2
    assert make_plan(source, targets=()).notes == make_plan(source, targets=("other",)).notes == ()


def test_rare_labels():
    labels = {1: structure(cases=10), 2: structure(cases=4), **{label: structure(cases=1) for label in range(3, 9)}}
    assert "label 2, 3, 4, 5, 6 and 2 more is in fewer than half as many cases" in notes(found((64, 64, 64), labels=labels))


def test_backgrounds_that_differ():
    source = found([(64, 64, 64)] * 3, foreground=["head", "head", "nonzero"])
    assert "2 of 3 cases call for 'head', the others for 'nonzero'" in notes(source)
