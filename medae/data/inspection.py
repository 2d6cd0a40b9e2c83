"""What the images of one case are like and what is wrong with them, found by reading each once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from nibabel.orientations import aff2axcodes
from pydantic import Field

from medae.config import Config, digest
from medae.data import remarks
from medae.data.case import Case, ImageRef
from medae.data.finding import Level
from medae.data.remarks import Remark
from medae.data.sides import wrong_sides
from medae.errors import GeometryError, MedaeError
from medae.formats.endings import NIFTI, PICTURES
from medae.formats.labels import as_labels, count_labels, label_problem, regroup
from medae.formats.raw import RawImage
from medae.formats.read import read_raw
from medae.volume import spacing_of

VERSION = 7
"""Raised whenever something else is found in the same contents, so that nothing older is remembered."""

SAMPLE = 1_000_000
"""Voxels that percentiles are taken from."""

Picture = Callable[[RawImage, RawImage | None], bytes]


class ImageFacts(Config):
    """Of one image or label map, as it is stored.

    shape, spacing (mm): along the file's axes. orientation: where they point to, such as ``RAS``. stored: its number type.
    lowest, high, highest: smallest value, 99.5th percentile, largest value. zeros: share of voxels that are 0.
    voxels: digest of the values. labels: voxels by label (label maps only).
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str
    stored: str
    lowest: float
    high: float
    highest: float
    zeros: float
    voxels: str
    labels: dict[int, int] | None = None


class Noted(Config):
    """A remark about one image of a case. role: ``image`` or ``target``; name: the channel or target."""

    role: str
    name: str
    level: Level
    code: str
    problem: str
    remedy: str


class Inspection(Config):
    """Of one case. images, targets: facts by name, of those that could be read."""

    noted: tuple[Noted, ...] = ()
    images: dict[str, ImageFacts] = Field(default_factory=dict)
    targets: dict[str, ImageFacts] = Field(default_factory=dict)

    @property
    def has_error(self) -> bool:
        """Whether the case is left out."""
        return any(note.level == "error" for note in self.noted)

    @property
    def is_lasting(self) -> bool:
        """Whether reading it again would find the same: a file that could not be read may be readable tomorrow."""
        return all(note.code != "unreadable" for note in self.noted)


def inspection_key(case: Case, labels: Mapping[str, Mapping[int, str]]) -> str:
    """Names what an inspection depends on: contents, how they are read, declared labels; not the names of cases."""
    refs = {f"image {name}": _identity(ref) for name, ref in case.images.items()}
    refs |= {f"target {name}": _identity(ref) for name, ref in case.targets.items() if isinstance(ref, ImageRef)}
    declared = {name: {str(value): text for value, text in names.items()} for name, names in labels.items()}
    return digest({"inspection": VERSION, "refs": refs, "order": [*case.images], "labels": declared})


def _identity(ref: ImageRef) -> list[str]:
    return [ref.identity(), ref.kind, ref.modality]


def inspect_case(
    root: Path, labels: Mapping[str, Mapping[int, str]], picture: Picture | None, case: Case
) -> tuple[Inspection, bytes | None]:
    """Read every image and label map of a case, and draw it if ``picture`` is given.

    labels: declared names by target and value. What is wrong is in the result; nothing is raised for it.
    """
    noted: list[Noted] = []
    facts: dict[str, dict[str, ImageFacts]] = {"image": {}, "target": {}}
    first: RawImage | None = None
    drawn: RawImage | None = None
    for role, refs in (("image", case.images), ("target", case.targets)):
        for name, ref in refs.items():
            if not isinstance(ref, ImageRef):
                continue
            raw, found = _read(root, ref)
            if raw is not None:
                declared = labels.get(name) if role == "target" else None
                values, about = (_labels if role == "target" else _intensities)(raw, ref, declared)
                facts[role][name] = values
                found += about
                found += [] if first is None else _against(first, raw, role)
                is_drawable = not any(remark.level == "error" for remark in found)
                if role == "image" and first is None:
                    first = raw
                elif role == "target" and drawn is None and is_drawable:
                    drawn = replace(raw, array=_label_map(raw, ref))
            if ref.doubtful is not None:
                found += _of_doubt(root, ref.doubtful, first)
            noted += [Noted(role=role, name=name, **remark._asdict()) for remark in found]
    inspection = Inspection(noted=tuple(noted), images=facts["image"], targets=facts["target"])
    return inspection, None if picture is None or first is None else picture(first, drawn)


