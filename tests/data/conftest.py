"""Small data sets in each layout. Sources hash files and do not read images: the contents here are the names."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # dicomfiles


def make_files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def write_dataset_json(root: Path, content: dict[str, Any]) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


@pytest.fixture(autouse=True)
def nothing_is_remembered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests and findings of other tests do not count."""
    monkeypatch.setenv("MEDAE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(name="touch")
def touch_fixture() -> Callable[..., Path]:
    """Make files under a folder, each containing its own name; returns the folder."""
    return make_files


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Change entries of a folder's dataset.json; None removes one."""

    def edit(root: Path, **changes: Any) -> None:
        content = json.loads((root / "dataset.json").read_text()) | changes
        write_dataset_json(root, {key: value for key, value in content.items() if value is not None})

    return edit


@pytest.fixture
def msd(tmp_path):
    make_files(tmp_path, "imagesTr/la_1.nii.gz", "imagesTr/la_2.nii.gz", "imagesTs/la_3.nii.gz", "labelsTr/la_1.nii.gz")
    make_files(tmp_path, "imagesTr/._la_1.nii.gz")  # what macOS leaves beside each file
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "atrium"},
        "training": [{"image": "./imagesTr/la_1.nii.gz", "label": "./labelsTr/la_1.nii.gz"}],
        "test": ["./imagesTs/la_3.nii.gz"],
    }
    write_dataset_json(tmp_path, content)
    return tmp_path


@pytest.fixture
def nnunet(tmp_path):
    make_files(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b_0001.nii.gz", "labelsTr/a.nii.gz")
    make_files(tmp_path, "imagesTs/c_0000.nii.gz")
    content = {
        "channel_names": {"1": "CT", "0": "T1"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii.gz",
        "numTraining": 2,
    }
    write_dataset_json(tmp_path, content)
    return tmp_path


@pytest.fixture
def bids(tmp_path):
    make_files(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_FLAIR.nii.gz")
    make_files(tmp_path, "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz")
    make_files(tmp_path, "derivatives/atlas/sub-01/anat/sub-01_space-orig_dseg.nii.gz")
    make_files(tmp_path, "derivatives/atlas/sub-01/anat/sub-01_space-MNI152_dseg.nii.gz", "derivatives/fmriprep/logs.txt")
    rows = ["participant_id\tage\tsex\tsite", "sub-01\t31.5\tF\tn/a", "02\tn/a\tM\tLondon"]
    (tmp_path / "participants.tsv").write_text("\n".join(rows))
    return tmp_path


@pytest.fixture
def listing(tmp_path):
    """A table of three cases of two subjects; the files are in folders that say nothing."""
    make_files(tmp_path, "a/1.nii.gz", "a/2.nrrd", "b/3.mha", "b/4.nii", "c/1.nii.gz", "c/head.nii.gz")
    rows = [
        "subject;session;image:T1;image:FLAIR;label;mask:brain_mask;age;site",
        "P1;1;a/1.nii.gz;a/2.nrrd;c/1.nii.gz;c/head.nii.gz;61,5;north",
        "P1;2;b/3.mha;;;;62;",
        "P2;;b/4.nii;;;;n/a;south",
    ]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.fixture
def plain(tmp_path):
    return make_files(tmp_path, "image/jane_doe_1.nii.gz", "image/jane_doe_2.nii.gz", "mask/jane_doe_1.nii.gz")
