"""The phantom source: complete, lazy, reproducible, safe for other people's files, and marked as synthetic."""

from __future__ import annotations

import errno
import functools
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medae.config import to_dict
from medae.data import phantom as module
from medae.data.phantom import PhantomSource
from medae.errors import DataError
from medae.synthesis.brain import make_phantom
from medae.synthesis.lesions import LesionConfig

SPACING = 6.0


@pytest.fixture(autouse=True)
def _template_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_template", cached_template)
    monkeypatch.setattr(module, "make_phantom", make_phantom)  # made anew each time: what is tested is that it is the same


cached_template = functools.cache(module.load_template)


def source(root: Path, **settings: object) -> PhantomSource:
    return PhantomSource.model_validate({"root": root, "subjects": 3, "spacing": SPACING, **settings})


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_manifest_and_files_agree(tmp_path: Path) -> None:
    manifest = source(tmp_path).manifest()
    assert (manifest.source, manifest.root, manifest.channels) == ("phantom", tmp_path, ("T1w",))
    assert manifest.labels["tissue"] == {0: "background", 1: "csf", 2: "grey_matter", 3: "white_matter"}
    assert manifest.labels["lesion"] == {0: "background", 1: "lesion"}
    assert [case.id for case in manifest.cases] == ["sub-phantom001", "sub-phantom002", "sub-phantom003"]
    for case in manifest.cases:
        refs = {"T1w": case.images["T1w"], **case.targets}
        assert refs["T1w"].files == (f"{case.id}/anat/{case.id}_T1w.nii.gz",)
        assert (refs["T1w"].kind, refs["T1w"].modality) == ("intensity", "MR")
        images = {name: nib.load(manifest.paths(ref)[0]) for name, ref in refs.items()}
        for image in images.values():
            assert image.header.get_zooms() == (SPACING,) * 3
            assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1
            assert image.header.get_xyzt_units()[0] == "mm"
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
            np.testing.assert_array_equal(image.affine, images["T1w"].affine)
            assert image.shape == images["T1w"].shape
        assert images["T1w"].get_data_dtype() == np.int16
        assert images["tissue"].get_data_dtype() == images["lesion"].get_data_dtype() == np.uint8
        assert set(np.unique(images["tissue"].dataobj)) == {0, 1, 2, 3}
        assert np.asarray(images["lesion"].dataobj).any() == bool(case.covariates["lesion"])
    assert [case.covariates["lesion"] for case in manifest.cases] == [0, 1, 0]


def test_everything_says_that_it_is_a_phantom(tmp_path: Path) -> None:
    manifest = source(tmp_path, subjects=1).manifest()
    assert manifest.phantom
    assert (tmp_path / "README").read_text().startswith("Phantoms: synthetic brains, not scans of people.")
    assert json.loads((tmp_path / "dataset_description.json").read_text())["Phantom"] is True
    for path in (tmp_path / "sub-phantom001" / "anat").glob("*.nii.gz"):
        assert b"phantom" in nib.load(path).header["descrip"].item()
    assert json.loads((tmp_path / "sub-phantom001" / "anat" / "sub-phantom001_T1w.json").read_text())["Phantom"] is True


def test_settings_are_written_and_open_the_same_cohort(tmp_path: Path) -> None:
    settings = source(tmp_path, lesions=1, lesion=LesionConfig(bright=1))
    manifest = settings.manifest()
    content = json.loads((tmp_path / "phantom.json").read_text())
    assert "root" not in content
    again = PhantomSource(root=tmp_path, **content)
    assert to_dict(again) == to_dict(settings)
    assert again.manifest() == manifest


def test_same_settings_give_the_same_bytes_anywhere_and_other_seeds_do_not(tmp_path: Path) -> None:
    manifests = [source(tmp_path / name, subjects=1, seed=seed).manifest() for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert manifests[0].digest() == manifests[1].digest() != manifests[2].digest()


def test_only_missing_files_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = source(tmp_path).manifest()
    before = contents(tmp_path)
    made: list[int] = []

    def counting(*arguments: object) -> object:
        made.append(arguments[-1])  # type: ignore[arg-type]
        return original(*arguments)  # type: ignore[arg-type]

    original = module.make_phantom
    monkeypatch.setattr(module, "make_phantom", counting)
    assert source(tmp_path).manifest() == first
    assert made == []
    (tmp_path / "sub-phantom002" / "anat" / "sub-phantom002_lesion.nii.gz").unlink()
    assert source(tmp_path).manifest() == first
    assert made == [2]
    assert contents(tmp_path) == before

    longer = source(tmp_path, subjects=4).manifest()
    assert made == [2, 4]
    assert longer.cases[:3] == first.cases
    assert source(tmp_path).manifest() == first
    assert len((tmp_path / "participants.tsv").read_text().splitlines()) == 1 + 4  # the folder still holds four


@pytest.mark.parametrize("written", [0, 1, 2, 4, 6, 9])
def test_a_full_disk_leaves_whole_files_and_the_next_call_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    source(tmp_path / "whole", subjects=2).manifest()
    calls = 0
    sync = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > written:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left"):
            source(tmp_path / "part", subjects=2).manifest()
    whole, part = contents(tmp_path / "whole"), contents(tmp_path / "part")
    assert len(part) == written
    assert part.items() <= whole.items()
    source(tmp_path / "part", subjects=2).manifest()
    assert contents(tmp_path / "part") == whole


@pytest.mark.parametrize("settings", [{"seed": 1}, {"spacing": 7.0}, {"lesions": 1.0}, {"lesion": LesionConfig(bright=0)}])
def test_phantoms_of_other_settings_are_not_taken_for_these(tmp_path: Path, settings: dict[str, object]) -> None:
    source(tmp_path, subjects=2).manifest()
    before = contents(tmp_path)
    with pytest.raises(DataError, match="other settings"):
        source(tmp_path, **{"subjects": 2, **settings}).manifest()
    assert contents(tmp_path) == before


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("My thesis.")
    with pytest.raises(DataError, match="other files"):
        source(tmp_path).manifest()
    assert contents(tmp_path) == {"README": b"My thesis."}
    with pytest.raises(DataError, match="cannot be written"):
        source(tmp_path / "README").manifest()


def test_a_relative_root_is_beneath_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAE_DATA", str(tmp_path))
    assert source(Path("phantoms"), subjects=1).manifest().root == tmp_path / "phantoms"


@given(st.integers(1, 60), st.floats(0, 1))
def test_a_share_of_lesions_is_kept_and_stable_when_the_cohort_grows(subjects: int, share: float) -> None:
    flags = [PhantomSource(root="x", subjects=subjects, lesions=share).has_lesion(n) for n in range(1, subjects + 1)]
    assert abs(sum(flags) - subjects * share) < 1 + 1e-6
    longer = PhantomSource(root="x", subjects=subjects + 7, lesions=share)
    assert flags == [longer.has_lesion(number) for number in range(1, subjects + 1)]


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_a_number_of_lesions_is_exact(drawn: tuple[int, int]) -> None:
    subjects, lesions = drawn
    cohort = PhantomSource(root="x", subjects=subjects, lesions=lesions)
    assert sum(cohort.has_lesion(number) for number in range(1, subjects + 1)) == lesions


@pytest.mark.parametrize("settings", [{"lesions": 1.5}, {"lesions": 4}, {"lesions": -1}, {"subjects": 0}, {"spacing": 0.5}])
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        source(tmp_path, **settings)
