"""No scan is on two sides, by subject and by the contents of its images: in any stage, and from stage to stage."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from stored import stored_model

from medae.artifact import ArtifactMeta, load_artifact
from medae.config import to_dict, validate
from medae.data.case import Case, ImageRef, Manifest
from medae.data.split import Split, ordered
from medae.errors import ConfigError, DataError
from pipelines import data, detect, finetune, pretrain
from pipelines import stage as stages
from pipelines.apart import keep_apart
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import open_dataset, refuse_learnt, refuse_seen
from pipelines.stage import run_stage

CONFIGS = {"pretrain": pretrain.Config, "finetune": finetune.Config, "detect": detect.Config}


def case(name: str, subject: str, **contents: str) -> Case:
    images = {
        channel: ImageRef(files=(f"{name}-{channel}.nii.gz",), sha256=digest * 64, kind="intensity")
        for channel, digest in contents.items()
    }
    return Case(id=name, subject=subject, images=images)


def manifest(*cases: Case) -> Manifest:
    return Manifest(source="folder", root=Path("/data"), channels=("T1w", "FLAIR"), cases=cases)


def model_that_saw(digest: str) -> Any:
    """What the stages look at of a stored model before they train."""
    return SimpleNamespace(meta=SimpleNamespace(seen=(digest,), provenance={}), digest="d")


TRAINING = manifest(case("a", "anna", T1w="0", FLAIR="1"), case("b", "bert", T1w="2"))


# --- by hand ---


def test_different_subjects_with_different_images_are_apart():
    sides = {"training": TRAINING, "validation": manifest()}
    keep_apart({**sides, "test": manifest(case("c", "cleo", T1w="3"))})
    with pytest.raises(DataError):  # one digest decides
        keep_apart({**sides, "test": manifest(case("c", "cleo", T1w="2"))})


def test_a_subject_on_two_sides_is_named():
    with pytest.raises(DataError, match=r"1 test cases are also among the training cases.*: a2 \(a\)"):
        keep_apart({"training": TRAINING, "test": manifest(case("a2", "anna", T1w="8"), case("c", "cleo", T1w="3"))})


@pytest.mark.parametrize("contents", [{"T1w": "7", "FLAIR": "1"}, {"T1w": "0"}, {"T1w": "1"}])
def test_one_channels_contents_are_enough_under_whatever_name(contents):
    with pytest.raises(DataError, match=r"c \(a\)"):
        keep_apart({"training": TRAINING, "test": manifest(case("c", "cleo", **contents))})


def test_every_pair_of_sides_is_looked_at():
    one, other = manifest(case("x", "xaver", T1w="5")), manifest(case("y", "yann", T1w="5"))
    for sides in (
        {"a": one, "b": other, "c": TRAINING},
        {"a": one, "c": TRAINING, "b": other},
        {"c": TRAINING, "a": one, "b": other},
    ):
        with pytest.raises(DataError, match=r"1 b cases are also among the a cases.*y \(x\)"):
            keep_apart(sides)


@pytest.mark.parametrize("channel", ["T1w", "FLAIR"])
def test_a_model_knows_a_scan_by_any_channel(channel):
    scans = manifest(case("c", "cleo", **{"T1w": "b", "FLAIR": "c"} | {channel: "a"}), case("d", "dora", T1w="d"))
    with pytest.raises(DataError, match="1 of 2 test scans before: c"):
        refuse_seen(scans, model_that_saw("a" * 16), "encoder", "test")


def test_a_threshold_is_not_set_on_what_a_model_has_learnt_from_but_may_be_on_what_its_own_was_set_on(tmp_path):
    seen = tuple(digest * 16 for digest in "abc")
    model = stored_model(tmp_path / "model", "autoencoder", kind="detector", seen=seen, calibrated=seen[2:])
    assert load_artifact(model.folder).meta.learnt == seen[:2]
    own = manifest(case("c", "cleo", T1w="c"))
    known = manifest(case("x", "xaver", T1w="f", FLAIR="b"), *own.cases)
    with pytest.raises(DataError, match="model has learnt from 1 of 2 calibration scans: x"):
        refuse_learnt(known, model, "model")
    refuse_learnt(own, model, "model")
    with pytest.raises(DataError, match="1 of 1 test scans before: c"):
        refuse_seen(own, model, "model", "test")
    with pytest.raises(ConfigError, match="among what was seen"):
        validate(ArtifactMeta, to_dict(model.meta) | {"calibrated": ["d"]})


# --- in the stages ---

NAMES = tuple(f"subject{number}" for number in range(8))
ORDER = ordered(NAMES, "medae-0:")
PARTS = {"test": ORDER[:2], "validation": ORDER[2:4], "training": ORDER[4:]}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """One working folder, since a fresh MLflow store takes seconds."""
    return tmp_path_factory.mktemp("apart")


@pytest.fixture
def work(place, tmp_path, monkeypatch) -> Path:
    """The folder of a test's own data and runs."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MEDAE_DATA", raising=False)
    return tmp_path


