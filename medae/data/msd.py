"""Medical Segmentation Decathlon: ``dataset.json`` with lists of files, ``imagesTr``, ``labelsTr``, ``imagesTs``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from medae.data.case import Manifest
from medae.data.files import (
    ENDINGS,
    Files,
    FileSource,
    image_files,
    label_names,
    modality_of,
    read_json,
    resolve_root,
    stem,
    subject_of,
)
from medae.errors import DataError

LISTS = ("training", "validation", "test")


class MSDSource(FileSource):
    """A data set in the layout of the Medical Segmentation Decathlon.

    The case is the image's file name without its ending. Images in ``imagesTr`` or ``imagesTs`` that no list names are
    taken too, with the label map of the same name, if there is one. The covariate ``partition`` is ``test`` for images
    in ``imagesTs``, else ``training``.
    subject: pattern that finds the subject in the case's name (group 1 or the whole match); without it each case is one.
    """

    format: Literal["msd"] = "msd"
    subject: re.Pattern[str] | None = None

    def manifest(self) -> Manifest:
        """Open the data set. Raises DataError if it is not in this layout."""
        root = resolve_root(self.root)
        content = read_json(root / "dataset.json", root)
        files = Files(root)
        for image, label in listed_files(content):
            path = _inside(root, image)
            files.add_image(stem(path), "image", path)
            if label is not None:
                files.add_target(stem(path), self.target_name, _inside(root, label))
        _add_unlisted(files, self.target_name)
        channel = _channel(content.get("modality"), files)
        files.images = {case_id: {channel: images["image"]} for case_id, images in files.images.items()}
        declared = content.get("labels")
        return files.manifest(
            self.format,
            {channel: self.modality or modality_of(channel)},
            {case_id: subject_of(case_id, self.subject) for case_id in files.images},
            labels={} if declared is None else {self.target_name: label_names(declared, "dataset.json")},
            covariates={
                case_id: {"partition": "test" if images[channel].parent.name == "imagesTs" else "training"}
                for case_id, images in files.images.items()
            },
        )


def listed_files(content: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Image and label map of each entry in the lists of a ``dataset.json``, as written there."""
    for name in LISTS:
        entries = content.get(name, [])
        if not isinstance(entries, list):
            raise DataError(f"'{name}' is not a list of files.", where="dataset.json", remedy="Correct the file.")
        for entry in entries:
            image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
            if not isinstance(image, str) or not (label is None or isinstance(label, str)):
                raise DataError(
                    f"'{name}' has an entry that is not one image, or one image and one label map: {entry!r}.",
                    where="dataset.json",
                    remedy='Write {"image": "./imagesTr/NAME.nii.gz", "label": "./labelsTr/NAME.nii.gz"}.',
                )
            yield image, label


def _inside(root: Path, written: str) -> Path:
    """The file that ``dataset.json`` names, which has to be there, beneath the root."""
    relative = PurePosixPath(written)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(
            f"dataset.json lists a file outside the data set: '{written}'.", where="dataset.json", remedy="Move it inside."
        )
    if not relative.name.endswith(ENDINGS):
        raise DataError("dataset.json lists a file that is not NIfTI.", where=written, remedy=f"Convert it to {ENDINGS[0]}.")
    path = root / relative
    if not path.exists():
        raise DataError(
            "dataset.json lists a file that is not there.",
            where=written,
            remedy="Complete the download, or remove the entry.",
        )
    return path


def _add_unlisted(files: Files, target: str) -> None:
    known = {path for images in files.images.values() for path in images.values()}
    used = {path for targets in files.targets.values() for path in targets.values()}
    for part in ("Tr", "Ts"):
        for path in image_files(files.root / f"images{part}"):
            if path not in known:
                files.add_image(stem(path), "image", path)
        for path in image_files(files.root / f"labels{part}"):
            if path not in used:
                files.add_target(stem(path), target, path)


def _channel(declared: object, files: Files) -> str:
    """The name of the one channel: its modality as written, ``image`` if none is. Raises DataError for several."""
    if declared is None:
        return "image"
    if not isinstance(declared, dict) or not declared or not all(isinstance(name, str) for name in declared.values()):
        raise DataError(
            "'modality' is not a mapping of numbers to names.",
            where="dataset.json",
            remedy='Write "modality": {"0": "MRI"}.',
        )
    if len(declared) > 1:
        first = min((images["image"] for images in files.images.values()), default=files.root / "dataset.json")
        raise DataError(
            f"The data set has {len(declared)} channels in one 4D file; one 3D file a channel is needed.",
            where=first.relative_to(files.root),
            remedy="Split the channels into the nnU-Net layout (nnUNetv2_convert_MSD_dataset does it).",
        )
    return str(next(iter(declared.values())))
