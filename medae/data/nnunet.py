"""nnU-Net raw data: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz`` (a file a channel), ``labelsTr/CASE.nii.gz``."""

from __future__ import annotations

import re
from pathlib import Path
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

CHANNEL_NUMBER = re.compile(r"(.+)_(\d{4})")


class NNUNetSource(FileSource):
    """A data set in the raw layout of nnU-Net, version 2 (``channel_names``) or 1 (``modality``).

    A case may lack a declared channel or its label map. The covariate ``partition`` is ``test`` for images in
    ``imagesTs`` (label maps in ``labelsTs`` are taken), else ``training``.
    subject: pattern that finds the subject in the case's name (group 1 or the whole match); without it each case is one.
    """

    format: Literal["nnunet"] = "nnunet"
    subject: re.Pattern[str] | None = None

    def manifest(self) -> Manifest:
        """Open the data set. Raises DataError if it is not in this layout."""
        root = resolve_root(self.root)
        content = read_json(root / "dataset.json", root)
        _refuse_unsupported(content)
        channels = _channels(content)
        files = Files(root)
        partitions = {"Tr": "training", "Ts": "test"}
        covariates: dict[str, dict[str, str | float | None]] = {}
        for part, partition in partitions.items():
            for path in image_files(root / f"images{part}"):
                case_id, channel = _case_and_channel(path, channels, root)
                files.add_image(case_id, channel, path)
                covariates[case_id] = {"partition": partition}
            for path in image_files(root / f"labels{part}"):
                files.add_target(stem(path), self.target_name, path)
        declared = content.get("labels")
        return files.manifest(
            self.format,
            {name: self.modality or modality_of(name) for name in channels.values()},
            {case_id: subject_of(case_id, self.subject) for case_id in files.images},
            labels={} if declared is None else {self.target_name: label_names(declared, "dataset.json")},
            covariates=covariates,
        )


def _refuse_unsupported(content: dict[str, Any]) -> None:
    ending = content.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        remedy = f"Convert the images to {' or '.join(ENDINGS)}."
        raise DataError(
            f"Files with the ending '{ending}' are not supported.", where="dataset.json, file_ending", remedy=remedy
        )
    if "dataset" in content:
        text = "dataset.json lists the files of each case under 'dataset'; that form is not supported."
        raise DataError(text, where="dataset.json, dataset", remedy="Put or link the files into imagesTr and labelsTr.")


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


def _case_and_channel(path: Path, channels: dict[int, str], root: Path) -> tuple[str, str]:
    match = CHANNEL_NUMBER.fullmatch(stem(path))
    if match is None or int(match[2]) not in channels:
        numbers = ", ".join(f"_{number:04d}" for number in channels)
        raise DataError(
            "An image's name does not end in the number of a declared channel.",
            where=path.relative_to(root),
            remedy=f"Names end in one of {numbers} before the ending, or the channel is missing in 'channel_names'.",
        )
    return match[1], channels[int(match[2])]
