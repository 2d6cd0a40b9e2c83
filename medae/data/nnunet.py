"""nnU-Net raw data: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz`` (a file a channel), ``labelsTr/CASE.nii.gz``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from medae.data.case import Manifest
from medae.data.files import FileSource, inside, label_names, modality_of, read_json
from medae.data.gather import Files
from medae.data.roots import resolve_root
from medae.errors import DataError
from medae.formats.endings import ENDINGS, PICTURES, image_files, is_image, stem

CHANNEL_NUMBER = re.compile(r"(.+)_(\d{4})")
PARTITIONS = {"Tr": "training", "Ts": "test"}


class NNUNetSource(FileSource):
    """A data set in the raw layout of nnU-Net, version 2 (``channel_names``) or 1 (``modality``).

    Images are the files with the ``file_ending`` of ``dataset.json``, or those that its ``dataset`` lists for each case;
    one channel a file. A case may lack a declared channel or its label map. The covariate ``partition`` is ``test`` for
    images in ``imagesTs`` (label maps in ``labelsTs`` are taken), else ``training``.
    subject: pattern that finds the subject in the case's name (group 1 or the whole match); without it each case is one.
    """

    format: Literal["nnunet"] = "nnunet"
    subject: re.Pattern[str] | None = None

    def manifest(self) -> Manifest:
        """Open the data set. Raises DataError if it is not in this layout."""
        root = resolve_root(self.root)
        content = read_json(root / "dataset.json", root)
        ending = _ending(content)
        channels = _channels(content)
        files = Files(root)
        partitions: dict[str, str] = {}
        listed = content.get("dataset")
        if listed is not None:
            _add_listed(files, listed, channels, self.target_name)
            partitions |= dict.fromkeys(files.images, PARTITIONS["Tr"])
        for part in ("Ts",) if listed is not None else PARTITIONS:
            for path in _of_ending(files, f"images{part}", ending):
                case_id = _add_numbered(files, path, channels)
                partitions[case_id] = PARTITIONS[part]
            for path in _of_ending(files, f"labels{part}", ending):
                files.add_target(stem(path), self.target_name, path)
        files.report_passed_over(considered=_listed_paths(root, listed))
        declared = content.get("labels")
        return files.manifest(
            self.format,
            {name: self.modality or modality_of(name) for name in channels.values()},
            files.subjects(self.subject),
            labels={} if declared is None else {self.target_name: label_names(declared, "dataset.json")},
            covariates={case_id: {"partition": partition} for case_id, partition in partitions.items()},
        )


def _ending(content: dict[str, Any]) -> str | None:
    """The ending of all files; None, as in version 1, where ``dataset.json`` does not say it."""
    ending = content.get("file_ending")
    if ending is None or ending in ENDINGS:
        return ending
    remedy = f"Convert the images to one of {', '.join(ENDINGS)}."
    raise DataError(f"Files with the ending {ending!r} are not supported.", where="dataset.json, file_ending", remedy=remedy)


def _of_ending(files: Files, folder: str, ending: str | None) -> list[Path]:
    """The images in a folder. Those with another ending than ``dataset.json`` states are a warning."""
    if ending is None:
        return image_files(files.root / folder)
    place = files.root / folder
    images = sorted(path for path in place.iterdir() if is_image(path)) if place.is_dir() else []
    found = [path for path in images if path.name.endswith(ending)]
    if len(found) < len(images):
        problem = f"{len(images) - len(found)} of the images in {folder} do not end in '{ending}' and are left out"
        files.report("warning", "ending", problem, "Correct 'file_ending' in dataset.json, or remove them.", path=place)
    if ending in PICTURES and any(path.with_name(f"{stem(path)}.json").exists() for path in found):
        problem = f"The voxel sizes in the JSON files beside the images in {folder} are not read"
        files.report("warning", "spacing", problem, "Convert the images to NIfTI if they are volumes.", path=place)
    return found


def _add_numbered(files: Files, path: Path, channels: dict[int, str]) -> str:
    """Take an image by its name. A name without a declared channel is a finding. Returns the case's id."""
    match = CHANNEL_NUMBER.fullmatch(stem(path))
    if match and int(match[2]) in channels:
        files.add_image(match[1], channels[int(match[2])], path)
        return match[1]
    numbers = ", ".join(f"_{number:04d}" for number in channels)
    problem = "has a name that does not end in the number of a declared channel"
    remedy = f"Names end in one of {numbers} before the ending, or the channel is missing in 'channel_names'."
    files.report("error", "channel", problem, remedy, case=match[1] if match else stem(path), path=path)
    return match[1] if match else stem(path)


def _add_listed(files: Files, listed: object, channels: dict[int, str], target: str) -> None:
    """Take the files that ``dataset`` lists: ``{case: {images: [...], label: ...}}``, relative to the root."""
    if not isinstance(listed, dict):
        raise DataError("'dataset' is not a mapping of cases to files.", where="dataset.json", remedy="Correct the file.")
    remedy = 'Write {"images": ["PATH", ...], "label": "PATH"}, a path a channel, beneath the data set\'s folder.'
    for case_id, entry in listed.items():
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(images, list) or not all(isinstance(path, str) for path in [*images, label or ""]):
            problem = "has an entry under 'dataset' that is not a list of images and a label map"
            files.report("error", "entry", problem, remedy, case=case_id)
            continue
        if len(images) != len(channels):
            problem = f"has {len(images)} images under 'dataset', and {len(channels)} channels are declared"
            files.report("error", "entry", problem, remedy, case=case_id)
            continue
        paths = [inside(files.root, written) for written in [*images, *([label] if label else [])]]
        found = [path for path in paths if path is not None]
        if len(found) < len(paths):
            files.report("error", "outside", "has a file under 'dataset' outside the data set", remedy, case=case_id)
            continue
        for channel, path in zip(channels.values(), found, strict=False):
            files.add_image(case_id, channel, path)
        if label:
            files.add_target(case_id, target, found[-1])


def _listed_paths(root: Path, listed: object) -> Iterator[Path]:
    """Every path that the entries of ``dataset`` name, in good entries and in bad ones."""
    for entry in listed.values() if isinstance(listed, dict) else ():
        if isinstance(entry, dict):
            images = entry.get("images")
            written = [*(images if isinstance(images, list) else [images]), entry.get("label")]
            yield from (path for text in written if isinstance(text, str) and (path := inside(root, text)) is not None)


def _channels(content: dict[str, Any]) -> dict[int, str]:
    """Channel number -> name, in the order of the numbers."""
    declared = content.get("channel_names", content.get("modality"))
    if (
        not isinstance(declared, dict)
        or not declared
        or not all(str(number).isdecimal() for number in declared)
        or len({str(name) for name in declared.values()}) != len(declared)
    ):
        raise DataError(
            "'channel_names' is not a mapping of channel numbers to different names.",
            where="dataset.json",
            remedy='Write "channel_names": {"0": "T1", "1": "FLAIR"}.',
        )
    return {int(number): str(name) for number, name in sorted(declared.items(), key=lambda item: int(item[0]))}
