"""``medae predict`` and ``medae check`` on DICOM: results on the series' own grid, under pseudonyms."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # dicomfiles

from dicomfiles import SECRETS, Geometry, Writer, world
from highdicom.seg import segread

from medae.artifact import ArtifactMeta, load_artifact, save_artifact
from medae.errors import ConfigError, DataError
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from medae.preprocessing.domain import Domain
from pipelines import check, predict
from pipelines.networks import network_config, seeded_network

SHAPE = (20, 18, 12)


@pytest.fixture
def writer(tmp_path, monkeypatch) -> Writer:
    monkeypatch.setenv("MEDAE_CASE_SALT", "a key for tests")
    monkeypatch.setenv("MEDAE_CACHE", str(tmp_path / "cache"))
    return Writer(tmp_path / "tree")


MR = {"scans": 2, "modalities": ("MR",), "spacing": ((1.0, 3.0),) * 3, "extent": ((10.0, 40.0),) * 3}


def make_model(folder: Path, space: dict[str, Any], domain: Domain | None = None) -> Path:
    """A segmenter of one channel, not trained."""
    plan = Plan(
        space=SpacePlan(**{"spacing": (2.0, 2.0, 2.5), **space}),
        network=NetworkPlan(widths=(4, 4), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3), (3, 3, 3))),
        sampling=SamplingPlan(patch=(8, 8, 8)),
    )
    network = seeded_network(network_config({"kind": "unet"}, plan, classes=2), 0)
    labels = {0: "background", 1: "a"}
    meta = ArtifactMeta(kind="segmenter", network=network.config, plan=plan, target="label", labels=labels, domain=domain)
    save_artifact(folder, network, meta)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model", {"channels": ("T1",)})


def brain(shape=SHAPE) -> np.ndarray:
    """A bright block in the dark, with noise."""
    volume = np.zeros(shape, np.int16)
    volume[4:-4, 4:-4, 2:-2] = np.random.default_rng(0).integers(300, 900, (shape[0] - 8, shape[1] - 8, shape[2] - 4))
    return volume


def run(model, source, output, overrides=(), **options):
    result = predict.run(str(model), source, output, {"device": "cpu", **options}, overrides)
    words = json.dumps(result) + "".join(path.name for path in output.rglob("*"))
    assert not any(word in words for word in SECRETS)
    return result


def test_a_tree_gets_masks_on_the_grid_of_columns_rows_and_slices(writer, model, tmp_path, capsys):
    geometry = Geometry(orientation=(0, 1, 0, 0, 0, -1), spacing=(1.5, 1.25), step=2.0)
    writer.series(brain(), geometry, SeriesDescription="SAG T1", number=2)
    writer.series(brain(), SeriesDescription="Localizer", number=1)
    result = run(model, writer.folder, tmp_path / "out")
    (name,) = result["cases"]
    assert name.startswith("sub-")
    mask = nib.load(tmp_path / "out" / f"{name}.nii.gz")
    assert mask.shape == SHAPE
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    assert np.abs(nib.affines.apply_affine(mask.affine, places) - world(geometry, SHAPE)).max() < 0.01
    assert "localiser" in capsys.readouterr().err


def test_a_model_of_one_unnamed_channel_takes_the_only_one(writer, model, tmp_path):
    writer.series(brain(), SeriesDescription="AX FLAIR")
    with pytest.raises(DataError, match="only FLAIR"):
        run(model, writer.folder, tmp_path / "refused")
    stored = load_artifact(model)
    space = stored.meta.plan.space.model_copy(update={"channels": ("image",)})
    plan = stored.meta.plan.model_copy(update={"space": space})
    save_artifact(tmp_path / "unnamed", stored.model(), stored.meta.model_copy(update={"plan": plan}))
    ((_, case),) = run(tmp_path / "unnamed", writer.folder, tmp_path / "out")["cases"].items()
    assert case["files"]


def test_a_tilted_series_gets_a_mask_on_its_upright_grid(writer, model, tmp_path):
    writer.series(brain(), Geometry(step=(0.0, 0.8, 2.5)), SeriesDescription="T1")
    (name,) = run(model, writer.folder, tmp_path / "out")["cases"]
    mask = nib.load(tmp_path / "out" / f"{name}.nii.gz")
    assert mask.shape == (20, 18 + 11, 12)
    axes = mask.affine[:3, :3] / np.linalg.norm(mask.affine[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)


def test_channels_are_named_on_the_command_line(writer, model, tmp_path):
    writer.series(brain(), SeriesDescription="Sequence 7")
    with pytest.raises(DataError, match=r"none of the plan's channels \(T1\), only MR"):
        run(model, writer.folder, tmp_path / "out")
    run(model, writer.folder, tmp_path / "named", ["data.channels.T1=sequence"], format="dicom")
    assert len(list((tmp_path / "named").glob("sub-*.nii.gz"))) == 1


def test_a_single_file_of_many_frames(writer, model, tmp_path):
    path = writer.enhanced([brain()])
    predict.run(str(model), path, tmp_path / "mask.nii.gz", {"device": "cpu"})
    assert nib.load(tmp_path / "mask.nii.gz").shape == SHAPE


def test_check_reads_every_series_and_names_nobody(writer, tmp_path, capsys):
    writer.series(brain(), SeriesDescription="T1", number=1)
    writer.series(brain() + np.int16(1), SeriesDescription="FLAIR", number=2)
    writer.series(brain(), SeriesDescription="T2", number=3, places=[*range(6), *range(7, 13)])
    result = check.run(writer.folder, "auto", "given", [], tmp_path / "check", as_json=False)
    assert [finding["code"] for finding in result["findings"]] == ["missing-slices"]
    assert result["excluded"] == []
    (case,) = result["cases"].values()
    assert set(case["images"]) == {"T1", "FLAIR"}
    shown = capsys.readouterr()
    written = "".join(path.read_text(errors="ignore") for path in (tmp_path / "check").rglob("*") if path.is_file())
    assert "Mustermann_Erika/s3/0001 and 11 more" in shown.out, "where it lies is named on the screen"
    said = shown.out.replace("Mustermann_Erika/", "") + shown.err
    assert not any(word in said + written for word in SECRETS)


def labelled(path: Path) -> set[tuple[float, ...]]:
    """Where a file's label 1 is, mm in RAS, as highdicom and nibabel read it."""
    if path.suffix == ".dcm":
        volume = segread(path).get_volume(combine_segments=True)
        array, affine = volume.array, np.diag([-1, -1, 1, 1]) @ volume.affine
    else:
        image = nib.load(path)
        array, affine = np.asarray(image.dataobj), image.affine
    return {tuple(np.round(place, 2)) for place in nib.affines.apply_affine(affine, np.argwhere(array == 1))}


