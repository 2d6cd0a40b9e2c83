"""BIDS: ``sub-X[/ses-Y]/anat/sub-X[_ses-Y]_T1w.nii.gz``, ``participants.tsv``, label maps among the ``derivatives``."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field

from medae.data.bids_names import LABEL_SUFFIXES, NOT_IMAGES, BIDSFile, Sessions, misplaced, scan
from medae.data.bids_tables import covariates, dseg_names
from medae.data.case import Manifest, Modality
from medae.data.files import FileSource, modality_of, resolve_root
from medae.data.gather import Files
from medae.errors import DataError
from medae.formats.endings import stem

BRAIN_MASK = "brain_mask"


class BIDSSource(FileSource):
    """A data set in the Brain Imaging Data Structure.

    Cases are sessions (``sub-X`` or ``sub-X_ses-Y``), or runs (``sub-X_run-1``) where a session has several of one suffix;
    channels are suffixes (``T1w``); covariates are the columns of ``participants.tsv`` and ``sessions.tsv``. Targets are
    the label maps (``dseg``) and masks beside the images and in the derivatives, as far as they are in the images' own
    space and their entities (``run``, ``acq``, ``ce``) fit: ``dseg`` gets ``target_name``, ``desc-brain_mask`` is
    ``brain_mask``, another mask ``LABEL_mask`` by its ``label`` or ``desc``, or ``target_name`` if it is the only one
    and there is no ``dseg``.
    datatype: the folder that holds the images. channels: name -> pattern of the file name without ending
    (``{T1: "*_ce-gd_T1w"}``), needed where a session has several files of one suffix that differ in more than ``run``;
    other files are left out. derivatives: folders under ``derivatives``, one or a list; ``auto`` is all with label maps
    or masks, one for each kind, ``none`` takes none. label_pattern: of the label maps' and masks' file names without
    ending, where there are several. label_names: value -> name, where no ``dseg.tsv`` says it.
    """

    format: Literal["bids"] = "bids"
    datatype: str = "anat"
    channels: dict[str, str] = Field(default_factory=dict)
    derivatives: str | tuple[str, ...] = "auto"
    label_pattern: str = "*"
    label_names: dict[int, str] = Field(default_factory=dict)

    def manifest(self) -> Manifest:
        """Open the data set. Raises DataError if it is not in this layout."""
        root = resolve_root(self.root)
        files = Files(root, ambiguous=_remedy(self.channels))
        raw = list(scan(root, self.datatype))
        images = [(image, channel) for image in raw for channel in self._channels_of(image)]
        if not images:
            raise DataError(
                f"No image is found in sub-*/{self.datatype} or sub-*/ses-*/{self.datatype}.",
                where=root,
                remedy="Correct 'datatype' and 'channels', or add the images.",
            )
        sessions = Sessions(images)
        modalities: dict[str, Modality] = dict.fromkeys(self.channels, "unknown")
        for image, channel in images:
            modalities[channel] = self.modality or modality_of(image.suffix)
            for case_id in sessions.cases_of(image):
                files.add_image(case_id, channel, image.path)
        derived, atlas = self._add_targets(files, sessions, raw)
        for stray in misplaced([*raw, *derived]):
            problem = "has a name that does not begin with the subject and session whose folder it is in"
            remedy = "Rename or move the file; it may be another person's."
            files.report("error", "misplaced", problem, remedy, path=stray.path)
        names = self.label_names or dseg_names(root, atlas)
        targets = {name for found in files.targets.values() for name in found}
        labels = {self.target_name: names} if names and self.target_name in targets else {}
        return files.manifest(
            self.format,
            modalities if self.channels else dict(sorted(modalities.items())),
            sessions.subjects,
            labels=labels | ({BRAIN_MASK: {0: "background", 1: "brain"}} if BRAIN_MASK in targets else {}),
            sessions=sessions.sessions,
            covariates=covariates(files, sessions.subjects, sessions.sessions),
        )

    def _channels_of(self, image: BIDSFile) -> list[str]:
        if image.suffix in NOT_IMAGES or not image.is_placed:
            return []
        if not self.channels:
            return [image.suffix]
        return [name for name, pattern in self.channels.items() if fnmatchcase(stem(image.path), pattern)]

    def _add_targets(self, files: Files, sessions: Sessions, raw: list[BIDSFile]) -> tuple[list[BIDSFile], Path | None]:
        """Take the label maps and masks. Returns all files of the derivatives, and the folder of that with ``dseg``."""
        derived = {folder: list(scan(folder, self.datatype)) for folder in self._derivatives(files.root)}
        chosen = {folder: self._labels(found) for folder, found in {files.root: raw, **derived}.items()}
        names = _target_names([label for labels in chosen.values() for label in labels], self.target_name)
        providers: dict[str, list[Path]] = {}
        for folder, labels in chosen.items():
            for name in sorted({names[label.mask_name] for label in labels}):
                if folder != files.root:
                    providers.setdefault(name, []).append(folder)
        for name, folders in providers.items():
            if len(folders) > 1:
                found = ", ".join(sorted(folder.name for folder in folders))
                what = "brain masks" if name == BRAIN_MASK else "label maps"
                raise DataError(
                    f"Several derivatives hold {what}: {found}.",
                    where="derivatives",
                    remedy="Choose with 'derivatives: NAME' or 'derivatives: [NAME, NAME]', or with 'label_pattern'.",
                )
        for label in (label for labels in chosen.values() for label in labels):
            self._add_target(files, sessions, label, names[label.mask_name])
        atlas = next(iter(providers.get(self.target_name, ())), None)
        return [image for found in derived.values() for image in found], atlas

    def _add_target(self, files: Files, sessions: Sessions, label: BIDSFile, name: str) -> None:
        case_id = sessions.case_of_label(label)
        role = f"target {name}"
        if case_id is not None:
            files.add_target(case_id, name, label.path, "labels" if label.suffix == LABEL_SUFFIXES[0] else "mask")
        elif sessions.has(label):
            problem = "fits no image of its session, or several, by its entities (run, acq, ce)"
            remedy = "Give it the entities of its image, or leave it out with 'label_pattern'."
            files.report("error", "entities", problem, remedy, path=label.path, role=role)
        elif not self.channels:  # with channels, images are left out on purpose, and their label maps with them
            problem, remedy = "has no image", "Add the session's image, or remove the label map."
            files.report("error", "orphan", problem, remedy, case=label.session_id, path=label.path, role=role)

    def _labels(self, found: list[BIDSFile]) -> list[BIDSFile]:
        """The label maps and masks to take, of the files of one folder."""
        return [
            file
            for file in found
            if file.suffix in LABEL_SUFFIXES
            and file.is_placed
            and file.is_native
            and fnmatchcase(stem(file.path), self.label_pattern)
        ]

    def _derivatives(self, root: Path) -> list[Path]:
        base = root / "derivatives"
        if self.derivatives == "none" or (self.derivatives == "auto" and not base.is_dir()):
            return []
        known = sorted(path for path in base.glob("*/") if path.is_dir())
        if self.derivatives == "auto":
            return known
        wanted = (self.derivatives,) if isinstance(self.derivatives, str) else self.derivatives
        for name in wanted:
            if base / name not in known:
                remedy = f"The folder holds {', '.join(path.name for path in known) or 'nothing'}."
                raise DataError(f"There is no derivative '{name}'.", where="derivatives", remedy=remedy)
        return [base / name for name in wanted]


def _target_names(labels: list[BIDSFile], target: str) -> Mapping[str | None, str]:
    """Target name by the mask's name; None, that of a label map, is ``target``."""
    kinds = {label.mask_name for label in labels}
    others = kinds - {None, "brain"}
    if None not in kinds and len(others) == 1:
        return {next(iter(others)): target, "brain": BRAIN_MASK}
    return {None: target, "brain": BRAIN_MASK, **{name: f"{name}_mask" if name else "mask" for name in others}}


def _remedy(channels: Mapping[str, str]) -> str:
    if channels:
        return "Narrow the patterns under 'channels' or 'label_pattern', or remove all but one."
    return (
        "Say which is meant: 'channels', such as {T1w: \"*_acq-3d_T1w\", T1gd: \"*_ce-gd_T1w\"}, or 'label_pattern' for "
        "label maps; or remove all but one."
    )
