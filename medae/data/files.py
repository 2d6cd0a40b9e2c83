"""What every file source shares: roots, file names, contents' digests, and cases put together from single files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medae.config import Config
from medae.data.case import Case, ImageKind, ImageRef, Manifest, Modality
from medae.data.digests import sha256_of_files
from medae.errors import DataError

ENDINGS = (".nii.gz", ".nii")
DATA_VARIABLE = "MEDAE_DATA"
PUBLIC_SETS = {
    "hippocampus": "Task04_Hippocampus of the Medical Segmentation Decathlon, http://medicaldecathlon.com",
    "ixi_t1": "the IXI data set (T1), https://brain-development.org/ixi-dataset",
    "lgg": "TCGA-LGG, https://www.cancerimagingarchive.net, with the masks of Buda et al. 2019",
    "lidc": "LIDC-IDRI, https://www.cancerimagingarchive.net",
}

K = TypeVar("K", bound=Hashable)


class FileSource(Config):
    """What the sources of image files have in common.

    root: folder of the data set; relative to the folder in MEDAE_DATA, or to the working folder if that is not set.
    modality: of all images, where the layout does not say it or says it wrongly. target_name: of the label maps.
    """

    root: Path
    modality: Modality | None = None
    target_name: str = "label"


def absolute_root(root: Path) -> Path:
    """``root`` with ``~`` expanded, and beneath the folder in MEDAE_DATA (else the working folder) if it is relative."""
    return (Path(os.environ.get(DATA_VARIABLE, "")).expanduser() / root.expanduser()).absolute()


def resolve_root(root: Path) -> Path:
    """The absolute folder of a data set. Raises DataError, which says how to get the data, if it is not there."""
    folder = absolute_root(root)
    if folder.is_dir():
        return folder
    origin = PUBLIC_SETS.get(root.name)
    remedy = f"Set {DATA_VARIABLE} to the folder that holds '{root}', or give the data set's absolute path."
    if origin:
        remedy += f" The public data set of this name comes from {origin}."
    problem = "is a file, not a folder" if folder.exists() else "does not exist"
    raise DataError(f"The data folder {problem}.", where=folder, remedy=remedy)


def image_files(folder: Path) -> list[Path]:
    """NIfTI files directly in ``folder``, by name; none if there is no such folder. Hidden files do not count."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(ENDINGS) and not path.name.startswith("."))


def stem(path: Path) -> str:
    """The file name without its NIfTI ending."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def subject_of(name: str, pattern: re.Pattern[str] | None) -> str:
    """The subject in a case's name: group 1 of ``pattern``, else its whole match; without a pattern the name itself."""
    if pattern is None:
        return name
    match = pattern.search(name)
    found = match and (match.group(1) if pattern.groups else match.group())
    if not found:
        raise DataError(
            f"The subject pattern '{pattern.pattern}' finds nothing in '{name}'.", where="subject", remedy="Correct it."
        )
    return found


def modality_of(name: str) -> Modality:
    """CT or MR, from the name that a data set gives to a channel."""
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    if "CT" in words:
        return "CT"
    sequences = re.compile(r"MRI?|T[12]([WCG].*|STAR)?|FLAIR|PDW?|PDT2|ADC|DWI|SWI|UNIT1|MP2?RAGE|INPLANET[12]")
    return "MR" if any(sequences.fullmatch(word) for word in words) else "unknown"


def read_json(path: Path, root: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError that names the file relative to ``root``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path.name} cannot be read: {error}", where=_relative(path, root), remedy="Correct the file."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path.name} does not hold a JSON object.", where=_relative(path, root), remedy="Correct the file.")
    return content


def label_names(labels: object, where: str) -> dict[int, str]:
    """Label value -> name, from ``{"0": "background"}`` (MSD, nnU-Net 1) or ``{"background": 0}`` (nnU-Net 2).

    Raises DataError for anything else, and for nnU-Net's regions (lists of values) and ``ignore`` label.
    """
    remedy = 'Write "labels": {"background": 0, "name": 1, ...} or {"0": "background", "1": "name", ...}.'
    if not isinstance(labels, dict):
        raise DataError("'labels' is not a mapping of label names to values.", where=where, remedy=remedy)
    names: dict[int, str] = {}
    for key, value in labels.items():
        if isinstance(value, list):
            text = f"The label '{key}' is a region (a list of values); region-based labels are not supported."
            raise DataError(text, where=where, remedy="Declare one label a value.")
        number, name = (value, key) if isinstance(value, int) else (key, value)
        if not str(number).isdecimal() or not isinstance(name, str) or int(number) in names:
            raise DataError(
                f"'labels' has an entry that is not one value and its name: {key!r}: {value!r}.", where=where, remedy=remedy
            )
        if name == "ignore":
            text = "An 'ignore' label is not supported: it would be learned as a structure."
            raise DataError(text, where=where, remedy="Remove the partly labelled cases and the label.")
        names[int(number)] = name
    return dict(sorted(names.items()))


