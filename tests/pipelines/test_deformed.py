"""Fine-tuning on deformed scans from end to end: whose shapes are taken, whose label maps are read, what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from cubes import NAMES, write_cubes

from medae.artifact import load_artifact
from medae.config import validate
from medae.data.case import Case, ImageRef, Manifest
from medae.data.split import ordered
from medae.errors import ConfigError
from medae.plan import SpacePlan
from medae.preprocessing import prepare
from medae.preprocessing.deformed import Pair, RegistrationConfig
from medae.preprocessing.sampling import PatchSampler
from medae.preprocessing.store import Store
from pipelines import finetune_training, segmenting
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.curve_config import Curve
from pipelines.data import image_digests, open_dataset
from pipelines.deformed import Deformed
from pipelines.finetune import Config
from pipelines.stage import run_stage

ORDER = ordered(NAMES, "medae-0:")
TEST, VALIDATION, TRAIN = ORDER[:2], ORDER[2:3], ORDER[3:]
LABELLED, CHOOSING = TRAIN[:1], TRAIN[1:2]
OTHERS = TRAIN[2:]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Whose label maps but those of the labelled cases nobody may read."""
    return write_cubes(tmp_path_factory.mktemp("deformed") / "data")


def config(root: Path, *overrides: str) -> Config:
    given = [
        f"data={{format: folder, root: '{root}', images: image, labels: mask, ids: names, label_names: {{1: cube}}}}",
        "split={test: 2, validation: 1}",
        "target=label",
        "labelled=2",
        "encoder=none",
        "plan={spatial_dims: 3, widths: [4, 8], patch: [8, 8, 8], batch: 2}",
        "fit={steps: 4, epoch_steps: 2, ema: 0.9}",
        "registration={}",
        *overrides,
    ]
    return validate(Config, read_config("phantoms", "finetune", given))


def finished(root: Path, runs: Path, *overrides: str):
    """A finished stage, what its trainings drew from, by seed, and of which cases label maps were prepared."""
    drawn: dict[int, list[str]] = {}
    opened: set[str] = set()
    reading, scoring = prepare.read_array, segmenting.reference

    class Recording(PatchSampler):
        def batch(self, step, process=0, processes=1):
            batch = super().batch(step, process, processes)
            drawn.setdefault(self.seed, []).extend(batch.keys)
            return batch

    def prepared(manifest, ref):
        if ref.kind == "labels":
            opened.add(Path(ref.files[0]).name.removesuffix(".nii.gz"))
        return reading(manifest, ref)

    def scored(manifest, case, *others):
        opened.add(case.id)
        return scoring(manifest, case, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs)
        for name in ("MLFLOW_TRACKING_URI", "MEDAE_CACHE"):
            patch.delenv(name, raising=False)
        patch.setattr(finetune_training, "PatchSampler", Recording)
        patch.setattr(prepare, "read_array", prepared)
        patch.setattr(segmenting, "reference", scored)
        stage = run_stage("finetune", config(root, *overrides), runs / "runs", Screen())
    return stage, drawn, opened


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    return finished(root, tmp_path_factory.mktemp("run"), "selection=1", "fit.monitor=dice_mean")


def test_half_of_the_labelled_patches_come_from_the_labelled_scan_in_other_shapes(run):
    _, drawn, _ = run
    (keys,) = drawn.values()
    shapes = {f"{LABELLED[0]} as {other}" for other in OTHERS}
    assert set(keys) <= {LABELLED[0], *shapes}, "the cases that choose lend no shape"
    training = keys[: 4 * 2]
    assert sum(key == LABELLED[0] for key in training) == 4 and len(set(training) & shapes) == 4


def test_no_label_map_is_read_but_those_of_labelled_choosing_and_scored_cases(run):
    assert run[2] == {*LABELLED, *CHOOSING, *TEST}