def table(folder: Path, **copied: str) -> Path:
    """A table of small scans; ``copied``: subject -> the subject whose file it has too."""
    rows = []
    for name in NAMES:
        noise = np.random.default_rng(NAMES.index(name)).normal(100, 5, (12, 12, 12)).astype(np.float32)
        label = np.zeros((12, 12, 12), np.uint8)
        label[4:8, 4:8, 4:8] = 1
        nib.save(nib.Nifti1Image(noise, np.eye(4)), folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{name}_label.nii.gz")
        rows.append({"subject": name, "image": f"{copied.get(name, name)}.nii.gz", "label": f"{name}_label.nii.gz"})
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["subject", "image", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "cases.csv"


def configured(stage: str, path: Path, *overrides: str):
    given = [
        f"data={{format: table, root: '{path}', label_names: {{1: cube}}}}",
        "split={test: 2, validation: 2}",
        *([] if stage == "pretrain" else ["target=label"]),
        *overrides,
    ]
    return validate(CONFIGS[stage], read_config("phantoms", stage, given))


CASES = [
    ("pretrain", "training", "test"),
    ("pretrain", "training", "validation"),
    ("pretrain", "validation", "test"),
    ("finetune", "training", "test"),
    ("finetune", "training", "validation"),
    ("detect", "training", "test"),
    ("detect", "validation", "test"),
]


@pytest.mark.parametrize(("stage", "one", "other"), CASES)
def test_one_file_under_two_subjects_stops_the_stage_before_it_trains(work, stage, one, other):
    first, second = PARTS[one][0], PARTS[other][0]
    path = table(work, **{second: first})
    labelled = ["labelled=4"] if stage == "finetune" else []
    with pytest.raises(DataError, match=f"1 {other} cases are also among the {one} cases") as caught:
        run_stage(stage, configured(stage, path, *labelled), work / "runs", Screen())
    assert f"{second} ({first})" in caught.value.what
    assert not list(work.rglob("checkpoints"))


def test_a_blank_image_in_place_of_a_missing_channel_is_no_shared_scan(work):
    """One blank file in a training and in a test case: the check leaves out both, so that the others can be used."""
    path = table(work)
    blank = work / "blank.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((12, 12, 12), np.float32), np.eye(4)), blank)
    missing = (PARTS["test"][0], PARTS["training"][0])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        own = work / f"{row['subject']}_flair.nii.gz"
        noise = np.random.default_rng(100 + NAMES.index(row["subject"])).normal(50, 5, (12, 12, 12)).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), own)
        row["image:T1w"] = row.pop("image")
        row["image:FLAIR"] = blank.name if row["subject"] in missing else own.name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["subject", "image:T1w", "image:FLAIR", "label"])
        writer.writeheader()
        writer.writerows(rows)
    dataset = open_dataset(configured("pretrain", path), Screen())
    assert sorted(dataset.excluded) == sorted(missing)
    parts = {name: dataset.subset(getattr(dataset.split, name)) for name in ("train", "validation", "test")}
    assert sum(len(part.cases) for part in parts.values()) == len(NAMES) - 2
    keep_apart(parts)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "detect"])
def test_a_subject_on_two_sides_stops_the_stage(work, stage, monkeypatch):
    """No split of medae's does it: this is for the day when one would."""
    labelled = ["labelled=7"] if stage == "finetune" else []
    monkeypatch.setattr(data, "split_subjects", lambda *_: Split(ORDER[1:], ORDER[2:4], ORDER[:2]))
    with pytest.raises(DataError, match="are also among the training cases") as caught:
        run_stage(stage, configured(stage, table(work), *labelled), work / "runs", Screen())
    assert ORDER[1 if stage == "finetune" else 2] in caught.value.what, "there test subjects are looked at first"


@pytest.mark.parametrize("part", ["validation", "test"])
def test_an_encoder_that_has_seen_a_held_out_scan_is_refused(work, part, monkeypatch):
    """Also one of a test subject that is not scored, since it has no label map."""
    path = table(work)
    held = PARTS[part][0]
    path.write_text(path.read_text().replace(f"{held}_label.nii.gz", ""))
    config = configured("finetune", path, "encoder=somewhere", "labelled=2")
    (digest,) = data.image_digests(open_dataset(config, Screen()).subset([held]))
    monkeypatch.setattr(stages, "resolve_model", lambda uri: uri)
    monkeypatch.setattr(stages, "load_artifact", lambda _: model_that_saw(digest))
    with pytest.raises(DataError, match=f"The encoder has seen 1 of 2 {part} scans before: {held}"):
        run_stage("finetune", config, work / "runs", Screen())


def test_the_unlabelled_stream_is_kept_apart_too(work):
    """A scan that no label is taken from, with the contents of a test scan: it matters with ``unlabelled`` alone."""
    labelled = ordered(ORDER[4:], "medae-0:")[:1]
    unlabelled = next(name for name in ORDER[4:] if name not in labelled)
    path = table(work, **{PARTS["test"][0]: unlabelled})
    overrides = ("labelled=1", "encoder=none", "fit.ema=0.9")
    config = configured("finetune", path, *overrides, "unlabelled={kind: mean_teacher}")
    with pytest.raises(DataError, match=rf"{PARTS['test'][0]} \({unlabelled}\)"):
        run_stage("finetune", config, work / "runs", Screen())


def test_the_cases_that_choose_are_no_unlabelled_scans(work):
    """One file under a subject that chooses the weights and under one that is only an unlabelled scan."""
    order = ordered(ORDER[4:], "medae-0:")
    path = table(work, **{order[1]: order[3]})
    overrides = ("labelled=2", "selection=1", "encoder=none", "fit.ema=0.9", "fit.monitor=dice_mean")
    config = configured("finetune", path, *overrides, "unlabelled={kind: mean_teacher}")
    with pytest.raises(DataError, match=rf"1 selection cases are also among the training cases.*{order[1]} \({order[3]}\)"):
        run_stage("finetune", config, work / "runs", Screen())
