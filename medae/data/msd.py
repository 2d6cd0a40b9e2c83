"""Medical Segmentation Decathlon: ``dataset.json`` with lists of files, ``imagesTr``, ``labelsTr``, ``imagesTs``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from medae.data.case import Manifest
from medae.data.files import FileSource, inside, label_names, modality_of, read_json
from medae.data.gather import Files
from medae.data.roots import resolve_root
from medae.errors import DataError
from medae.formats.endings import ENDINGS, image_files, is_image, stem

LISTS = ("training", "validation", "test")


class MSDSource(FileSource):
    """A data set in the layout of the Medical Segmentation Decathlon.

    The case is the image's file name without its ending. Images in ``imagesTr`` or ``imagesTs`` that no list names are
    taken too, with the label map of the same name, if there is one. Where ``modality`` names several channels, they are
    the volumes along the fourth axis of each image (BrainTumour, Prostate). The covariate ``partition`` is ``test`` for
    images in ``imagesTs``, else ``training``.
    subject: pattern that finds the subject in the case's name (group 1 or the whole match); without it each case is one.
    """

    format: Literal["msd"] = "msd"
    subject: re.Pattern[str] | None = None

    def manifest(self) -> Manifest:
        """Open the data set. Raises DataError if it is not in this layout."""
        root = resolve_root(self.root)
        content = read_json(root / "dataset.json", root)
        channels = _channels(content.get("modality"))
        files = Files(root)
        partitions: dict[str, str] = {}
        for image, label in [*_listed(files, content), *_unlisted(root, content)]:
            case_id = stem(image)
            partitions[case_id] = "test" if image.parent.name == "imagesTs" else "training"
            for number, channel in enumerate(channels):
                files.add_image(case_id, channel, image, number if len(channels) > 1 else None)
            if label is not None:
                files.add_target(case_id, self.target_name, label)
        for label in _unlisted_labels(files):
            files.add_target(stem(label), self.target_name, label)
        considered = [root / image for image, _ in listed_files(content) if isinstance(image, str)]
        files.report_passed_over(considered=considered)
        declared = content.get("labels")
        return files.manifest(
            self.format,
            {channel: self.modality or modality_of(channel) for channel in channels},
            files.subjects(self.subject),
            labels={} if declared is None else {self.target_name: label_names(declared, "dataset.json")},
            covariates={case_id: {"partition": partition} for case_id, partition in partitions.items()},
        )


def listed_files(content: Mapping[str, Any]) -> Iterator[tuple[object, object]]:
    """Image and label map of each entry in the lists of a ``dataset.json``, as written there."""
    for name in LISTS:
        entries = content.get(name, [])
        if not isinstance(entries, list):
            raise DataError(f"'{name}' is not a list of files.", where="dataset.json", remedy="Correct the file.")
        for entry in entries:
            yield (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)


def _listed(files: Files, content: Mapping[str, Any]) -> Iterator[tuple[Path, Path | None]]:
    """The entries of the lists that name files of the data set; the others are findings."""
    for image, label in listed_files(content):
        if not isinstance(image, str) or not (label is None or isinstance(label, str)):
            problem = "dataset.json has an entry that is not one image, or one image and one label map"
            remedy = 'Write {"image": "./imagesTr/NAME.nii.gz", "label": "./labelsTr/NAME.nii.gz"}.'
            files.report("error", "entry", problem, remedy)
            continue
        paths = [_place(files, written, stem(Path(image))) for written in (image, label) if written is not None]
        found = [path for path in paths if path is not None]
        if len(found) == len(paths):
            yield found[0], found[1] if label is not None else None


def _place(files: Files, written: str, case_id: str) -> Path | None:
    path = inside(files.root, written)
    if path is None:
        problem, remedy = "is listed in dataset.json and lies outside the data set", "Move it inside."
        files.report("error", "outside", problem, remedy, case=case_id)
    elif not is_image(path):
        problem, remedy = "is listed in dataset.json and no image by its ending", f"Convert it to {ENDINGS[0]}."
        files.report("error", "ending", problem, remedy, case=case_id, path=path)
    else:
        return path
    return None


def _unlisted(root: Path, content: Mapping[str, Any]) -> Iterator[tuple[Path, None]]:
    listed = {inside(root, image) for image, _ in listed_files(content) if isinstance(image, str)}
    for part in ("imagesTr", "imagesTs"):
        yield from ((path, None) for path in image_files(root / part) if path not in listed)


def _unlisted_labels(files: Files) -> list[Path]:
    used = {entry.path for targets in files.targets.values() for entry in targets.values()}
    return [path for part in ("labelsTr", "labelsTs") for path in image_files(files.root / part) if path not in used]


def _channels(declared: object) -> list[str]:
    """The names of the channels in the order of their numbers; ``image`` if none is declared."""
    if declared is None:
        return ["image"]
    if (
        not isinstance(declared, dict)
        or not declared
        or not all(str(number).isdecimal() and isinstance(name, str) for number, name in declared.items())
        or len(set(declared.values())) != len(declared)
    ):
        raise DataError(
            "'modality' is not a mapping of numbers to different names.",
            where="dataset.json",
            remedy='Write "modality": {"0": "MRI"}.',
        )
    return [declared[number] for number in sorted(declared, key=int)]
