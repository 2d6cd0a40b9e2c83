"""A world for the documentation's commands: data sets in every layout, and a working folder in which the demo was run."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

sys.path.append(str(Path(__file__).parents[1]))  # dicomfiles

from dicomfiles import Geometry, Writer
from pictures import leave_blank


@dataclass(frozen=True)
class World:
    """data: the folder of data sets. work: a working folder after a small ``medae demo``. store: of preprocessed scans."""

    data: Path
    work: Path
    store: Path

    def stage(self, name: str) -> Path:
        """The folder of a stage of the demo."""
        (found,) = (self.work / "runs" / "demo").glob(f"{name}-????????")
        return found


def enter(patch: pytest.MonkeyPatch, world: World, folder: Path) -> None:
    """Work in a folder, with the world's data and nothing of the tester's own settings."""
    patch.chdir(folder)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.delenv("MEDAE_CASE_SALT", raising=False)
    patch.setenv("MEDAE_DATA", str(world.data))
    patch.setenv("XDG_CONFIG_HOME", str(world.store.parent / "config"))  # of the key of DICOM's pseudonyms
    patch.setenv("MEDAE_CACHE", str(world.store))
    leave_blank(patch)


def make_data(phantoms: Path, data: Path) -> None:
    """The phantoms in the layouts, and by the names, that the pages speak of."""
    for number in range(1, 11):
        source = phantoms / f"sub-phantom{number:03d}" / "anat"
        scan, tissue, lesion = (next(source.glob(f"*_{kind}.nii.gz")) for kind in ("T1w", "tissue", "lesion"))
        two = nib.load(tissue)
        two = nib.Nifti1Image(np.minimum(np.asarray(two.dataobj), 2).astype(np.uint8), two.affine, two.header)
        msd, nnunet, bids, folder = data / "hippocampus", data / "lgg", data / "brains", data / "lidc"
        _put(scan, msd / "imagesTr" / f"hippocampus_{number:03d}.nii.gz")
        _put(two, msd / "labelsTr" / f"hippocampus_{number:03d}.nii.gz")
        _put(scan, nnunet / "imagesTr" / f"lgg_{number:03d}_0000.nii.gz")
        _put(lesion, nnunet / "labelsTr" / f"lgg_{number:03d}.nii.gz")
        name = f"sub-{number:02d}"
        _put(scan, bids / name / "anat" / f"{name}_T1w.nii.gz")
        _put(lesion, bids / "derivatives" / "lesions" / name / "anat" / f"{name}_dseg.nii.gz")
        _put(scan, folder / "image" / f"LIDC-IDRI-{number:04d}_1.nii.gz")
        _put(lesion, folder / "nodule_mask" / f"LIDC-IDRI-{number:04d}_1.nii.gz")
        _put(scan, data / "knees" / f"K{number:03d}_left_T2.nii.gz")
        _put(two, data / "knees" / f"K{number:03d}_left_seg.nii.gz")
        _put_series(scan, data / "clinic", f"P{number:03d}")
        atlas = np.asarray(nib.load(tissue).dataobj)
        atlas = np.choose(np.minimum(atlas, 3), [0, 4, 2, 81]).astype(np.uint8)  # a ventricle, anything, white matter
        atlas = nib.Nifti1Image(atlas, two.affine, two.header)
        name = f"sub-IXI{number:03d}"
        _put(_with_scalp(scan), data / "ixi_t1" / name / "anat" / f"{name}_T1w.nii.gz")
        _put(atlas, data / "ixi_t1" / "derivatives" / "dlmuse" / name / "anat" / f"{name}_space-orig_dseg.nii.gz")
        if number < 3:
            brighter = nib.load(scan)
            brighter = nib.Nifti1Image(1.1 * np.asarray(brighter.dataobj), brighter.affine, brighter.header)
            _put(brighter, data / "normal-scans" / f"volunteer{number}.nii.gz")
            _put(scan, data / "new-scans" / f"patient{number}.nii.gz")
            _put(two, data / "new-labels" / f"patient{number}.nii.gz")
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    _write(data / "hippocampus" / "dataset.json", {"modality": {"0": "MRI"}, "labels": labels, "training": [], "test": []})
    nnunet = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    _write(data / "lgg" / "dataset.json", nnunet)
    rows = [f"sub-{number:02d}\t{40 + number}\t{'patient' if number % 2 == 0 else 'control'}" for number in range(1, 11)]
    (data / "brains" / "participants.tsv").write_text("\n".join(["participant_id\tage\tgroup", *rows, ""]))


def _with_scalp(scan: Path) -> nib.Nifti1Image:
    """A head: a bright shell around the brain, and dark bone between them."""
    image = nib.load(scan)
    voxels = np.asarray(image.dataobj).copy()
    distance = ndimage.distance_transform_edt(voxels == 0)
    shell = (distance >= 2) & (distance < 3)
    voxels[shell] = np.random.default_rng(0).integers(700, 1500, size=shell.sum())
    return nib.Nifti1Image(voxels, image.affine, image.header)


def _put(source: Path | nib.Nifti1Image, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Path):
        shutil.copyfile(source, target)
    else:
        nib.save(source, target)


def _put_series(source: Path, folder: Path, patient: str) -> None:
    """A study with a T1 series, a reformatted one and a localiser, as DICOM."""
    scan = nib.load(source)
    volume = np.rint(np.asarray(scan.dataobj)[::-1, ::-1]).astype(np.int16)  # RAS to LPS
    columns, rows, slices = (float(size) for size in scan.header.get_zooms()[:3])
    geometry = Geometry(spacing=(rows, columns), step=slices)
    writer = Writer(folder / patient, patient)
    writer.series(volume[:, :, :3], geometry, number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    writer.series(volume, geometry, number=2, SeriesDescription="t1_mprage_tra")
    writer.series(
        volume, geometry, number=3, SeriesDescription="t1_mprage_tra MPR", ImageType=["DERIVED", "SECONDARY", "MPR"]
    )


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