def _read(root: Path, ref: ImageRef) -> tuple[RawImage | None, list[Remark]]:
    paths = [root / file for file in ref.files]
    found = list(remarks.nifti_header(paths[0])) if paths[0].name.lower().endswith(NIFTI) else []
    if ref.kind != "intensity":  # said of the image already, on whose grid the label map has to be
        found = [remark for remark in found if remark.code not in ("units", "no_position")]
    try:
        raw = read_raw(paths, ref.kind, resample_slices=ref.resample_slices, component=ref.component)
    except MedaeError as error:
        code = "geometry" if isinstance(error, GeometryError) else "unreadable"
        text = f"cannot be used: {error.what[0].lower()}{error.what[1:].rstrip('.')}"
        return None, [*found, Remark("error", code, text, error.remedy or "Restore or convert the file.")]
    return raw, [*found, *remarks.geometry(raw.native.shape, raw.native.matrix())]


def _intensities(raw: RawImage, ref: ImageRef, _: object) -> tuple[ImageFacts, list[Remark]]:
    return _facts(raw, None), list(remarks.intensities(raw.array, ref.modality))


def _labels(raw: RawImage, ref: ImageRef, declared: Mapping[int, str] | None) -> tuple[ImageFacts, list[Remark]]:
    is_mask = ref.kind == "mask"
    problem = label_problem(raw.array, is_mask=is_mask)
    if problem is not None:
        remedy = "Replace them by 0 or 1." if is_mask else "Store labels 0, 1, 2, ..."
        return _facts(raw, None), [Remark("error", "labels", problem, remedy)]
    labels = _label_map(raw, ref)
    counts = count_labels(labels)
    if is_mask:
        return _facts(raw, counts), []
    found = list(remarks.undeclared_labels(counts, declared))
    found += wrong_sides(labels, raw.native.matrix(), declared or {}, are_stated=_states_sides(raw, ref))
    return _facts(raw, counts), found


def _of_doubt(root: Path, ref: ImageRef, first: RawImage | None) -> Iterator[Remark]:
    """What is wrong with the file that says where a mask is not sure."""
    raw, found = _read(root, ref)
    if raw is not None:
        found += _labels(raw, ref, None)[1]
        found += [] if first is None else _against(first, raw, "target")
    for remark in found:
        if remark.level == "error":
            yield remark._replace(problem=f"has a file beside it, of where it is doubtful, that {remark.problem}")


def _label_map(raw: RawImage, ref: ImageRef) -> np.ndarray:
    """The values as training sees them. Of arrays without a label problem only."""
    labels = as_labels(raw.array, is_mask=ref.kind == "mask")
    return regroup(labels, ref.groups) if ref.groups else labels


def _states_sides(raw: RawImage, ref: ImageRef) -> bool:
    """Whether the file says where left is: pictures and NIfTI without sform and qform do not."""
    is_picture = ref.files[0].lower().endswith(PICTURES)
    return not is_picture and (raw.native.sform_code, raw.native.qform_code) != (0, 0)


def _facts(raw: RawImage, labels: dict[int, int] | None) -> ImageFacts:
    step = max(1, raw.array.size // SAMPLE)
    values = np.abs(raw.array) if np.iscomplexobj(raw.array) else raw.array
    finite = values if values.dtype.kind in "biu" else np.where(np.isfinite(values), values, 0)
    return ImageFacts(
        shape=raw.native.shape,
        spacing=spacing_of(raw.native.matrix()),
        orientation="".join(aff2axcodes(raw.native.matrix())),
        stored=str(raw.array.dtype),
        lowest=float(finite.min()),
        high=float(np.percentile(finite.ravel()[::step], 99.5)),
        highest=float(finite.max()),
        zeros=float(1 - np.count_nonzero(values) / values.size),
        voxels=_digest(finite),
        labels=labels,
    )


def _digest(array: np.ndarray) -> str:
    """SHA-256 of shape and values, whatever type they are stored as."""
    total = hashlib.sha256(str(array.shape).encode())
    total.update(np.ascontiguousarray(array, dtype=np.float32).data)
    return total.hexdigest()


def _against(first: RawImage, other: RawImage, role: str) -> Iterator[Remark]:
    """Every image of a case against its first one, on nearest-RAS axes, since stored axes may differ."""
    (shape, affine), (other_shape, other_affine) = first.native.ras(), other.native.ras()
    problem = remarks.grid(shape, affine, other_shape, other_affine)
    if problem:
        text = f"is not on the grid of the case's first image: {problem}"
        of_image = "Take one channel (the key 'channels'), or bring the channels onto one grid."
        remedy = of_image if role == "image" else "Resample it to that image, or find the right file."
        yield Remark("error", "grid", text, remedy)
