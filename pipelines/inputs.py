"""The scans that a command is given: one image, a folder of images, or a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medae.data.brain_masks import MaskFile
from medae.data.case import Case, Manifest, Modality
from medae.data.digests import sha256_of_files
from medae.data.folder import guess_patterns, matches
from medae.data.nnunet import CHANNEL_NUMBER
from medae.data.reading import read_array
from medae.data.sources import detect_format
from medae.errors import DataError
from medae.formats import read
from medae.formats.endings import NIFTI, image_files, stem
from medae.plan import SpacePlan
from medae.preprocessing.brain import BrainExtraction
from medae.preprocessing.prepare import Change, Prepared, prepare_case, prepare_files
from medae.volume import NativeGrid
from pipelines.console import Screen
from pipelines.data import open_folder

OR_LAYOUT = "the folder of the scans alone, or name the layout: --format folder (--set data.ids=names keeps their names)."
"""What to do where a plain folder holds more than scans."""

PLAIN = "image"
"""In the place of the channel of a file that does not say which one it is."""


@dataclass(frozen=True)
class Scan:
    """One scan. name: of its results. case: of a data set, with its manifest; else files: by channel, each image a file."""

    name: str
    case: Case | None = None
    manifest: Manifest | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def prepare(
        self, space: SpacePlan, brain: BrainExtraction | None, mask: MaskFile | None, change: Change | None = None
    ) -> Prepared:
        """The scan in a plan's space. brain: makes the brain mask where none is given. mask: of a plain file. change: as in
        ``prepare_case``."""
        if self.case is not None and self.manifest is not None:
            return prepare_case(self.manifest, _named_for(self.case, space), space, brain=brain, change=change)
        names = {PLAIN: space.channels[0]} if set(self.files) == {PLAIN} else {}
        files = {names.get(name, name): [path] for name, path in self.files.items()}
        brain_mask, doubtful = (None, None) if mask is None else (mask.mask, mask.doubtful)
        return prepare_files(files, space, self.name, brain_mask, brain, change, doubtful)

    def modality(self, channels: Sequence[str] = ()) -> Modality:
        """Of the first of these channels that it has, or of its first image; a plain file does not say."""
        if self.case is None:
            return "unknown"
        images = self.case.images
        return next((images[name] for name in channels if name in images), next(iter(images.values()))).modality

    @property
    def paths(self) -> dict[str, list[Path]]:
        """The files of each image, by channel."""
        if self.case is not None and self.manifest is not None:
            return {name: self.manifest.paths(ref) for name, ref in self.case.images.items()}
        return {name: [path] for name, path in self.files.items()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each image's contents, by channel. Raises DataError for a file that cannot be read."""
        if self.case is not None:
            return {name: ref.sha256 for name, ref in self.case.images.items()}
        found = sha256_of_files(self.files.values())
        for path, contents in found.items():
            if not isinstance(contents, str):
                text = f"The file cannot be read: {contents.strerror or contents}."
                raise DataError(text, where=path.name, remedy="Check the file and who may read it.")
        return {name: str(found[path]) for name, path in self.files.items()}

    def images(self) -> list[tuple[np.ndarray, NativeGrid]]:
        """Every image of the scan: float32 ``[1, I, J, K]`` on nearest-RAS axes, and the grid of its file."""
        if self.case is not None and self.manifest is not None:
            return [read_array(self.manifest, ref) for ref in self.case.images.values()]
        return [read.read_array([path], "intensity") for path in self.files.values()]


def _named_for(case: Case, space: SpacePlan) -> Case:
    """The case; where it and the plan have one channel, and either does not say which, its image goes by the plan's name."""
    if len(case.images) == len(space.channels) == 1 and PLAIN in (*case.images, *space.channels):
        (image,) = case.images.values()
        return case.model_copy(update={"images": {space.channels[0]: image}})
    return case


@dataclass(frozen=True)
class Inputs:
    """What was given. refused: why the data set's own checks left scans out, by case. single: whether it is one image, whose
    result has the name that is asked for."""

    scans: list[Scan]
    refused: dict[str, str]
    is_data_set: bool
    single: bool


