"""Prediction and evaluation as a user calls them; results overlay the scan in its own space."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock

from medae.artifact import ArtifactMeta, save_artifact
from medae.errors import ArtifactError, ConfigError, DataError, GeometryError
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from pipelines import evaluate, info, predict
from pipelines.console import Screen
from pipelines.inputs import find_inputs
from pipelines.networks import network_config, seeded_network


def predict_with(model, source, output, **options):
    return predict.run(str(model), source, output, {"device": "cpu", **options})


def compare(predictions, labels, out):
    return evaluate.run(predictions, labels, {"tolerance": 1.0}, out)


@pytest.mark.data
@pytest.mark.parametrize("codes", ["LPS", "PSR", "RAS", "LAI"])
def test_a_mask_overlays_the_scan_exactly_in_its_own_orientation(smoke, data_root, tmp_path, codes):
    source = next((data_root / "hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))
    original = nib.load(source)
    target = nib.orientations.axcodes2ornt(codes)
    turn = nib.orientations.ornt_transform(nib.io_orientation(original.affine), target)
    turned = original.as_reoriented(turn)
    assert nib.aff2axcodes(turned.affine) == tuple(codes)
    nib.save(original, tmp_path / "scan.nii.gz")
    nib.save(turned, tmp_path / "turned.nii.gz")
    model = smoke.stage("finetune") / "model-scratch"
    for name in ("scan", "turned"):
        predict_with(model, tmp_path / f"{name}.nii.gz", tmp_path / f"{name}-mask.nii.gz", anyway=True)
    mask, other = (nib.load(tmp_path / f"{name}-mask.nii.gz") for name in ("scan", "turned"))
    assert other.shape == turned.shape
    assert np.array_equal(other.affine, turned.affine)
    assert len(np.unique(mask.dataobj)) > 1, "an empty mask would prove nothing"
    assert np.array_equal(np.asarray(mask.as_reoriented(turn).dataobj), np.asarray(other.dataobj))


@pytest.mark.data
@pytest.mark.parametrize(("pattern", "codes"), [("lidc/image/*.nii.gz", "LPS"), ("ixi_t1/sub-*/anat/*_T1w.nii.gz", "PSR")])
def test_real_scans_in_lps_and_psr_get_masks_on_their_own_grid(smoke, data_root, tmp_path, pattern, codes):
    source = sorted(data_root.glob(pattern))[0]
    scan = nib.load(source)
    assert "".join(nib.aff2axcodes(scan.affine)) == codes
    predict_with(smoke.stage("finetune") / "model-scratch", source, tmp_path / "mask.nii.gz", anyway=True)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == scan.shape
    assert np.array_equal(mask.affine, scan.affine)
    assert mask.header["sform_code"] == scan.header["sform_code"]
    assert mask.header["qform_code"] == scan.header["qform_code"]
    assert mask.header.get_xyzt_units()[0] == scan.header.get_xyzt_units()[0]
    assert mask.get_data_dtype() == np.uint8


def test_a_folder_with_one_bad_file_is_done_and_the_file_named(smoke, tmp_path):
    phantoms = smoke.folder / "runs" / "smoke-phantoms"
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        shutil.copy(
            phantoms / f"sub-phantom00{number}/anat/sub-phantom00{number}_T1w.nii.gz", folder / f"scan{number}.nii.gz"
        )
    (folder / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match="broken"):
        predict_with(smoke.stage("detect") / "model", folder, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(result["cases"]) == {"scan1", "scan2"}
    assert set(result["failed"]) == {"broken"}
    assert "where:  broken.nii.gz\n" in result["failed"]["broken"] and str(tmp_path) not in result["failed"]["broken"]
    assert all((tmp_path / "out" / f"scan{number}_heatmap.nii.gz").is_file() for number in (1, 2))


def test_a_detector_applied_again_gives_the_maps_of_its_stage(smoke, tmp_path):
    case, facts = next(iter(smoke.result["metrics"]["detect"]["detector"]["cases"].items()))
    source = smoke.folder / "runs" / "smoke-phantoms" / case / "anat" / f"{case}_T1w.nii.gz"
    result = predict_with(smoke.stage("detect") / "model", source, tmp_path)
    name = f"{case}_T1w"
    assert result["cases"][name]["score"] == pytest.approx(facts["score"], rel=1e-5)
    assert 0 <= result["cases"][name]["percentile_among_normals"] <= 1
    table, before = (
        folder / f"{base}_findings.csv" for folder, base in ((tmp_path, name), (smoke.stage("detect") / "maps", case))
    )
    assert table.read_text().splitlines()[0] == before.read_text().splitlines()[0]
    assert len(table.read_text().splitlines()) == 1 + len(result["cases"][name]["findings"])
    flagged = sum(finding["volume_ml"] for finding in result["cases"][name]["findings"])
    assert flagged == pytest.approx(result["cases"][name]["flagged_ml"])
    for kind in ("heatmap", "anomaly"):
        again = nib.load(tmp_path / f"{name}_{kind}.nii.gz").get_fdata()
        assert np.allclose(again, nib.load(smoke.stage("detect") / "maps" / f"{case}_{kind}.nii.gz").get_fdata(), atol=1e-5)


def test_a_segmenter_applied_again_gives_the_scores_of_its_stage(smoke, tmp_path):
    phantoms = smoke.folder / "runs" / "smoke-phantoms"
    result = predict_with(smoke.stage("finetune") / "model-scratch", phantoms, tmp_path / "out")
    assert len(result["cases"]) == 10
    assert all(set(case["volume_ml"]) == {"csf", "grey_matter", "white_matter"} for case in result["cases"].values()), result
    arm = smoke.result["metrics"]["finetune"]["scratch"]
    for case in arm["cases"]:
        (tmp_path / "labels").mkdir(exist_ok=True)
        shutil.copy(phantoms / case / "anat" / f"{case}_tissue.nii.gz", tmp_path / "labels" / f"{case}.nii.gz")
    found = compare(tmp_path / "out", tmp_path / "labels", tmp_path / "report")
    assert found["metrics"]["prediction"]["dice_mean"] == pytest.approx(arm["dice_mean"])
    assert found["metrics"]["prediction"]["n_test"] == 2
    assert (tmp_path / "report" / "report.html").is_file()


def test_mirror_images_are_refused_by_a_model_that_was_shown_none(smoke, tmp_path):
    with pytest.raises(ConfigError, match="shown no mirror images"):
        predict_with(
            smoke.stage("finetune") / "model-scratch", smoke.folder / "runs" / "smoke-phantoms", tmp_path / "out", flips=True
        )
    assert not (tmp_path / "out").exists()


def test_an_autoencoder_segments_nothing(smoke, tmp_path):
    with pytest.raises(ArtifactError, match="medae finetune"):
        predict_with(smoke.stage("pretrain") / "model", smoke.folder, tmp_path)


def test_evaluation_refuses_other_grids_and_missing_predictions(tmp_path):
    for name, shape in (("a", (4, 4, 4)), ("b", (5, 4, 4))):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)), tmp_path / name / "x.nii.gz")
    with pytest.raises(GeometryError, match="same grid"):
        compare(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    shutil.copy(tmp_path / "b" / "x.nii.gz", tmp_path / "b" / "y.nii.gz")
    with pytest.raises(DataError, match="y"):
        compare(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        compare(tmp_path / "nowhere", tmp_path / "b", tmp_path / "out")


def test_an_evaluation_shows_the_worst_case_first_and_lies_over_its_scan(tmp_path):
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[:4] = 1
    shifted, affine = np.roll(truth, 2, axis=0), np.diag([1.0, 1.0, 5.0, 1.0])
    for folder, name, array in (
        *(("labels", name, truth) for name in ("good", "bad")),
        ("predictions", "good", truth),
        ("predictions", "bad", shifted),
        *(("images", f"{name}_0000", np.arange(512.0, dtype=np.float32).reshape(8, 8, 8)) for name in ("good", "bad")),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), tmp_path / folder / f"{name}.nii.gz")
    labels, predictions, images = (tmp_path / name for name in ("labels", "predictions", "images"))
    result = evaluate.run(predictions, labels, {}, tmp_path / "out", images)
    cases = result["metrics"]["prediction"]["cases"]
    assert [cases[name]["label 1"]["dice"] for name in ("bad", "good")] == [0.5, 1.0]
    assert cases["bad"]["label 1"]["volume_ml_reference"] == pytest.approx(256 * 5 / 1000)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index('"name": "bad"') < page.index('"name": "good"')
    rows = page[page.index("Its mean Dice") :]
    assert rows.index("bad") < rows.index("good")
    evaluate.run(predictions, labels, {}, tmp_path / "bare")
    assert '"name": "bad"' not in (tmp_path / "bare" / "report.html").read_text()


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_evaluation_says_how_many_predictions_are_empty(tmp_path, capsys, empty):
    for number in range(2):
        for folder, value in (("labels", 1), ("predictions", int(number >= empty))):
            (tmp_path / folder).mkdir(exist_ok=True)
            array = np.full((4, 4, 4), value, np.uint8)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / f"{number}.nii.gz")
    result = compare(tmp_path / "predictions", tmp_path / "labels", tmp_path / "out")
    said = f"{empty} of 2 predictions {'is' if empty == 1 else 'are'} empty where the reference has labels."
    page = (tmp_path / "out" / "report.html").read_text()
    assert (said in capsys.readouterr().err, said in page) == (empty > 0, empty > 0)
    assert (result["facts"]["empty"], result["metrics"]["prediction"]["dice_mean"]) == (empty, 1 - empty / 2)
    for path in (tmp_path / "labels").iterdir():  # where nothing is, an empty prediction is right
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj) * int(path.name > "0.nii.gz"), np.eye(4)), path)
    healthy = compare(tmp_path / "predictions", tmp_path / "labels", tmp_path / "healthy")
    assert healthy["facts"]["empty"] == max(0, empty - 1)


def test_an_evaluation_refuses_scans_that_do_not_belong_to_the_labels(tmp_path):
    for name, shape in (("a", (4, 4, 4)), ("b", (5, 4, 4)), ("none", None)):
        (tmp_path / name).mkdir()
        if shape:
            nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)), tmp_path / name / "x.nii.gz")
    labels = tmp_path / "a"
    with pytest.raises(DataError, match=r"1 of 1 references have no scan of their name: x"):
        evaluate.run(labels, labels, {}, tmp_path / "out", tmp_path / "none")
    with pytest.raises(GeometryError, match="The scan has 5 x 4 x 4 voxels, and the reference 4 x 4 x 4"):
        evaluate.run(labels, labels, {}, tmp_path / "out", tmp_path / "b")
    for name, affine, words in (
        ("c", np.diag([2.0, 1, 1, 1]), "voxels of 2 x 1 x 1 mm"),
        ("d", np.diag([-1.0, 1, 1, 1]), "another origin or orientation"),
    ):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), affine), tmp_path / name / "x.nii.gz")
        with pytest.raises(GeometryError, match=words):
            evaluate.run(labels, labels, {}, tmp_path / "out", tmp_path / name)
    assert not (tmp_path / "out").exists(), "nothing is written before all is checked"
    shutil.copy(tmp_path / "a" / "x.nii.gz", tmp_path / "c" / "x.nii.gz")
    nib.save(nib.load(tmp_path / "a" / "x.nii.gz"), tmp_path / "c" / "x.nii")
    with pytest.raises(DataError, match="same name"):
        evaluate.run(tmp_path / "c", labels, {}, tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        evaluate.run(labels, labels, {}, tmp_path / "out", tmp_path / "nowhere")
    with pytest.raises(DataError, match="folder"):
        evaluate.run(labels, labels, {}, tmp_path / "out", labels / "x.nii.gz")


def test_several_channels_in_plain_files_are_refused(tmp_path):
    plan = Plan(
        space=SpacePlan(channels=("FLAIR", "T1")),
        network=NetworkPlan(widths=(4, 4), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3), (3, 3, 3))),
        sampling=SamplingPlan(patch=(16, 16, 16)),
    )
    model = seeded_network(network_config({"kind": "unet"}, plan, classes=2), 0)
    meta = ArtifactMeta(kind="segmenter", network=model.config, plan=plan, target="label", labels={0: "background", 1: "a"})
    save_artifact(tmp_path / "model", model, meta)
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(DataError, match="FLAIR, T1"):
        predict_with(tmp_path / "model", tmp_path / "x.nii.gz", tmp_path / "out.nii.gz")


def test_info_shows_the_card(smoke, capsys):
    info.run(str(smoke.stage("finetune") / "model-scratch"), as_json=False)
    shown = capsys.readouterr().out
    assert "Segmenter (unet) of tissue" in shown
    assert "library_name" not in shown, "the head of the card is for programs"
    assert "phantom" in shown.lower()


@pytest.mark.parametrize(
    ("source", "output"), [("in", "in"), ("in", "in/masks"), ("in/x.nii.gz", "in/x.nii.gz"), ("in/x.nii.gz", "in")]
)
def test_results_never_go_among_the_scans(smoke, tmp_path, source, output):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), tmp_path / "in" / "x.nii.gz")
    before = (tmp_path / "in" / "x.nii.gz").read_bytes()
    with pytest.raises(DataError, match="among the scans"):
        predict_with(smoke.stage("finetune") / "model-scratch", tmp_path / source, tmp_path / output)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x.nii.gz"]
    assert (tmp_path / "in" / "x.nii.gz").read_bytes() == before


def test_a_folder_that_another_process_writes_to_is_refused(smoke, tmp_path):
    scan = smoke.folder / "runs" / "smoke-phantoms" / "sub-phantom001/anat/sub-phantom001_T1w.nii.gz"
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    shutil.copy(scan, tmp_path / "in" / "scan.nii.gz")
    with (
        FileLock(tmp_path / "masks" / ".result.lock"),
        pytest.raises(DataError, match="Another process writes results here"),
    ):
        predict_with(smoke.stage("finetune") / "model-scratch", tmp_path / "in", tmp_path / "masks")
    assert [path.name for path in (tmp_path / "masks").iterdir()] == [".result.lock"]


def test_a_plain_folder_with_more_than_scans_is_to_be_named_as_a_data_set(tmp_path):
    array = np.arange(216, dtype=np.float32).reshape(6, 6, 6)
    for path in ("apart/image/a.nii.gz", "apart/mask/a.nii.gz", "beside/sub-1_T1w.nii.gz", "beside/sub-1_dseg.nii.gz"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        nib.save(
            nib.Nifti1Image(array if "mask" not in path and "dseg" not in path else array // 99, np.eye(4)), tmp_path / path
        )
    names = {"apart": "a", "beside": "sub-1"}
    for folder, words in (
        ("apart", "in the folder itself, but its subfolders are the layout 'folder'"),
        ("beside", r"1 of the 2 images are label maps of the others by their names, such as sub-1_dseg\.nii\.gz"),
    ):
        with pytest.raises(DataError, match=rf"(?s){words}.*or name the layout: --format folder"):
            find_inputs(tmp_path / folder, tmp_path / "out", Screen())
        (scan,) = find_inputs(tmp_path / folder, tmp_path / "out", Screen(), "folder", {"ids": "names"}).scans
        assert scan.name == names[folder]
    for names in (("P1_masked", "P2_masked"), ("P1_T1w", "P1_T1w_masked"), ("P1_seg", "P2_seg")):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
        assert [scan.name for scan in find_inputs(folder, tmp_path / "out", Screen()).scans] == list(names), "all are scans"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image in the folder itself\.\n"):
        find_inputs(tmp_path / "empty", tmp_path / "out", Screen())


def test_a_mask_that_does_not_exist_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "load_artifact", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(DataError, match=r"(?s)The brain mask does not exist.*nowhere\.nii\.gz"):
        predict_with("model", tmp_path / "x.nii.gz", tmp_path / "y.nii.gz", brain_mask=tmp_path / "nowhere.nii.gz")


def test_plain_files_take_brain_masks_of_the_same_name_or_are_refused(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for number, name in enumerate(("a.nii.gz", "b.nii.gz"), start=2):
        scan = np.random.default_rng(number).uniform(1, 9, (8, 8, 8)).astype(np.float32)
        mask = np.zeros((8, 8, 8), dtype=np.uint8)
        mask[:number, :number, :number] = 1
        (tmp_path / "scans").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), tmp_path / "scans" / name)
        nib.save(nib.Nifti1Image(mask, np.eye(4)), masks / name)

    def shapes(source, mask, foreground="brain"):
        space = SpacePlan(foreground=foreground)
        inputs = find_inputs(source, tmp_path / "out", Screen())
        mask_of = predict._mask_of(inputs, space, mask)
        return [scan.prepare(space, None, mask_of(scan)).shape for scan in inputs.scans]

    assert shapes(tmp_path / "scans", masks) == [(2, 2, 2), (3, 3, 3)]
    assert shapes(tmp_path / "scans" / "b.nii.gz", masks / "a.nii.gz") == [(2, 2, 2)]
    nib.save(nib.load(masks / "b.nii.gz"), masks / "b.nii")  # a scan's mask may have another ending than the scan
    (masks / "b.nii.gz").unlink()
    assert shapes(tmp_path / "scans", masks) == [(2, 2, 2), (3, 3, 3)]
    (masks / "a.nii.gz").rename(masks / "other.nii.gz")
    with pytest.raises(DataError, match=r"(?s)The brain mask file does not exist.*a\.nii\.gz"):
        shapes(tmp_path / "scans", masks)
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4)), masks / "a.nii")
    with pytest.raises(DataError, match=r"(?s)The brain mask is empty.*masks/a\.nii\n"):
        shapes(tmp_path / "scans", masks)
    (masks / "a.nii").unlink()
    (masks / "other.nii.gz").rename(masks / "a.nii.gz")
    with pytest.raises(DataError, match="no brain mask"):
        shapes(tmp_path / "scans" / "b.nii.gz", None)
    with pytest.raises(ConfigError, match="a brain mask has no effect"):
        shapes(tmp_path / "scans", masks, foreground="head")
    with pytest.raises(ConfigError, match="One brain mask is given for 2 scans"):
        shapes(tmp_path / "scans", masks / "a.nii.gz")
    (tmp_path / "cases.csv").write_text("subject,image\nP1,scans/a.nii.gz\n")
    with pytest.raises(ConfigError, match="masks are among its targets"):
        shapes(tmp_path / "cases.csv", masks)


def test_what_lies_beside_a_given_mask_says_where_it_is_doubtful(tmp_path):
    scan = np.random.default_rng(2).uniform(1, 9, (8, 8, 8)).astype(np.float32)
    mask, doubt = np.zeros((2, 8, 8, 8), dtype=np.uint8)
    mask[:4], doubt[3] = 1, 1
    for name, array in (("scans/a", scan), ("masks/a", mask), ("masks/a_doubtful", doubt)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    inputs, space = find_inputs(tmp_path / "scans", tmp_path / "out", Screen()), SpacePlan(foreground="brain")

    def unsure(given):
        mask_of = predict._mask_of(inputs, space, given)
        (prepared,) = (scan.prepare(space, None, mask_of(scan)) for scan in inputs.scans)
        return None if prepared.doubtful is None else int(prepared.doubtful.sum())

    assert unsure(tmp_path / "masks") == unsure(tmp_path / "masks" / "a.nii.gz") == 64
    (tmp_path / "masks" / "a_doubtful.nii.gz").unlink()
    assert unsure(tmp_path / "masks") is None


@pytest.fixture
def table(tmp_path):
    """A model and a table of two scans, one of which lies outside the data set."""
    plan = Plan(
        space=SpacePlan(channels=("T1",)),
        network=NetworkPlan(widths=(4, 4), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3), (3, 3, 3))),
        sampling=SamplingPlan(patch=(8, 8, 8)),
    )
    model = seeded_network(network_config({"kind": "unet"}, plan, classes=2), 0)
    meta = ArtifactMeta(kind="segmenter", network=model.config, plan=plan, target="label", labels={0: "background", 1: "a"})
    save_artifact(tmp_path / "model", model, meta)
    scan = np.random.default_rng(0).uniform(1, 9, (8, 8, 8)).astype(np.float32)
    (tmp_path / "study" / "scans").mkdir(parents=True)
    for path in ("study/scans/P1.nii.gz", "outside.nii.gz"):
        nib.save(nib.Nifti1Image(scan, np.eye(4)), tmp_path / path)
    (tmp_path / "study" / "cases.csv").write_text("subject,image:T1\nP1,scans/P1.nii.gz\nP2,../outside.nii.gz\n")
    return tmp_path / "study" / "cases.csv"


def test_a_table_is_predicted_and_a_scan_that_it_refuses_is_a_failure(table, tmp_path, medae):
    done = medae("predict", "model", "study/cases.csv", "out", "--device", "cpu", "--json", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    result = json.loads(done.stdout)
    assert set(result["cases"]) == {"P1"}
    assert result["failed"] == {"P2": "is a file outside the data set, in line 3"}
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    assert "1 of 2 scans failed" in done.stderr
    assert nib.load(tmp_path / "out" / "P1.nii.gz").shape == (8, 8, 8)


def test_results_of_a_table_never_take_the_place_of_its_scans(table, tmp_path):
    before = (tmp_path / "study" / "scans" / "P1.nii.gz").read_bytes()
    with pytest.raises(DataError, match="among the scans"):
        predict_with(tmp_path / "model", table, tmp_path / "study" / "scans")
    assert (tmp_path / "study" / "scans" / "P1.nii.gz").read_bytes() == before


def test_a_folder_named_on_the_command_line_is_not_looked_for_in_the_data_folder(table, tmp_path, monkeypatch):
    """Where MEDAE_DATA is set, a path on the command line still begins in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDAE_DATA", str(tmp_path / "elsewhere"))
    table.write_text("subject,image:T1\nP1,scans/P1.nii.gz\n")
    assert set(predict_with("model", table.relative_to(tmp_path), tmp_path / "out")["cases"]) == {"P1"}
