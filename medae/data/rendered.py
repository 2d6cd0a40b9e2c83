"""Rendered heads: scans that have brain masks, imaged anew in random contrasts, written where files are missing.

What a rendering is made of is told in ``medae.synthesis.head``. Files, in ``root``: a folder a case, in it
``CASE_brain.nii.gz`` and, for each rendering, ``CASE_r01.nii.gz`` and ``CASE_r01.json``, which says what it was made with; a
README that marks the folder. The renderings of a subject are that subject's: a split of the data set splits them alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from medae.config import Config, digest, to_dict
from medae.data.bids import BIDSSource
from medae.data.case import Case, ImageRef, Manifest
from medae.data.digests import reporter
from medae.data.files import image_refs, read_json
from medae.data.folder import FolderSource
from medae.data.made import claim, json_bytes, nifti_bytes, write_whole, writing
from medae.data.msd import MSDSource
from medae.data.nnunet import NNUNetSource
from medae.data.reading import read_array
from medae.data.roots import absolute_root
from medae.errors import DataError, MedaeError
from medae.parallel import unordered, usable_cores
from medae.seeding import numpy_generator
from medae.synthesis.head import RECIPE, RenderConfig, classify, render_head
from medae.volume import spacing_of

README = """Rendered heads: scans of real people, imaged anew in random contrasts, some with synthetic lesions, some without
what is outside the brain. The anatomy is theirs: treat these files as you treat the scans that they were made from.

