"""Phantom source: a cohort of synthetic brains, written as NIfTI where files are missing. No phantom is a scan of a person.

What a phantom is made of is told in ``medae.synthesis.brain``. Files, in ``root``: ``sub-phantom001/anat/`` with
``sub-phantom001_T1w.nii.gz``, ``..._tissue.nii.gz``, ``..._lesion.nii.gz`` (all zero in subjects without lesions) and
``..._T1w.json`` (what was drawn); ``participants.tsv``, ``dataset_description.json``, ``README`` and ``phantom.json`` (the
settings, by which the folder is recognised) beside the subjects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, StrictInt, model_validator

from medae.config import Config, digest, to_dict
from medae.data.case import Case, ImageKind, Manifest, Modality
from medae.data.files import image_refs, read_json
from medae.data.made import claim, json_bytes, nifti_bytes, write_whole, writing
from medae.data.roots import absolute_root
from medae.errors import DataError
from medae.synthesis.brain import LESIONS, RECIPE, TISSUES, Phantom, Template, load_template, make_phantom
from medae.synthesis.lesions import LesionConfig

DESCRIPTION = (
    "Phantoms: synthetic brains, not scans of people. Each is the ICBM-152 T1 average brain after a random smooth "
    "deformation, with random tissue contrast, receive field, resolution, noise and, in some, synthetic lesions."
)
README = f"""{DESCRIPTION}

*_T1w      the image, skull-stripped: 0 outside the brain, arbitrary units inside
*_tissue   0 background, 1 CSF, 2 grey matter, 3 white matter (of the healthy anatomy, also below lesions)
*_lesion   0 background, 1 lesion

Template: ICBM 152 nonlinear symmetric 2009a, Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre,
Montreal Neurological Institute, McGill University; Fonov et al., NeuroImage 54 (2011), as nilearn distributes it.
"""

NOTE = "phantom, not a scan of a person"


class PhantomSource(Config):
    """A cohort of phantoms, made where files are missing.

    root: folder to write to; relative to MEDAE_DATA if that is set. subjects: how many; a cohort can be extended.
    lesions: in how many of them, spread evenly: a whole number, or a share, which holds when the cohort is extended.
    spacing: isotropic voxel size in mm. lesion: what lesions are drawn.
    """

    format: Literal["phantom"] = "phantom"
    root: Path
    modality: Modality | None = None
    subjects: int = Field(default=24, ge=1, le=999)
    lesions: StrictInt | float = Field(default=0.5, ge=0)
    spacing: float = Field(default=2.5, ge=1.0, le=8.0)
    seed: int = 0
    lesion: LesionConfig = LesionConfig()

    @model_validator(mode="after")
    def _lesions_fit(self) -> Self:
        most = 1.0 if isinstance(self.lesions, float) else self.subjects
        if self.lesions > most:
            raise ValueError(
                f"lesions is a share of at most 1.0 or a number of at most {self.subjects} subjects, not {self.lesions}"
            )
        return self

    def has_lesion(self, number: int) -> bool:
        """Whether the subject of that number, from 1, has lesions."""
        share = self.lesions if isinstance(self.lesions, float) else self.lesions / self.subjects
        return int(number * share + 1e-9) > int((number - 1) * share + 1e-9)

    def manifest(self) -> Manifest:
        """The cohort's manifest, after making the files that are missing.

        Raises DataError if the folder holds other things or phantoms of other settings, or cannot be written to.
        """
        root = absolute_root(self.root)
        with writing(self.root, "The phantoms"):
            write_cohort(root, self)
        wanted: dict[tuple[str, str], tuple[Path, ImageKind, Modality]] = {}
        for number in range(1, self.subjects + 1):
            name = _name(number)
            wanted[name, "T1w"] = (_file(root, name, "T1w.nii.gz"), "intensity", self.modality or "MR")
            wanted[name, "tissue"] = (_file(root, name, "tissue.nii.gz"), "labels", "unknown")
            wanted[name, "lesion"] = (_file(root, name, "lesion.nii.gz"), "labels", "unknown")
        refs = image_refs(root, wanted)
        cases = [
            Case(
                id=_name(number),
                subject=_name(number),
                images={"T1w": refs[_name(number), "T1w"]},
                targets={target: refs[_name(number), target] for target in ("tissue", "lesion")},
                covariates={"lesion": float(self.has_lesion(number))},
            )
            for number in range(1, self.subjects + 1)
        ]
        labels = {"tissue": TISSUES, "lesion": LESIONS}
        return Manifest(source=self.format, root=root, channels=("T1w",), labels=labels, cases=tuple(cases), phantom=True)


def write_cohort(root: Path, source: PhantomSource) -> None:
    """Make the missing files of a cohort, each whole or not at all. Raises DataError if other things are in the folder."""
    claim(root, README, source.root, "the phantoms")
    template: Template | None = None
    for number in range(1, source.subjects + 1):
        name, recipe = _name(number), _recipe(source, number)
        if _is_made(root, name, recipe, source.root):
            continue
        template = template or load_template(source.spacing)
        lesions = source.lesion if source.has_lesion(number) else None
        _write_subject(root, name, make_phantom(template, source.spacing, lesions, source.seed, number), recipe)
    _write_description(root, source)


def _name(number: int) -> str:
    return f"sub-phantom{number:03d}"


def _file(root: Path, name: str, ending: str) -> Path:
    return root / name / "anat" / f"{name}_{ending}"


def _recipe(source: PhantomSource, number: int) -> str:
    """A digest of all that a subject's images depend on."""
    lesions = to_dict(source.lesion) if source.has_lesion(number) else None
    settings = {"recipe": RECIPE, "seed": source.seed, "number": number, "spacing": source.spacing, "lesions": lesions}
    return digest(settings)