@dataclass
class Files:
    """The files of a data set as a source finds them, sorted into cases before they are hashed.

    images, targets: case id -> channel or target name -> absolute path.
    """

    root: Path
    images: dict[str, dict[str, Path]] = field(default_factory=dict)
    targets: dict[str, dict[str, Path]] = field(default_factory=dict)

    def add_image(self, case_id: str, channel: str, path: Path) -> None:
        """Take a file as an image. Raises DataError if the case has that channel already."""
        self._add(self.images, case_id, channel, path)

    def add_target(self, case_id: str, target: str, path: Path) -> None:
        """Take a file as a label map. Raises DataError if the case has that target already."""
        self._add(self.targets, case_id, target, path)

    def _add(self, table: dict[str, dict[str, Path]], case_id: str, name: str, path: Path) -> None:
        other = table.setdefault(case_id, {}).setdefault(name, path)
        if other != path:
            raise DataError(
                f"Two files claim to be '{name}' of the case '{case_id}'.",
                where=f"{_relative(other, self.root)} and {_relative(path, self.root)}",
                remedy="Keep one of them in the data set, or name the files with a narrower pattern.",
            )

    def manifest(
        self,
        source: str,
        channels: Mapping[str, Modality],
        subjects: Mapping[str, str],
        *,
        labels: Mapping[str, dict[int, str]],
        sessions: Mapping[str, str] | None = None,
        covariates: Mapping[str, dict[str, str | float | None]] | None = None,
    ) -> Manifest:
        """Hash all files and put the manifest together, cases ordered by id.

        channels: declared names in order, with their modality. subjects, sessions, covariates: by case id.
        Raises DataError for a data set without images and for label maps without an image.
        """
        if not self.images:
            raise DataError(
                "The data set holds no images.", where=self.root, remedy=f"It needs {' or '.join(ENDINGS)} files."
            )
        orphans = sorted(self.targets.keys() - self.images.keys())
        if orphans:
            first = next(iter(self.targets[orphans[0]].values()))
            raise DataError(
                f"{len(orphans)} of {len(self.targets)} label maps have no image, first '{orphans[0]}'.",
                where=_relative(first, self.root),
                remedy="Give each label map its image, under the same case name, or remove it.",
            )
        wanted: dict[tuple[str, str, str], tuple[Path, ImageKind, Modality]] = {}
        for case_id, images in self.images.items():
            wanted |= {(case_id, "image", name): (path, "intensity", channels[name]) for name, path in images.items()}
            targets = self.targets.get(case_id, {})
            wanted |= {(case_id, "target", name): (path, "labels", "unknown") for name, path in targets.items()}
        refs = image_refs(self.root, wanted)
        cases = tuple(
            Case(
                id=case_id,
                subject=subjects[case_id],
                session=(sessions or {}).get(case_id),
                images={name: refs[case_id, "image", name] for name in channels if name in self.images[case_id]},
                targets={name: refs[case_id, "target", name] for name in sorted(self.targets.get(case_id, {}))},
                covariates=(covariates or {}).get(case_id, {}),
            )
            for case_id in sorted(self.images)
        )
        return Manifest(source=source, root=self.root, channels=tuple(channels), labels=dict(labels), cases=cases)


def image_refs(root: Path, wanted: Mapping[K, tuple[Path, ImageKind, Modality]]) -> dict[K, ImageRef]:
    """A reference to each file beneath ``root``, its contents hashed (SHA-256 over the file's bytes) in threads."""
    digests = _sha256s(root, {path for path, _, _ in wanted.values()})
    return {
        key: ImageRef(files=(_relative(path, root),), sha256=digests[path], kind=kind, modality=modality)
        for key, (path, kind, modality) in wanted.items()
    }


def _sha256s(root: Path, paths: Iterable[Path]) -> dict[Path, str]:
    digests: dict[Path, str] = {}
    for path, digest in sha256_of_files(paths).items():
        if isinstance(digest, OSError):
            text = f"A file of the data set cannot be read: {digest.strerror}."
            remedy = "Check its permissions, or fetch it if it is a link to content that was never downloaded."
            raise DataError(text, where=_relative(path, root), remedy=remedy) from digest
        digests[path] = digest
    return digests


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
