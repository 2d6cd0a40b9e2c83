from pathlib import Path

import numpy as np
import pytest
from handmade import found
from hypothesis import given
from hypothesis import strategies as st

from medae.data.case import Case, ImageRef, Manifest
from medae.errors import ConfigError
from medae.plan import CTWindow, Plan, RobustZ, ZScore
from medae.planning.fingerprint import fingerprint
from medae.planning.rules import make_plan
from medae.planning.strides import strides_for, total_strides

HIPPOCAMPUS = found((35, 50, 34))
LUNG = found((44, 44, 6), (0.7, 0.7, 1.25), modality="CT", guessed=True)
GLIOMA = found((256, 256, 36), foreground="head", boxes=(183, 237, 22))


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({"bias_correction": "n4", "intensity": {"kind": "ct_window"}}, "bias_correction is for MR"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing.1"),
        ({"spacing": (1.0, 1.0, -2.0)}, "spacing.2"),
        ({"spacing": (float("nan"), 1.0, 1.0)}, "spacing.0"),
    ],
)
def test_hints_that_make_no_space_are_named(hints, words):
    with pytest.raises(ConfigError, match=words):
        make_plan(HIPPOCAMPUS, **hints)


def test_bias_correction_is_refused_for_ct():
    with pytest.raises(ConfigError, match="bias_correction is for MR"):
        make_plan(LUNG, bias_correction="n4")


def test_a_plan_file_with_a_senseless_spacing_is_refused(tmp_path):
    text = make_plan(HIPPOCAMPUS).as_yaml()
    assert "spacing: [1.0, 1.0, 1.0]" in text
    (tmp_path / "plan.yaml").write_text(text.replace("spacing: [1.0, 1.0, 1.0]", "spacing: [1.0, 0, 1.0]"))
    with pytest.raises(ConfigError, match=r"space\.spacing\.1"):
        Plan.read(tmp_path / "plan.yaml")


def test_hippocampus():
    plan = make_plan(HIPPOCAMPUS)
    assert (plan.space.spatial_dims, plan.space.slice_axis, plan.space.spacing) == (3, None, (1.0, 1.0, 1.0))
    assert plan.space.intensity == ZScore()
    assert plan.sampling.patch == (40, 56, 40)
    assert total_strides(plan.network.strides) == (8, 8, 8)
    assert plan.network.widths == (32, 64, 128, 256)


def test_few_slices_stay_3d_and_are_not_pooled():
    plan = make_plan(LUNG)
    assert plan.space.spatial_dims == 3
    assert plan.sampling.patch == (48, 48, 6)
    assert total_strides(plan.network.strides) == (8, 8, 1)
    assert plan.space.intensity == CTWindow(lower=-1000, upper=701, mean=-650.3, std=330.0)
    assert "guessed from the values" in plan.reasons["space.intensity"]


def test_a_stack_of_three_slices_becomes_2d():
    plan = make_plan(found((256, 256, 3), (0.5, 0.5, 6.0)))
    assert (plan.space.spatial_dims, plan.space.slice_axis) == (2, 2)
    assert "too few for 3D" in plan.reasons["space.spatial_dims"]
    assert plan.sampling.patch == (256, 256)


def test_2d_by_hint_takes_the_axis_with_the_fewest_voxels_and_keeps_its_slices():
    plan = make_plan(GLIOMA, spatial_dims=2)
    assert plan.space.slice_axis == 2
    assert plan.space.spacing == (1.0, 1.0, None)
    # the box of the head, rounded up to the total stride of 32
    assert plan.sampling.patch == (192, 256)
    assert plan.sampling.batch == 16
    assert make_plan(found((256, 180, 256), (1.0, 1.2, 1.0)), spatial_dims=2).space.slice_axis == 1


def test_slice_axis_hint_implies_2d():
    plan = make_plan(GLIOMA, slice_axis=0)
    assert (plan.space.spatial_dims, plan.space.slice_axis) == (2, 0)
    assert plan.space.spacing == (None, 1.0, 1.0)
    assert len(plan.sampling.patch) == 2


def test_patch_is_cut_to_a_cube_in_mm_where_memory_ends():
    plan = make_plan(found((512, 512, 300), (0.8, 0.8, 2.0), modality="CT"))
    patch = np.array(plan.sampling.patch)
    assert np.prod(patch) <= 128**3
    assert np.prod(patch) > 0.6 * 128**3
    extents = patch * np.array([0.8, 0.8, 2.0])
    assert extents.max() / extents.min() < 1.3
    assert "more than 2,097,152 at once" in plan.reasons["sampling.patch"]
    assert plan.sampling.batch == 2


def test_patch_is_sized_in_the_plans_spacing():
    assert make_plan(HIPPOCAMPUS, spacing=(2.0, 2.0, 2.0)).sampling.patch == (20, 28, 20)
    assert make_plan(HIPPOCAMPUS, spacing=(2.0, 2.0, None)).sampling.patch[2] == 40


def test_box_counts_unless_everything_is_foreground():
    brain = found((160, 200, 170), foreground="nonzero", boxes=(120, 150, 110))
    assert make_plan(brain).sampling.patch == (128, 160, 112)
    assert make_plan(brain, foreground="all").sampling.patch == make_plan(found((160, 200, 170))).sampling.patch