def test_the_report_shows_them_and_the_model_remembers_the_scans(root, run):
    stage = run[0]
    report = (stage.folder / "report.html").read_text()
    assert "Deformed scans" in report and f"{len(OTHERS)} deformed scans" in report and "50% of the labelled" in report
    assert (stage.folder / "figures" / "deformed.png").stat().st_size > 5000
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root.parent)
        manifest = open_dataset(config(root), Screen()).manifest
    assert load_artifact(stage.folder / "model-scratch").meta.seen == image_digests(manifest.of_subjects(TRAIN))


def test_a_member_sees_neither_the_label_map_nor_the_shape_of_its_fold(root, tmp_path):
    """Three labelled scans, three folds: every deformed case that a member draws is of the two others."""
    three = TRAIN[:3]
    _, drawn, _ = finished(root, tmp_path, "labelled=3", "folds=3", "registration.share=0.9", "fit.steps=12")
    members = [set(keys[: 12 * 2]) for keys in drawn.values()]  # the report draws from all of them, later
    held = []
    for keys in members:
        moving = {key.split(" as ")[0] for key in keys}
        (left_out,) = set(three) - moving
        held.append(left_out)
        assert not [key for key in keys if key.endswith(f" as {left_out}")]
        assert any(" as " in key for key in keys)
    assert sorted(held) == sorted(three)


def test_nor_does_it_see_a_further_scan_of_a_subject_in_its_fold(root):
    """A follow-up without a label map, and a copy of a held scan under another name: both are the fold's."""

    def case(name: str, subject: str, content: str) -> Case:
        ref = ImageRef(files=(f"{name}.nii",), sha256=content, kind="intensity")
        return Case(id=name, subject=subject, images={"image": ref})

    cases = [case("a", "s1", "1"), case("a later", "s1", "2"), case("b", "s2", "3"), case("copy of a", "s3", "1")]
    manifest = Manifest(source="test", root=root, channels=("image",), cases=(*cases, case("c", "s4", "4")))
    pairs = tuple(Pair("b", fixed) for fixed in ("a", "a later", "copy of a", "c"))
    store = Store(root, SpacePlan(), ("label",), {})
    deformed = Deformed(RegistrationConfig(), pairs, manifest, store, store)
    assert deformed.of(["b"], [manifest.case("a")]) == ["b as c"]
    assert deformed.of(["b"]) == [pair.case_id for pair in pairs]
    with pytest.raises(ConfigError, match="Without a fold none of 4 deformed scans"):
        deformed.of(["b"], manifest.cases)


def test_slices_of_deformed_scans_teach_in_2d_and_beside_unlabelled_ones(root, tmp_path):
    """With a mean teacher too: both arms have the same labelled batches."""
    slices = "plan={spatial_dims: 2, slice_axis: 2, widths: [4, 8], patch: [16, 16], batch: 2}"
    stage, drawn, _ = finished(root, tmp_path, slices, "unlabelled={kind: mean_teacher}", "registration={scans: 3}")
    (keys,) = drawn.values()
    assert keys[:8] == keys[8:16] and sum(" as " in key for key in keys[:8]) == 4
    assert list(stage.result.metrics) == ["scratch", "mean_teacher"]
    assert (stage.folder / "figures" / "deformed.png").is_file()


def test_only_so_many_scans_lend_their_shapes(root, tmp_path):
    _, drawn, _ = finished(root, tmp_path, "registration={scans: 2, share: 0.9}", "fit.steps=10")
    (keys,) = drawn.values()
    assert len({key.split(" as ")[1] for key in keys if " as " in key}) == 2


def test_a_single_training_scan_has_no_other_shape_to_take(root, tmp_path):
    with pytest.raises(ConfigError, match="None of 0 other training scans can lend its shape"):
        finished(root, tmp_path, "split={test: 7, validation: 1}", "labelled=1")


def test_it_is_another_run_and_an_arm_may_have_it(root):
    assert config(root).decisive() != config(root, "registration=null").decisive()
    arms = {"scratch": {}, "deformed": {"set": {"registration": {"share": 0.25}}}}
    search = {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3]}
    curve = {"name": "c", "finetune": {"config": "phantoms"}, "labelled": [1], "arms": arms, "search": search}
    assert validate(Curve, curve).arms["deformed"].set == {"registration": {"share": 0.25}}