def find_inputs(
    source: Path,
    output: Path,
    screen: Screen,
    format: str = "auto",
    keys: Mapping[str, Any] | None = None,
    channels: Sequence[str] = (),
) -> Inputs:
    """List the scans. output: where results go, which is no folder of scans. format, keys: of a data set's layout. channels:
    that files which end in the numbers of nnU-Net (``NAME_0000``) are taken for, so that those of a NAME are one scan.

    Raises DataError if there is none, and if results would lie among the scans.
    """
    layout = _layout(source)
    is_data_set = format != "auto" or bool(keys) or layout not in (None, "folder")
    _refuse_overwriting(source.resolve(), output.resolve())
    if not source.exists():
        raise DataError("The input does not exist.", where=source, remedy="Check the path.")
    if is_data_set:
        manifest = open_folder(source, format, keys or {})
        if any(path.resolve().parent == output.resolve() for case in manifest.cases for path in _files(manifest, case)):
            raise _among_the_scans(output)
        for (problem, remedy), count in Counter((each.problem, each.remedy) for each in manifest.findings).items():
            screen.warn(f"{problem} ({count} x; medae check names them). {remedy}")
        scans = [Scan(case.id, case=case, manifest=manifest) for case in manifest.cases]
        return Inputs(scans, _refused(manifest), is_data_set, single=False)
    files = image_files(source) if source.is_dir() else [source]
    if not files:
        found = f", but its subfolders are the layout '{layout}'" if layout else ""
        raise DataError(f"There is no image in the folder itself{found}.", where=source, remedy=f"Give {OR_LAYOUT}")
    if source.is_dir() and layout == "folder":
        _refuse_label_maps(source, len(files))
    single = source.is_file() and output.name.endswith(NIFTI)
    if source.is_dir() and _are_channels(files, channels):
        return Inputs(_numbered(files, channels), {}, is_data_set, single)
    return Inputs([Scan(stem(file), files={PLAIN: file}) for file in files], {}, is_data_set, single)


def _are_channels(files: Sequence[Path], channels: Sequence[str]) -> bool:
    """Whether files end in numbers that are channels. Those for a model of one channel may just be numbered scans: then not
    every NAME has a 0000."""
    matches = [CHANNEL_NUMBER.fullmatch(stem(file)) for file in files]
    named = [match for match in matches if match is not None]
    if not channels or len(named) < len(files):
        return False
    return len(channels) > 1 or {match[1] for match in named} == {match[1] for match in named if int(match[2]) == 0}


def _numbered(files: Sequence[Path], channels: Sequence[str]) -> list[Scan]:
    """The scans of a folder of ``NAME_0000``, ``NAME_0001`` and so on. Raises DataError for a number beyond the channels."""
    found: dict[str, dict[str, Path]] = {}
    for file in files:
        match = CHANNEL_NUMBER.fullmatch(stem(file))
        assert match is not None  # which the caller has seen
        name, number = match[1], int(match[2])
        if number >= len(channels):
            raise DataError(
                f"The file is channel {number} of a scan, and the model takes {len(channels)}: {', '.join(channels)}.",
                where=file.name,
                remedy="Leave out the channels that the model does not take, and number the others from 0000 in its order; "
                "scans of their own are named in another way than NAME_0000, NAME_0001.",
            )
        found.setdefault(name, {})[channels[number]] = file
    return [Scan(name, files=by_channel) for name, by_channel in found.items()]


def _refused(manifest: Manifest) -> dict[str, str]:
    """What is wrong with the scans that the data set's layout has left out, by case."""
    kept = {case.id for case in manifest.cases}
    reasons: dict[str, list[str]] = {}
    for finding in manifest.findings:
        if finding.level == "error" and finding.case and finding.case not in kept:
            reasons.setdefault(finding.case, []).append(finding.problem)
    return {case: "; ".join(dict.fromkeys(problems)) for case, problems in reasons.items()}


def _files(manifest: Manifest, case: Case) -> Iterator[Path]:
    for ref in case.images.values():
        yield from manifest.paths(ref)


def _refuse_overwriting(source: Path, output: Path) -> None:
    """Results never go where the scans are: a label map could take the place of its scan."""
    scans = source if source.is_dir() else source.parent
    if output.parent == source / "derivatives":  # of BIDS
        return
    if output == source or (output.is_dir() and output == scans) or (source.is_dir() and output.is_relative_to(source)):
        raise _among_the_scans(output)


def _among_the_scans(output: Path) -> DataError:
    return DataError(
        "The output would be written among the scans.", where=output.name, remedy="Choose a folder apart from the input."
    )


def _layout(source: Path) -> str | None:
    """The layout of a data set that is recognised, as ``medae check`` does; ``folder`` where there is no more to it than
    images and label maps. None if there is none."""
    try:
        return detect_format(source.expanduser().absolute())
    except DataError:
        return None


def _refuse_label_maps(folder: Path, files: int) -> None:
    """Raises DataError for a plain folder in which some of the files are called like label maps of the others: ``A_seg``
    beside ``A`` or ``A_T1w``. What is ``masked`` is a scan."""
    _, labels = guess_patterns(folder, "label") or ({}, {})
    called = [path for pattern in labels.values() for _, path in matches(folder, pattern) if path.parent == folder]
    scans = {stem(path) for path in image_files(folder)} - {stem(path) for path in called}
    maps = []
    for path in called:
        before, _, suffix = stem(path).rpartition("_")
        if "masked" not in suffix.lower() and any(scan == before or scan.startswith(f"{before}_") for scan in scans):
            maps.append(path)
    if maps:
        raise DataError(
            f"{len(maps)} of the {files} images are label maps of the others by their names, such as {maps[0].name}.",
            where=folder,
            remedy=f"Give {OR_LAYOUT}",
        )