def _is_made(root: Path, name: str, recipe: str, where: Path) -> bool:
    """Whether all of a subject's files are there. Raises DataError if they were made with other settings."""
    sidecar = _file(root, name, "T1w.json")
    if not sidecar.is_file():
        return False
    if read_json(sidecar, root).get("Recipe") != recipe:
        raise DataError(
            f"The folder holds a phantom, {name}, that was made with other settings.",
            where=where,
            remedy="Name another root, or delete the folder to make the phantoms anew.",
        )
    return all(_file(root, name, f"{kind}.nii.gz").is_file() for kind in ("T1w", "tissue", "lesion"))


def _write_subject(root: Path, name: str, phantom: Phantom, recipe: str) -> None:
    _file(root, name, "").parent.mkdir(parents=True, exist_ok=True)
    for kind, array in (("T1w", phantom.t1), ("tissue", phantom.tissue), ("lesion", phantom.lesion)):
        write_whole(_file(root, name, f"{kind}.nii.gz"), nifti_bytes(array, phantom.affine, NOTE))
    sidecar = {"Phantom": True, "Description": DESCRIPTION, "Lesions": phantom.drawn, "Recipe": recipe}
    write_whole(_file(root, name, "T1w.json"), json_bytes(sidecar))  # last: it says that the images are whole


def _write_description(root: Path, source: PhantomSource) -> None:
    """Describe the cohort, unless the folder holds a larger one of the same making."""
    settings = root / "phantom.json"
    if settings.is_file() and read_json(settings, root).get("subjects", 0) >= source.subjects:
        return
    rows = [f"{_name(number)}\t{int(source.has_lesion(number))}" for number in range(1, source.subjects + 1)]
    description = {
        "Name": "medae phantoms",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "Phantom": True,
        "Description": DESCRIPTION,
    }
    write_whole(root / "participants.tsv", "\n".join(["participant_id\tlesion", *rows, ""]).encode())
    write_whole(root / "dataset_description.json", json_bytes(description))
    write_whole(settings, json_bytes({key: value for key, value in to_dict(source).items() if key != "root"}))
