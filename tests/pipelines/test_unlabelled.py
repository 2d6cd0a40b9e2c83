"""The semi-supervised arm from end to end: whose images it sees, whose labels it does not, what is kept and compared."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from cubes import NAMES, write_cubes

from medae.artifact import load_artifact
from medae.config import to_dict, validate
from medae.data.split import ordered
from medae.errors import ConfigError
from medae.preprocessing.sampling import PatchSampler
from medae.training import checkpoint
from pipelines import finetune, finetune_training, segmenting, unlabelled
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import image_digests, open_dataset
from pipelines.finetune import Config
from pipelines.stage import run_stage

ORDER = ordered(NAMES, "medae-0:")
TEST, VALIDATION, TRAIN = ORDER[:2], ORDER[2:3], ORDER[3:]
LABELLED, CHOOSING = TRAIN[:1], TRAIN[1:2]
UNLABELLED = tuple(name for name in TRAIN if name not in CHOOSING)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The scans that are unlabelled only have label maps too, which nobody may read."""
    return write_cubes(tmp_path_factory.mktemp("semi") / "data")


def config(root: Path, *overrides: str) -> Config:
    given = [
        f"data={{format: folder, root: '{root}', images: image, labels: mask, ids: names, label_names: {{1: cube}}}}",
        "split={test: 2, validation: 1}",
        "target=label",
        "labelled=2",
        "selection=1",
        "encoder=none",
        "fit={steps: 2, epoch_steps: 1, ema: 0.9, monitor: dice_mean}",
        *overrides,
    ]
    return validate(Config, read_config("phantoms", "finetune", given))


VOLUMES = "plan={spatial_dims: 3, widths: [4, 8], patch: [8, 8, 8], batch: 2}"
SLICES = "plan={spatial_dims: 2, slice_axis: 2, widths: [4, 8], patch: [16, 16], batch: 2}"
KINDS = {
    "mean_teacher": (VOLUMES, "unlabelled={kind: mean_teacher, batch: 3}"),
    "joint": (SLICES, "unlabelled={kind: joint, twin: false, pretext: {kind: masked}}"),
}


@pytest.fixture(scope="module", params=KINDS)
def run(request, root, tmp_path_factory):
    """A finished stage: its kind, configuration, what it drew from which cases, and whose label maps it opened."""
    folder = root.parent
    drawn: dict[bool, set[str]] = {True: set(), False: set()}
    opened: set[str] = set()
    reading = segmenting.reference

    class Recording(PatchSampler):
        def batch(self, step, process=0, processes=1):
            batch = super().batch(step, process, processes)
            drawn[bool(batch.target)].update(batch.keys)
            return batch

    def record(manifest, case, *others):
        opened.add(case.id)
        return reading(manifest, case, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for module in (finetune_training, unlabelled):
            patch.setattr(module, "PatchSampler", Recording)
        patch.setattr(segmenting, "reference", record)
        chosen = config(root, *KINDS[request.param], f"name={request.param}")
        finished = run_stage("finetune", chosen, tmp_path_factory.mktemp("runs"), Screen())
    return request.param, chosen, finished, drawn, opened


def test_the_streams_draw_from_their_own_cases(run):
    _, _, _, drawn, opened = run
    assert drawn[True] == set(LABELLED)
    assert drawn[False] <= set(UNLABELLED) and drawn[False] - set(LABELLED)
    assert opened <= {*LABELLED, *CHOOSING, *TEST}, "label maps of unlabelled scans are not read"


def test_the_arms_are_compared_and_their_models_are_segmenters(run):
    kind, _, finished, _, _ = run
    expected = {"mean_teacher": ["scratch", "mean_teacher"], "joint": ["joint"]}[kind]
    assert list(finished.result.metrics) == list(finished.result.models) == expected
    compared = {key for key in finished.result.facts if "_minus_" in key}
    assert compared == ({"mean_teacher_minus_scratch"} if kind == "mean_teacher" else set())
    tensors = load_artifact(finished.folder / f"model-{kind}").tensors()
    assert not [name for name in tensors if "branch" in name or "teacher" in name]
    report = (finished.folder / "report.html").read_text()
    assert "Unlabelled scans" in report
    assert (finished.folder / "figures" / f"unlabelled-{kind}.png").stat().st_size > 5000


def test_the_model_remembers_every_scan_that_it_was_shown(run):
    kind, chosen, finished, _, _ = run
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(chosen.data.root).parent)
        manifest = open_dataset(chosen, Screen()).manifest
    seen = load_artifact(finished.folder / f"model-{kind}").meta.seen
    assert seen == image_digests(manifest.of_subjects(TRAIN))
    if kind == "mean_teacher":
        supervised = load_artifact(finished.folder / "model-scratch").meta.seen
        assert supervised == image_digests(manifest.of_subjects([*LABELLED, *CHOOSING]))


