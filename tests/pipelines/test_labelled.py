"""What the labelled cases of a fine-tuning decide, and what they must not: the set of labels, who chooses the weights."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.config import validate
from medae.data.split import ordered
from medae.errors import ConfigError, DataError
from pipelines import finetune
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import open_dataset
from pipelines.segmenting import label_names
from pipelines.stage import run_stage

NAMES = tuple(f"s{number}" for number in range(8))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MEDAE_DATA", "MEDAE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scans(folder: Path, labels: dict[str, tuple[int, ...]]) -> Path:
    """A table of scans of 12^3 voxels. labels: the values in a subject's label map, a slab each; without an entry, 1."""
    rows = []
    for number, name in enumerate(NAMES):
        image = np.random.default_rng(number).normal(50, 5, (12, 12, 12)).astype(np.float32)
        label = np.zeros((12, 12, 12), np.uint8)
        for place, value in enumerate(labels.get(name, (1,))):
            label[3 * place : 3 * place + 3, 2:10, 2:10] = value
        for kind, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}_{kind}.nii.gz")
        rows.append({"subject": name, "image": f"{name}_image.nii.gz", "label": f"{name}_label.nii.gz"})
    path = folder / "cases.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["subject", "image", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def configured(path: Path, *overrides: str) -> finetune.Config:
    given = [f"data={{format: table, root: '{path}'}}", "split={test: 2, validation: 1}", "target=label", "encoder=none"]
    given += ["plan={widths: [4, 8], patch: [8, 8, 8], batch: 2}", "fit={steps: 2, epoch_steps: 1, schedule: {warmup: 1}}"]
    return validate(finetune.Config, read_config("phantoms", "finetune", [*given, *overrides]))


def test_the_set_of_labels_does_not_depend_on_which_cases_are_labelled(work: Path) -> None:
    """Nobody declared the labels; one subject has 2 alone, one has both, the others 1."""
    dataset = open_dataset(configured(scans(work, {"s0": (2,), "s1": (1, 2)})), Screen())
    every = {0: "background", 1: "label 1", 2: "label 2"}
    for name in ("s0", "s1", "s2"):
        assert label_names(dataset.subset([name]), "label") == every


def test_label_maps_of_nothing_are_refused_in_their_own_words(work: Path) -> None:
    with pytest.raises(DataError, match="hold nothing but background"):
        run_stage("finetune", configured(scans(work, dict.fromkeys(NAMES, ()))), work / "runs", Screen())


@pytest.mark.parametrize("selection", [5, 7, 10])
def test_more_cases_that_choose_than_are_labelled_are_refused(work: Path, selection: int) -> None:
    """Five training subjects, all of them labelled: ``labelled`` is not given."""
    config = configured(scans(work, {}), "labelled=null", f"selection={selection}", "fit.monitor=dice_mean")
    with pytest.raises(ConfigError, match=f"takes {selection} of 5 labelled"):
        run_stage("finetune", config, work / "runs", Screen())


def test_cases_that_choose_must_hold_something_to_be_found(work: Path) -> None:
    """Otherwise every answer is as good, and the first weights would be kept."""
    config = configured(scans(work, {}), "labelled=3", "selection=1", "fit.monitor=dice_mean")
    training = open_dataset(config, Screen()).split.train
    chooser = ordered(training, config.split.order_salt())[2]
    with pytest.raises(ConfigError, match="cases that choose the weights hold no voxel of 'label'"):
        run_stage(
            "finetune", config.model_copy(update={"data": configured(scans(work, {chooser: ()})).data}), work, Screen()
        )
