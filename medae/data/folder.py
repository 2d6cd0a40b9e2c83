"""Plain folders: a folder of images and one of label maps, or files told apart by patterns of their names."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from medae.data.case import Manifest
from medae.data.files import FileSource, modality_of
from medae.data.gather import Files
from medae.data.roots import resolve_root
from medae.errors import DataError
from medae.formats.endings import ENDINGS, PICTURES, image_files, is_image, is_picture, stem, without_previews

LABEL_WORDS = re.compile(r"seg|label|lbl|mask|annot|truth|(?<![a-z])rois?(?![a-z])", re.IGNORECASE)
IMAGE_WORDS = re.compile(r"(image|img|scan|volume|nii|nifti)s?", re.IGNORECASE)
CHANNEL_WORDS = re.compile(r"ct|mri?|t1(w|c|ce|gd|n)?|t2(w|f)?|flair|pd|adc|dwi", re.IGNORECASE)
BIDS_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")

Names = str | dict[str, str]


class FolderSource(FileSource):
    """A data set in plain folders. Without ``images`` and ``image_pattern`` the layout is guessed from the names.

    An image and its label map have the same file name.
    images: a folder, or channel name -> folder. labels: a folder, or target name -> folder.
    image_pattern, label_pattern: such as ``"*_T1w.nii.gz"`` or ``"*/*-t1n.nii.gz"``, or name -> pattern; relative to the
    root, ``*`` stands for anything within a name, and what the stars stand for, doubles left out, is the case's name. An
    ending may be left out: then it is any image's, and a PNG or TIFF beside a volume of the same name is its preview, not
    an image. Files that a label pattern takes are no images.
    subject: pattern that finds the subject in the case's name (group 1 or the whole match); without it a leading
    ``sub-X``, else the whole name. Scans of one person that count as two subjects end up on both sides of a split.
    label_names: value -> name. ids: ``hashed`` keeps file names, which often are patients' names, out of everything
    that is written; ``names`` uses them.
    """

    format: Literal["folder"] = "folder"
    images: Names | None = None
    labels: Names | None = None
    image_pattern: Names | None = None
    label_pattern: Names | None = None
    subject: re.Pattern[str] | None = None
    label_names: dict[int, str] = Field(default_factory=dict)
    ids: Literal["hashed", "names"] = "hashed"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.images is not None and self.image_pattern is not None:
            raise ValueError("images (a folder) and image_pattern exclude each other")
        if self.labels is not None and self.label_pattern is not None:
            raise ValueError("labels (a folder) and label_pattern exclude each other")
        if (self.labels or self.label_pattern) and not (self.images or self.image_pattern):
            raise ValueError("say where the images are too: images or image_pattern")
        for pattern in [*named(self.image_pattern, "").values(), *named(self.label_pattern, "").values()]:
            if "*" not in pattern or "**" in pattern:
                raise ValueError(f"'{pattern}' needs single stars for the parts that differ")
        for places in (self.images, self.labels, self.image_pattern, self.label_pattern):
            for place in named(places, "").values():
                if place.startswith("/") or ".." in place.split("/"):
                    raise ValueError(f"'{place}' has to be relative to the root, and beneath it")
        return self

    def manifest(self) -> Manifest:
        """Open the data set. Case ids are file names here; ``open_manifest`` hashes them."""
        root = resolve_root(self.root)
        if self.images is None and self.image_pattern is None:
            guess = guess_patterns(root, self.target_name)
            if guess is None:
                raise DataError("The layout cannot be guessed.", where=root, remedy="State images or image_pattern.")
            channels, targets = guess
        else:
            channels = named(self.image_pattern, "image") or _in_folders(named(self.images, "image"))
            targets = named(self.label_pattern, self.target_name) or _in_folders(named(self.labels, self.target_name))
        files = Files(root)
        claimed: set[Path] = set()
        for target, pattern in targets.items():
            for name, path in matches(root, pattern):
                files.add_target(name, target, path)
                claimed.add(path)
        for channel, pattern in channels.items():
            found = [(name, path) for name, path in matches(root, pattern) if path not in claimed]
            if not found and len(channels) == 1:
                raise DataError(f"No image fits '{pattern}'.", where=channel, remedy="Correct the folder or pattern.")
            for name, path in found:
                files.add_image(name, channel, path)
        is_guessed = self.images is None and self.image_pattern is None
        files.report_passed_over(None if is_guessed else files.folders(), images=is_guessed)
        subjects = files.subjects(self.subject)
        if self.subject is None:
            subjects = {name: leading.group() if (leading := BIDS_SUBJECT.match(name)) else name for name in subjects}
        return files.manifest(
            self.format,
            {channel: self.modality or modality_of(channel) for channel in channels},
            subjects,
            labels={target: self.label_names for target in targets if self.label_names},
        )


def named(value: Names | None, name: str) -> dict[str, str]:
    """A single folder or pattern as a mapping from ``name``; a mapping as it is; nothing as an empty one."""
    if value is None:
        return {}
    return {name: value} if isinstance(value, str) else value


def _in_folders(folders: Mapping[str, str]) -> dict[str, str]:
    return {name: f"{folder.strip('/')}/*" for name, folder in folders.items()}


def matches(root: Path, pattern: str) -> list[tuple[str, Path]]:
    """Case name and path of each image that fits, hidden ones left out."""
    is_stated = pattern.lower().endswith(ENDINGS)
    ending = "" if is_stated else f"(?i:{'|'.join(map(re.escape, ENDINGS))})"
    parts = pattern.split("*")
    expression = re.compile(r"([^/]*?)".join(re.escape(part) for part in parts) + ending)
    found = {}
    for path in root.glob("*".join(glob.escape(part) for part in parts) + ("" if is_stated else ".*")):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match and is_image(path):
            found[path] = "_".join(dict.fromkeys(part for part in match.groups() if part))
    paths = sorted(found) if is_stated else without_previews(sorted(found))
    return [(found[path], path) for path in paths]


def guess_patterns(root: Path, target: str) -> tuple[dict[str, str], dict[str, str]] | None:
    """Image and label patterns by name for a plain folder, or None if it holds nothing that can be told apart.

    target: name of the label maps if there is one kind of them. Raises DataError if two readings are possible.
    """
    by_folder, by_suffix = _guess_folders(root), _guess_suffixes(root)
    loose = {path.suffix.lower() for path in image_files(root)}
    if by_folder and by_suffix and not loose <= set(PICTURES):  # pictures beside the folders, such as a figure, are no scans
        raise DataError(
            "The folder has images both in itself and in its subfolders.",
            where=root,
            remedy="Use 'format: folder' and state images or image_pattern.",
        )
    guess = by_folder or by_suffix
    if guess is None:
        return None
    images, labels = guess
    if len(images) == 1:
        images = {"image" if IMAGE_WORDS.fullmatch(name) else name: pattern for name, pattern in images.items()}
    if len(labels) == 1:
        labels = {target: next(iter(labels.values()))}
    return images, labels


def _guess_folders(root: Path) -> tuple[dict[str, str], dict[str, str]] | None:
    """Subfolders with images: those called like label maps, and those that are called like images or share file names."""
    names = {
        folder.name: {stem(path) for path in image_files(folder)}
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    names = {folder: files for folder, files in names.items() if files}
    labels = [folder for folder in names if LABEL_WORDS.search(folder)]
    labelled = set().union(*(names[folder] for folder in labels))
    images = [
        folder
        for folder, files in names.items()
        if folder not in labels and (files & labelled or IMAGE_WORDS.fullmatch(folder) or CHANNEL_WORDS.fullmatch(folder))
    ]
    if not images:
        return None
    return _in_folders({folder: folder for folder in images}), _in_folders({folder: folder for folder in labels})


def _guess_suffixes(root: Path) -> tuple[dict[str, str], dict[str, str]] | None:
    """Files in the folder itself: ``CASE_SUFFIX``, ``CASE`` beside ``CASE_seg``, or images with nothing in common."""
    paths = image_files(root)
    stems = [stem(path) for path in paths if not is_picture(path)] or [stem(path) for path in paths]
    if not stems:
        return None
    split = [name.rpartition("_") for name in stems]
    labels = sorted({suffix for before, _, suffix in split if before and LABEL_WORDS.search(suffix)})
    labelled = {before for before, _, suffix in split if suffix in labels}
    scans = [(before, suffix) for before, _, suffix in split if suffix not in labels]
    kinds = sorted({suffix for _, suffix in scans})
    # Beside label maps, CASE_T1w goes with CASE_dseg, CASE with CASE_dseg; alone, a suffix is what several cases share.
    is_suffixed = not labelled <= set(stems) if labels else len(kinds) < len({before for before, _ in scans})
    is_suffixed = is_suffixed and all(before and suffix[:1].isalpha() for before, suffix in scans)
    images = {kind: f"*_{kind}" for kind in kinds} if is_suffixed and kinds else {"image": "*"}
    return images, {label: f"*_{label}" for label in labels}