*_brain       0 background, 1 brain
*_r01 ...     the renderings, arbitrary units
"""
NOTE = "rendered from a scan, contrast drawn at random"


class RenderedSource(Config):
    """Renderings of the heads of a data set, for a network that finds the brain in any MR contrast.

    root: folder to write to; relative to MEDAE_DATA if that is set. of: the scans, MR with what is outside the brain.
    label: their brain masks or whole-brain parcellations: what is above 0, holes filled, is brain. renderings: of each scan.
    render: what is drawn for one. seed: of all draws.
    """

    format: Literal["rendered"] = "rendered"
    root: Path
    of: Annotated[BIDSSource | NNUNetSource | MSDSource | FolderSource, Field(discriminator="format")]
    label: str = "label"
    renderings: int = Field(default=4, ge=1, le=99)
    seed: int = 0
    render: RenderConfig = RenderConfig()

    def manifest(self) -> Manifest:
        """The renderings' manifest, after making the files that are missing.

        Raises DataError if no scan has a brain mask, the folder holds other things, or cannot be written to.
        """
        root, scans = absolute_root(self.root), self.of.manifest()
        scans = scans.select(lambda case: isinstance(case.targets.get(self.label), ImageRef))
        if not scans.cases:
            raise DataError(
                f"None of the scans to render has the label map '{self.label}'.",
                where="label",
                remedy="Name the brain masks or whole-brain parcellations.",
            )
        with writing(self.root, "The renderings"):
            claim(root, README, self.root, "the renderings")
            failures = self._write(root, scans)
        if failures:
            raise failures[0]
        names = {(case.id, number): _name(case, number) for case in scans.cases for number in range(1, 1 + self.renderings)}
        images = image_refs(root, {key: (_path(root, key[0], name), "intensity", "MR") for key, name in names.items()})
        brains = image_refs(
            root, {case.id: (_path(root, case.id, f"{case.id}_brain"), "mask", "unknown") for case in scans.cases}
        )
        cases = [
            Case(
                id=names[case.id, number],
                subject=case.subject,
                session=case.session,
                images={"image": images[case.id, number]},
                targets={"brain": brains[case.id]},
                split_key=case.split_key,
            )
            for case in scans.cases
            for number in range(1, 1 + self.renderings)
        ]
        labels = {"brain": {0: "background", 1: "brain"}}
        return Manifest(
            source=self.format, root=root, channels=("image",), labels=labels, cases=tuple(cases), findings=scans.findings
        )

    def _write(self, root: Path, scans: Manifest) -> list[MedaeError]:
        """Make what is missing, in several processes; what went wrong."""
        missing = [(case, _missing(self, root, case)) for case in scans.cases]
        to_do = [(case, recipes) for case, recipes in missing if recipes]
        failures, report = [], reporter()
        made = unordered(partial(_write_case, self, root, scans), to_do, usable_cores())
        for done, (_, failure) in enumerate(made, start=1):
            failures += [failure] if failure is not None else []
            if report is not None:
                report(done, len(to_do))
        return failures


def _name(case: Case, number: int) -> str:
    return f"{case.id}_r{number:02d}"


def _path(root: Path, case_id: str, name: str) -> Path:
    return root / case_id / f"{name}.nii.gz"


def _missing(source: RenderedSource, root: Path, case: Case) -> dict[int, str]:
    """The renderings of a case that are not there, each with its recipe."""
    recipes = {number: _recipe(source, case, number) for number in range(1, 1 + source.renderings)}
    return {number: recipe for number, recipe in recipes.items() if not _is_made(source, root, case, number, recipe)}


def _write_case(
    source: RenderedSource, root: Path, scans: Manifest, to_do: tuple[Case, Mapping[int, str]]
) -> MedaeError | None:
    """Make renderings of a case; what is wrong with it, if anything."""
    try:
        _write_renderings(source, root, scans, *to_do)
    except MedaeError as error:
        return error
    return None


def _write_renderings(source: RenderedSource, root: Path, scans: Manifest, case: Case, recipes: Mapping[int, str]) -> None:
    name = next(iter(scans.channels))
    image, native = read_array(scans, case.images[name])
    target = case.targets[source.label]
    assert isinstance(target, ImageRef)  # chosen so
    labels, grid = read_array(scans, target)
    affine = native.ras()[1]
    if labels.shape != image.shape or not np.allclose(grid.ras()[1], affine, atol=1e-3):
        raise DataError(
            f"'{name}' and '{source.label}' lie on different grids.",
            where=case.id,
            remedy="Resample the images and label maps of a case onto one grid.",
        )
    brain = np.asarray(ndimage.binary_fill_holes(labels[0] > 0))
    try:
        head = classify(image[0], brain)
    except ValueError as error:
        raise DataError(
            f"The scan cannot be parted into tissues: {error}",
            where=case.id,
            remedy="Leave it out, or check its brain mask: it must neither be empty nor fill the image.",
        ) from error
    (root / case.id).mkdir(exist_ok=True)
    write_whole(_path(root, case.id, f"{case.id}_brain"), nifti_bytes(brain.astype(np.uint8), affine, NOTE))
    for number, recipe in recipes.items():
        rng = numpy_generator(source.seed, "rendering", case.images[name].sha256, number)
        made = render_head(head, spacing_of(affine), source.render, rng)
        path = _path(root, case.id, _name(case, number))
        write_whole(path, nifti_bytes(made, affine, NOTE))
        write_whole(_sidecar(path), json_bytes({"Description": NOTE, "Recipe": recipe}))  # last: the image is whole


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _recipe(source: RenderedSource, case: Case, number: int) -> str:
    """A digest of all that a rendering depends on."""
    settings = {"recipe": RECIPE, "seed": source.seed, "number": number, "case": case.digest(), "label": source.label}
    return digest(settings | {"render": to_dict(source.render)})


def _is_made(source: RenderedSource, root: Path, case: Case, number: int, recipe: str) -> bool:
    """Whether a rendering is there. Raises DataError if it was made with other settings."""
    path = _path(root, case.id, _name(case, number))
    if not _sidecar(path).is_file():
        return False
    if read_json(_sidecar(path), root).get("Recipe") != recipe:
        raise DataError(
            "The folder holds a rendering that was made with other settings, or of other scans.",
            where=f"{source.root}: {_name(case, number)}",
            remedy="Name another root, or delete the folder to render anew.",
        )
    return path.is_file() and _path(root, case.id, f"{case.id}_brain").is_file()