@pytest.mark.parametrize("run", ["mean_teacher"], indirect=True)
def test_the_twin_and_the_arm_had_the_same_labelled_batches(run):
    folder = run[2].folder
    first = [checkpoint.load(folder / arm).facts["state"]["history"][0] for arm in ("scratch", "mean_teacher")]
    assert first[0]["loss/dice_ce"] == first[1]["loss/dice_ce"], "before the first update they differ in nothing"
    assert "loss/consistency" in first[1] and "loss/consistency" not in first[0]


@pytest.mark.parametrize("run", ["mean_teacher"], indirect=True)
def test_the_teacher_is_what_is_scored(run):
    folder = run[2].folder
    stored = checkpoint.load_best(folder / "mean_teacher")
    kept = load_artifact(folder / "model-mean_teacher").tensors()
    assert all(torch.equal(kept[name], stored[name]) for name in kept)


# --- what is refused ---


def test_a_mean_teacher_needs_a_moving_average(root):
    with pytest.raises(ConfigError, match="moving average"):
        config(root, VOLUMES, "unlabelled={kind: mean_teacher}", "fit.ema=null")


def test_unlabelled_scans_are_another_run(root):
    plain, semi = config(root, VOLUMES), config(root, VOLUMES, "unlabelled={kind: mean_teacher}")
    assert plain.decisive() != semi.decisive()
    assert plain.unlabelled is None


# --- which arms there are ---


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["encoder=e"], {"pretrained": True, "scratch": False, "mean_teacher": True}),
        (["encoder=e", "scratch=false"], {"pretrained": True, "mean_teacher": True}),
        (["encoder=e", "unlabelled.twin=false"], {"scratch": False, "mean_teacher": True}),
        ([], {"scratch": False, "mean_teacher": False}),
        (["unlabelled.twin=false"], {"mean_teacher": False}),
    ],
)
def test_the_arm_begins_as_its_twin_does_and_has_its_rate_and_tuning(root, overrides, expected):
    rates = "rates={pretrained: 0.001, scratch: 0.01}"
    chosen = config(root, VOLUMES, "unlabelled={kind: mean_teacher}", rates, "tuning.kind=gentle", *overrides)
    assert chosen.arms() == expected
    assert chosen.fit_of("mean_teacher", 0).rate == (0.001 if expected["mean_teacher"] else 0.01)
    assert (chosen.tuning_of("mean_teacher") is not None) == expected["mean_teacher"]


def test_what_is_so_of_the_data_is_said_once_however_often_it_is_opened(root, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    screen = Screen()
    for _ in range(2):
        open_dataset(config(root, VOLUMES), screen)
    told = [line for line in capsys.readouterr().err.splitlines() if "medae check says where" in line]
    assert told and len(told) == len(set(told))


def test_labels_beyond_the_foreground_are_told_of(tmp_path, monkeypatch, capsys):
    """A brain mask, or background of 0, may cut a structure off: the case is trained with as if it had none there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(finetune, "train_arm", stop)
    root = write_cubes(tmp_path / "data")
    for kind in ("image", "mask"):
        file = root / kind / f"{LABELLED[0]}.nii.gz"
        scan = nib.load(file)
        array = np.asarray(scan.dataobj).copy()
        array[0], array[1] = (0, array[1]) if kind == "image" else (1, 0)
        nib.save(nib.Nifti1Image(array, scan.affine, scan.header), file)
    keeping = [
        config(root, VOLUMES, "fit.monitor=null", f"plan.foreground={kind}", "selection=0") for kind in ("nonzero", "all")
    ]
    for name, chosen in zip(("some", "none"), keeping, strict=True):
        with pytest.raises(Stopped):
            run_stage("finetune", chosen, tmp_path / name, Screen())
    first, *others = [line for line in capsys.readouterr().err.splitlines() if "beyond the" in line]
    assert (
        not others and f"1 of 2 training cases, such as {LABELLED[0]}, have labelled voxels beyond the foreground" in first
    )


def test_what_cannot_help_is_said_before_the_training(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(finetune, "train_arm", stop)
    teacher = config(
        root, *KINDS["mean_teacher"], "data.label_names={1: cube, 2: sphere}", "selection=0", "fit.monitor=null"
    )
    with pytest.raises(Stopped):
        run_stage("finetune", teacher.model_copy(update={"labelled": None}), tmp_path / "runs", Screen())
    shown = capsys.readouterr().err
    assert "No encoder is given" not in shown, "it says none"
    assert "Every training scan is labelled: the unlabelled stream shows no further scan" in shown
    assert "Label 'sphere' is in no training case" in shown
    assert "Label 'cube'" not in shown

    silent = validate(Config, {key: value for key, value in to_dict(teacher).items() if key != "encoder"})
    with pytest.raises(Stopped):
        run_stage("finetune", silent, tmp_path / "fewer", Screen())
    shown = capsys.readouterr().err
    assert "No encoder is given" in shown
    assert "Every training scan is labelled" not in shown


class Stopped(Exception):
    """Of the test above: before anything is trained."""


def stop(*_: object) -> None:
    raise Stopped