def test_dicom_in_dicom_out_at_the_same_places(writer, model, tmp_path):
    geometry = Geometry(orientation=(0.96, 0.28, 0, 0, 0, -1), spacing=(1.5, 1.25), step=2.0)
    writer.series(brain(), geometry, SeriesDescription="COR T1")
    run(model, writer.folder, tmp_path / "nifti")
    result = run(model, writer.folder, tmp_path / "dicom", to="dicom")
    ((name, case),) = result["cases"].items()
    assert case["files"] == [f"{name}_seg.dcm"]
    assert any("Label 'a': in no table of codes" in remark for remark in case["notes"])
    found = labelled(tmp_path / "dicom" / f"{name}_seg.dcm")
    assert found == labelled(tmp_path / "nifti" / f"{name}.nii.gz") and found


def test_ct_in_segmentation_out_with_the_numbers_that_nifti_gives(writer, tmp_path):
    volume = np.random.default_rng(1).integers(0, 1500, SHAPE).astype(np.int16)  # -1024 to 476 HU
    (path, *_) = writer.series(volume, modality="CT", SeriesDescription="CT chest")
    window = {"kind": "ct_window", "lower": -1000.0, "upper": 400.0, "mean": -300.0, "std": 350.0}
    model = make_model(
        tmp_path / "ct", {"channels": ("CT",), "intensity": window, "foreground": "all", "spacing": (1.2, 0.8, 2.5)}
    )
    (name,) = run(model, writer.folder, tmp_path / "dicom", to="dicom")["cases"]
    affine = np.diag([-1.2, -0.8, 2.5, 1.0])
    affine[:3, 3] = 12.5, -7.25, 31.0
    nib.save(nib.Nifti1Image(volume - 1024, affine), tmp_path / "ct.nii.gz")
    predict.run(str(model), tmp_path / "ct.nii.gz", tmp_path / "label.nii.gz", {"device": "cpu"})
    found = labelled(tmp_path / "dicom" / f"{name}_seg.dcm")
    assert found == labelled(tmp_path / "label.nii.gz") and 0 < len(found) < volume.size
    header = pydicom.dcmread(tmp_path / "dicom" / f"{name}_seg.dcm")
    assert header.FrameOfReferenceUID == pydicom.dcmread(path).FrameOfReferenceUID
    with pytest.raises(DataError, match="The model is for MR, and the image is CT"):
        run(make_model(tmp_path / "mr", {"channels": ("CT",)}, Domain(**MR)), writer.folder, tmp_path / "refused")


def test_codes_of_a_user_go_before_the_shipped_ones(writer, model, tmp_path):
    writer.series(brain(), SeriesDescription="T1")
    (tmp_path / "codes.yaml").write_text("a: {type: SCT 10200004 Liver}\n")
    codes = predict.read_codes(tmp_path / "codes.yaml")
    ((name, _),) = run(model, writer.folder, tmp_path / "out", to="dicom", codes=codes)["cases"].items()
    (segment,) = segread(tmp_path / "out" / f"{name}_seg.dcm").SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver" and segment.SegmentLabel == "a"
    (tmp_path / "codes.yaml").write_text("a: {type: liver}\n")
    with pytest.raises(ConfigError, match="scheme value meaning"):
        predict.read_codes(tmp_path / "codes.yaml")


def test_what_fails_names_no_folder_of_the_tree(writer, model, tmp_path, monkeypatch):
    """Folders of a tree are often called like patients."""
    named = Writer(writer.folder / "Mustermann_Erika", "P1")
    named.series(brain(), SeriesDescription="T1")
    for path in writer.folder.rglob("*"):
        if path.is_file():
            header = pydicom.dcmread(path)
            del header.StudyInstanceUID
            header.save_as(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="1 of 1 scans failed") as caught:
        predict.run(str(model), Path("tree"), Path("out"), {"device": "cpu", "to": "dicom"})
    texts = str(caught.value) + "".join(path.read_text() for path in (tmp_path / "out").glob("*.*"))
    assert "Mustermann" not in texts


def test_notes_on_headers_are_no_remarks_on_the_scan(writer, model, tmp_path):
    writer.series(brain(), SeriesDescription="T1")
    ((_, case),) = run(model, writer.folder, tmp_path / "out", to="dicom")["cases"].items()
    assert case["notes"] and not any(note in case["remarks"] for note in case["notes"])
