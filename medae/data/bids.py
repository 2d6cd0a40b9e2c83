"""BIDS: ``sub-X[/ses-Y]/anat/sub-X[_ses-Y]_T1w.nii.gz``, ``participants.tsv``, label maps among the ``derivatives``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field

from medae.data.bids_names import LABEL_SUFFIXES, NOT_IMAGES, BIDSFile, Sessions, misplaced, scan
from medae.data.bids_tables import covariates, dseg_names
from medae.data.brain_masks import BRAIN_MASK
from medae.data.case import Manifest, Modality
from medae.data.files import FileSource, modality_of
from medae.data.finding import Level
from medae.data.gather import Files
from medae.data.roots import resolve_root
from medae.errors import DataError
from medae.formats.endings import stem

Kind = tuple[str, str]
"""Suffix and what tells it from others of its suffix."""


class BIDSSource(FileSource):
    """A data set in the Brain Imaging Data Structure.

    Cases are sessions (``sub-X`` or ``sub-X_ses-Y``), or runs (``sub-X_run-1``) where a session has several of one suffix;
    channels are suffixes (``T1w``); covariates are the columns of ``participants.tsv`` and ``sessions.tsv``. Targets are
    the label maps (``dseg``) and masks beside the images and in the derivatives, as far as they are in the images' own
    space and their entities (``run``, ``acq``, ``ce``) fit: ``dseg`` gets ``target_name``, beside another kind of label
    map ``desc-X_dseg`` of a derivative is ``X`` in small letters, ``desc-brain_mask`` is ``brain_mask``, another mask
    ``LABEL_mask`` by its ``label`` or ``desc``, or ``target_name`` if it is the only one and there is no ``dseg``. A
    file of a derivative that fits no session, or of which a session has several, is named and left out, its case not.
    datatype: the folder that holds the images. channels: name -> pattern of the file name without ending
    (``{T1: "*_ce-gd_T1w"}``), needed where a session has several files of one suffix that differ in more than ``run``;
    other files are left out. derivatives: folders under ``derivatives``, one or a list; ``auto`` is all with label maps
    or masks, one for each kind, but those that medae predicted; ``none`` takes none. label_pattern: of the label maps'
    and masks' file names without ending, where there are several. label_names: value -> name, where no ``dseg.tsv`` says
    it.
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
        derived, names = self._add_targets(files, sessions, raw)
        for stray in misplaced([*raw, *derived]):
            problem = "has a name that does not begin with the subject and session whose folder it is in"
            remedy = "Rename or move the file; it may be another person's."
            files.report("error", "misplaced", problem, remedy, path=stray.path)
        is_chosen = bool(self.channels) or "datatype" in self.model_fields_set
        considered = [image.path for image in raw]
        files.report_passed_over(sorted(root.glob("sub-*")), images=not is_chosen, considered=considered)
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

    def _add_targets(self, files: Files, sessions: Sessions, raw: list[BIDSFile]) -> tuple[list[BIDSFile], dict[int, str]]:
        """Take the label maps and masks. Returns all files of the derivatives, and the names of the labels of ``dseg``."""
        derived = {folder: list(scan(folder, self.datatype)) for folder in self._derivatives(files)}
        chosen = {folder: self._labels(found) for folder, found in derived.items()}
        every = [(label, False) for label in self._labels(raw)]
        every += [(label, True) for labels in chosen.values() for label in labels]
        kinds = {_kind(label, is_derived) for label, is_derived in every}
        names = _target_names(kinds, self.target_name)
        providers: dict[str, list[Path]] = {}
        for folder, labels in chosen.items():
            for name in sorted({names[_kind(label, True)] for label in labels}):
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
        claims: dict[tuple[str, str], list[tuple[BIDSFile, bool]]] = {}
        for label, is_derived in every:
            name = names[_kind(label, is_derived)]
            case_id = sessions.case_of_label(label)
            if case_id is None:
                self._report_unfitting(files, sessions, label, name, is_derived)
            else:
                claims.setdefault((case_id, name), []).append((label, is_derived))
        for (case_id, name), claimants in claims.items():
            is_left_out = len(claimants) > 1 and any(is_derived for _, is_derived in claimants)
            for label, _ in claimants:
                if is_left_out:  # a program made one of them, which is no reason to lose the scan
                    problem = f"is one of several files that claim to be the target {name} of their case, which has none now"
                    role = f"target {name}"
                    files.report("warning", "ambiguous", problem, files.ambiguous, case=case_id, path=label.path, role=role)
                else:
                    files.add_target(case_id, name, label.path, "mask" if label.suffix == "mask" else "labels")
        atlas = next(iter(providers.get(self.target_name, ())), None)
        is_only = sum(kind[0] == "dseg" for kind in kinds) <= 1
        atlas_names = self.label_names or dseg_names(files.root, atlas, is_only)
        return [image for found in derived.values() for image in found], atlas_names

    def _report_unfitting(self, files: Files, sessions: Sessions, label: BIDSFile, name: str, is_derived: bool) -> None:
        """A label map without its image: an error where a person put it, a warning where a program did."""
        role = f"target {name}"
        level: Level = "warning" if is_derived else "error"
        if sessions.has(label):
            problem = "fits no image of its session, or several, by its entities (run, acq, ce)"
            remedy = "Give it the entities of its image, or leave it out with 'label_pattern'."
            files.report(level, "entities", problem, remedy, path=label.path, role=role)
        elif self.channels:  # images are left out on purpose, and their label maps with them
            return
        elif is_derived:
            problem = "is of a subject or session without an image, and is not taken"
            remedy = "Add the image, move the file to the folder of its session, or choose with 'derivatives'."
            files.report(level, "orphan", problem, remedy, path=label.path, role=role)
        else:
            problem, remedy = "has no image", "Add the session's image, or remove the label map."
            files.report(level, "orphan", problem, remedy, case=label.session_id, path=label.path, role=role)

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

    def _derivatives(self, files: Files) -> list[Path]:
        base = files.root / "derivatives"
        if self.derivatives == "none" or (self.derivatives == "auto" and not base.is_dir()):
            return []
        known = sorted(path for path in base.glob("*/") if path.is_dir())
        if self.derivatives == "auto":
            own = [folder for folder in known if _is_ours(folder)]
            for folder in own:
                problem = "is a derivative that medae made: its label maps are predictions, and are not taken for references"
                remedy = f"Nothing is to be done; 'derivatives: {folder.name}' takes them all the same."
                files.report("warning", "predictions", problem, remedy, path=folder)
            return [folder for folder in known if folder not in own]
        wanted = (self.derivatives,) if isinstance(self.derivatives, str) else self.derivatives
        for name in wanted:
            if base / name not in known:
                remedy = f"The folder holds {', '.join(path.name for path in known) or 'nothing'}."
                raise DataError(f"There is no derivative '{name}'.", where="derivatives", remedy=remedy)
        return [base / name for name in wanted]