def test_each_hint_is_kept_and_said_to_be_given():
    hints = {
        "spacing": (1.5, 1.5, None),
        "intensity": RobustZ(clip=5.0),
        "foreground": "head",
        "stem": "space_to_depth",
        "downsampling": "maxpool",
        "widths": (8, 16, 24),
        "patch": (33, 40, 32),
        "batch": 3,
        "spatial_dims": 3,
    }
    plan = make_plan(HIPPOCAMPUS, **hints)
    assert plan.space.spacing == hints["spacing"]
    assert plan.space.intensity == RobustZ(clip=5.0)
    assert plan.space.foreground == "head"
    assert plan.network.stem == "space_to_depth"
    assert plan.network.downsampling == "maxpool"
    assert plan.network.widths == (8, 16, 24)
    assert plan.network.strides == ((2, 2, 2),) * 3
    assert plan.sampling.patch == (33, 40, 32)
    assert plan.sampling.batch == 3
    given_keys = ["spatial_dims", "spacing", "intensity", "foreground"]
    assert {plan.reasons[f"space.{key}"] for key in given_keys} == {"given"}
    assert {plan.reasons[f"network.{key}"] for key in ("stem", "downsampling", "widths")} == {"given"}
    assert {plan.reasons[f"sampling.{key}"] for key in ("patch", "batch")} == {"given"}


def test_absent_hints_are_no_hints():
    assert make_plan(HIPPOCAMPUS, spacing=None, widths=None, levels=None) == make_plan(HIPPOCAMPUS)


def test_levels_hint():
    assert len(make_plan(HIPPOCAMPUS, levels=2).network.strides) == 2
    assert make_plan(HIPPOCAMPUS, levels=2).sampling.patch == (36, 50, 34)


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"spatial_dims": 3, "slice_axis": 1}, "slice axis was given for 3"),
        ({"levels": 3, "widths": (8, 16)}, "3 levels and 2 widths"),
        ({"widths": (8,) * 6}, "allows 4 levels, and 6"),
        ({"patch": (32, 32)}, "patch of 2 entries"),
        ({"stem": "patchify"}, "stem"),
        ({"width": (8, 16)}, "width"),
    ],
)
def test_hints_that_do_not_fit_are_refused(hints, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(HIPPOCAMPUS, **hints)


def test_ct_beside_mr_needs_a_hint():
    mixed = found((32, 32, 32), modality="unknown")
    with pytest.raises(ConfigError, match="mixes CT and MR"):
        make_plan(mixed)
    assert make_plan(mixed, intensity=ZScore()).space.intensity == ZScore()


def test_every_choice_has_its_reason_in_a_comment_and_the_plan_survives_its_file(tmp_path):
    for source, hints in [(HIPPOCAMPUS, {}), (GLIOMA, {"spatial_dims": 2})]:
        plan = make_plan(source, **hints)
        assert set(plan.reasons) == {key for key, _, _ in plan.rows()}
        assert all(plan.reasons.values())
        text = plan.as_yaml()
        flat = " ".join(text.replace("#", " ").split())
        assert [reason for reason in plan.reasons.values() if reason not in flat] == []
        (tmp_path / "plan.yaml").write_text(text)
        assert Plan.read(tmp_path / "plan.yaml") == plan.model_copy(update={"reasons": {}, "notes": ()})


@given(
    shape=st.tuples(*[st.integers(4, 600)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    dims=st.sampled_from([2, 3]),
)
def test_patch_fits_its_strides_and_the_memory(shape, spacing, dims):
    plan = make_plan(found(shape, spacing), spatial_dims=dims)
    totals = total_strides(plan.network.strides)
    assert all(size % total == 0 for size, total in zip(plan.sampling.patch, totals, strict=True))
    assert all(total == 1 or size / total >= 4 for size, total in zip(plan.sampling.patch, totals, strict=True))
    assert np.prod(plan.sampling.patch) <= {2: 512**2, 3: 128**3}[dims] * 2


@pytest.mark.data
def test_real_hippocampus_scans(data_root):
    root: Path = data_root / "hippocampus"
    cases = []
    for path in sorted((root / "imagesTr").glob("*.nii.gz"))[:12]:
        refs = {
            kind: ImageRef(files=(f"{folder}/{path.name}",), sha256="0", kind=kind)
            for kind, folder in [("intensity", "imagesTr"), ("labels", "labelsTr")]
        }
        cases.append(
            Case(id=path.name, subject=path.name, images={"MRI": refs["intensity"]}, targets={"label": refs["labels"]})
        )
    manifest = Manifest(source="msd", root=root, channels=("MRI",), cases=tuple(cases))
    statistics = fingerprint(manifest)
    assert statistics.foreground == ("all",) * 12
    assert {label: frequency.cases for label, frequency in statistics.labels["label"].items()} == {1: 12, 2: 12}
    plan = make_plan(manifest)
    assert plan.sampling.patch == (40, 56, 40)
    assert isinstance(plan.space.intensity, ZScore)


@pytest.mark.data
@pytest.mark.parametrize(
    ("pattern", "modality", "rule"),
    [
        ("ixi_t1/sub-*/anat/*_T1w.nii.gz", "MR", "head"),
        ("lgg/imagesTr/*.nii.gz", "MR", "head"),
        ("oasis_t1/*_T1w.nii.gz", "MR", "nonzero"),
        ("lidc/image/*.nii.gz", "CT", "all"),
    ],
)
def test_real_scans_are_recognised(data_root, pattern, modality, rule):
    files = [path.relative_to(data_root).as_posix() for path in sorted(data_root.glob(pattern))[:3]]
    refs = [ImageRef(files=(file,), sha256="0", kind="intensity") for file in files]
    cases = tuple(Case(id=ref.files[0], subject=ref.files[0], images={"image": ref}) for ref in refs)
    statistics = fingerprint(Manifest(source="folder", root=data_root, channels=("image",), cases=cases))
    assert statistics.intensities["image"].modality == modality
    assert statistics.foreground == (rule,) * 3


def test_strides_of_the_plan_are_those_of_its_patch():
    plan = make_plan(LUNG)
    assert (plan.network.strides, plan.network.kernels) == strides_for((44, 44, 6), (0.7, 0.7, 1.25), 6)