def _is_ours(folder: Path) -> bool:
    """Whether a derivative says that medae made it, as ``medae predict --to bids`` does."""
    try:
        content = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))
        programs = [program.get("Name") for program in content.get("GeneratedBy", ())]
        return bool(programs) and programs[-1] == "medae"  # and nobody corrected them after it
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _kind(label: BIDSFile, is_derived: bool) -> Kind:
    """Which of the session's label maps or masks it is: programs write several label maps, told apart by ``desc``."""
    if label.mask_name is not None:
        return "mask", label.mask_name
    return "dseg", label.entities.get("desc", "").lower() if is_derived else ""


def _target_names(kinds: Collection[Kind], target: str) -> Mapping[Kind, str]:
    """Target name by kind; the only kind of label map, and without one the only mask but the brain's, is ``target``."""
    maps = [kind for kind in kinds if kind[0] == "dseg"]
    masks = [kind for kind in kinds if kind[0] == "mask" and kind[1] != "brain"]
    names = {("mask", "brain"): BRAIN_MASK}
    names |= {kind: kind[1] if kind[1] and len(maps) > 1 else target for kind in maps}
    return (
        names
        | {kind: f"{kind[1]}_mask" if kind[1] else "mask" for kind in masks}
        | ({masks[0]: target} if not maps and len(masks) == 1 else {})
    )


def _remedy(channels: Mapping[str, str]) -> str:
    if channels:
        return "Narrow the patterns under 'channels' or 'label_pattern', or remove all but one."
    return (
        "Say which is meant: 'channels', such as {T1w: \"*_acq-3d_T1w\", T1gd: \"*_ce-gd_T1w\"}, or 'label_pattern' for "
        "label maps; or remove all but one."
    )
