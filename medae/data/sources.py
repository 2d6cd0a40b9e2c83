"""Open a data set in any layout that is known, recognising the layout by itself, as a manifest of cases."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from medae.config import validate
from medae.data.bids import BIDSSource
from medae.data.brain_masks import with_brain_masks
from medae.data.case import Case, Manifest
from medae.data.dicom import DICOMSource
from medae.data.dicom_scan import holds_dicom
from medae.data.files import FileSource, read_json, relative
from medae.data.finding import Finding
from medae.data.folder import FolderSource, guess_patterns
from medae.data.manifest_file import ManifestSource, Record, frozen
from medae.data.msd import MSDSource, listed_files
from medae.data.nnunet import CHANNEL_NUMBER, NNUNetSource
from medae.data.passed_over import hint
from medae.data.phantom import PhantomSource
from medae.data.pseudonyms import SALT_VARIABLE
from medae.data.rendered import RenderedSource
from medae.data.roots import resolve_root
from medae.data.structures import with_structures
from medae.data.table import TableSource, is_table
from medae.errors import ConfigError, DataError
from medae.formats.endings import image_files, stem

__all__ = [
    "AutoSource",
    "ConcreteSource",
    "ManifestSource",
    "SourceConfig",
    "detect_format",
    "hash_ids",
    "open_manifest",
    "recognise",
    "resolve_root",
]

CaseIds = Literal["given", "hashed"]
PHANTOM_FILE = "phantom.json"
LOOKED_FOR = (
    "dataset.json beside imagesTr (Medical Segmentation Decathlon, nnU-Net raw)",
    "sub-*/anat/*.nii.gz or sub-*/ses-*/anat/*.nii.gz (BIDS)",
    "a folder of images, with or without one of label maps (image/ and mask/)",
    "image files in the folder itself (*_T1w.nii.gz and *_dseg.nii.gz)",
    "a table of cases, named itself (cases.csv)",
    f"{PHANTOM_FILE} (phantoms)",
    "DICOM files, at any depth and by any name",
)


class AutoSource(FileSource):
    """A data set whose layout is recognised. subject: as in the layouts that have it (MSD, nnU-Net, plain folders)."""

    format: Literal["auto"] = "auto"
    subject: re.Pattern[str] | None = None


ConcreteSource = (
    MSDSource | NNUNetSource | BIDSSource | FolderSource | TableSource | PhantomSource | RenderedSource | DICOMSource
)
CONCRETE: dict[str, type[ConcreteSource]] = {
    "msd": MSDSource,
    "nnunet": NNUNetSource,
    "bids": BIDSSource,
    "folder": FolderSource,
    "table": TableSource,
    "phantom": PhantomSource,
    "rendered": RenderedSource,
    "dicom": DICOMSource,
}


def source_format(source: Any) -> str | None:
    """The layout that a configuration names, ``auto`` if it names none."""
    return source.get("format", "auto") if isinstance(source, Mapping) else getattr(source, "format", None)


SourceConfig = Annotated[
    Annotated[MSDSource, Tag("msd")]
    | Annotated[NNUNetSource, Tag("nnunet")]
    | Annotated[BIDSSource, Tag("bids")]
    | Annotated[FolderSource, Tag("folder")]
    | Annotated[TableSource, Tag("table")]
    | Annotated[ManifestSource, Tag("manifest")]
    | Annotated[PhantomSource, Tag("phantom")]
    | Annotated[RenderedSource, Tag("rendered")]
    | Annotated[DICOMSource, Tag("dicom")]
    | Annotated[AutoSource, Tag("auto")],
    Discriminator(source_format),
]


def write_manifest(manifest: Manifest, source: ConcreteSource | AutoSource, path: Path, case_ids: CaseIds = "given") -> None:
    """Write what was opened to a file, as `open_manifest` gave it, for a source of ``format: manifest``."""
    source = recognise(source) if isinstance(source, AutoSource) else source
    keys = source.model_dump(mode="json", exclude={"root"}, exclude_none=True)
    if isinstance(source, TableSource):
        table = source.places()[1]
        keys["table"] = relative(table, manifest.root) if table.is_relative_to(manifest.root) else table.name
    is_hashed = case_ids == "hashed" or (isinstance(source, FolderSource) and source.ids == "hashed")
    Record.of(manifest, keys, case_ids, None if is_hashed else manifest.root.name).write(path)


def open_manifest(source: ConcreteSource | AutoSource | ManifestSource, case_ids: CaseIds = "given") -> Manifest:
    """Open a data set.

    case_ids: ``given`` keeps the ids of BIDS, MSD, nnU-Net, tables and phantoms and the pseudonyms of DICOM, and hashes file
    names of plain folders, unless their source says ``ids: names``; ``hashed`` hashes all. A manifest file keeps the ids
    that it was written with. Raises DataError if the data set cannot be opened, or an id that is kept is a path, and
    ConfigError if ``hashed`` is asked for of a manifest file with given ids.
    """
    if isinstance(source, ManifestSource):
        record = source.record()
        if case_ids == "hashed" and record.case_ids == "given":
            raise ConfigError(
                "Hashed ids are asked for, but the manifest file was written with given ones.",
                where="case_ids",
                remedy="Check the data set again with --case-ids hashed, and use the manifest file that this writes.",
            )
        content = {**record.source, "root": source.root}
        model = CONCRETE.get(str(content.get("format")))
        if model is None:
            raise DataError(
                f"The manifest file names the unknown layout '{content.get('format')}'.",
                where=source.file,
                remedy="Write it again with medae check.",
            )
        concrete: ConcreteSource = validate(model, content, source.file)
        return frozen(record, open_manifest(concrete, record.case_ids))
    if isinstance(source, AutoSource):
        source = recognise(source)
    manifest = source.manifest()
    if isinstance(source, FileSource) and source.structures:
        manifest = with_structures(manifest, source.structures)
    if isinstance(source, FileSource) and source.brain_masks is not None:
        hashed = {_contents(case): case.id for case in hash_ids(manifest).cases}
        aliases = {case.id: hashed[_contents(case)] for case in manifest.cases}
        manifest = with_brain_masks(manifest, source.brain_masks, aliases)
    if case_ids == "hashed" or (isinstance(source, FolderSource) and source.ids == "hashed"):
        return hash_ids(manifest)
    _refuse_paths(manifest)
    return manifest


def _refuse_paths(manifest: Manifest) -> None:
    """Raises DataError for an id that cannot be the name of a file: results are named after their case, and such an id would
    lead out of their folder, perhaps to the scan itself."""
    for case in manifest.cases:
        if not case.id or case.id.startswith(".") or set(case.id) & set("/\\\0"):
            raise DataError(
                f"The id '{case.id}' cannot be the name of a file, and results are named after their case.",
                where=case.subject,
                remedy="Give ids without / and \\ that do not begin with a dot; check, plan and trainings can also "
                "hash them (case_ids: hashed).",
            )


def _contents(case: Case) -> str:
    """What the case's images hold, which no hashing of names changes."""
    return " ".join(sorted(f"{ref.files} {ref.identity()}" for ref in case.images.values()))


def recognise(source: AutoSource) -> ConcreteSource:
    """The source for the layout that is found under ``source.root``."""
    layout = detect_format(source.root)
    model = CONCRETE[layout]
    for key in ("structures", "brain_masks") if model is PhantomSource else ():
        if getattr(source, key) is not None:
            raise ConfigError(
                "Phantoms are whole as they are made: brains, with a few tissues.", where=key, remedy="Remove it."
            )
    if model is PhantomSource:
        root = resolve_root(source.root)
        return validate(PhantomSource, {**read_json(root / PHANTOM_FILE, root), "root": source.root}, PHANTOM_FILE)
    content = source.model_dump(exclude={"format"}, exclude_none=True)
    if model is TableSource:
        content |= {"root": source.root.parent, "table": source.root.name}
    if source.subject is not None and "subject" not in model.model_fields:
        raise ConfigError(
            f"A data set of the layout '{layout}' states its subjects; a subject pattern has no use.",
            where="subject",
            remedy="Remove it.",
        )
    return validate(model, content)


def detect_format(root: Path) -> str:
    """The layout of the data set in a folder, by its name; ``table`` for a table of cases.

    Plain folders are what is left when no other layout is there, DICOM when there are no plain folders either. Raises
    DataError if there is none, or two.
    """
    if is_table(root):
        return "table"
    root = resolve_root(root)
    if (root / PHANTOM_FILE).is_file():
        return "phantom"
    has_images = any((root / name).is_dir() for name in ("imagesTr", "imagesTs"))
    found: dict[str, str] = {}
    if (root / "dataset.json").is_file() and (has_images or "dataset" in read_json(root / "dataset.json", root)):
        found[_decathlon_or_nnunet(root)] = "dataset.json"
    if any(path.name.endswith((".nii", ".nii.gz")) for path in root.glob("sub-*/**/*.nii*")):
        found["bids"] = "sub-*"
    if len(found) > 1:
        layouts = " and ".join(f"{layout} ({evidence})" for layout, evidence in found.items())
        raise DataError(f"Two layouts are recognised: {layouts}.", where=root, remedy="Choose one with 'format'.")
    if found:
        return next(iter(found))
    if has_images:
        raise DataError(
            "There is imagesTr or imagesTs, but no dataset.json beside it.",
            where=root,
            remedy="Add the dataset.json of the Decathlon or nnU-Net, or use 'format: folder' and name the folders.",
        )
    if guess_patterns(root, "label") is not None:
        return "folder"
    if holds_dicom(root):
        return "dicom"
    looked_for = "".join(f"\n    {line}" for line in LOOKED_FOR)
    raise DataError(f"No data set is recognised. Looked for:{looked_for}", where=root, remedy=_hint(root))


def _decathlon_or_nnunet(root: Path) -> str:
    """Both have ``dataset.json`` and ``imagesTr``; nnU-Net ends image names, not label names, in a channel number."""
    content = read_json(root / "dataset.json", root)
    if any(key in content for key in ("channel_names", "file_ending", "dataset")):
        return "nnunet"
    images = {stem(path) for part in ("Tr", "Ts") for path in image_files(root / f"images{part}")}
    labels = {stem(path) for path in image_files(root / "labelsTr")}
    listed = any(isinstance(image, str) and (root / image).exists() for image, _ in listed_files(content))
    numbered = bool(images) and all(CHANNEL_NUMBER.fullmatch(name) for name in images)
    return "nnunet" if numbered and not listed and not images & labels else "msd"


def _hint(root: Path) -> str:
    inside = sorted(path.parent.name for name in ("dataset.json", "participants.tsv") for path in root.glob(f"*/{name}"))
    if inside:
        return f"Did you mean a folder inside it ({', '.join(inside)})?"
    return hint(root) or "Use 'format: folder' with image_pattern to say which files are images."


def hash_ids(manifest: Manifest) -> Manifest:
    """The manifest with hashes for the ids of cases, subjects and sessions, in its findings too.

    The key is the secret in MEDAE_CASE_SALT. Without one it is the contents of the case's (for a subject: of one of the
    subject's) images: whoever does not have them cannot find the name behind a hash by trying names, and the ids are
    the same wherever the data set lies, but may change when images change or a subject gets more of them. Of a case that
    was left out it is the contents of all others. A salt in the configuration would be logged beside the hashes that it
    protects; therefore there is none.
    """
    secret = os.environ.get(SALT_VARIABLE)
    own = {case.id: min(ref.sha256 for ref in case.images.values()) for case in manifest.cases}
    of_subject: dict[str, str] = {}
    for case in manifest.cases:
        of_subject[case.subject] = min(own[case.id], of_subject.get(case.subject, own[case.id]))

    def name(kind: str, text: str, contents: str) -> str:
        message = f"{kind}\x1f{text}".encode()
        return f"{kind}-{hmac.new((secret or contents).encode(), message, hashlib.sha256).hexdigest()[:12]}"

    def hashed(case: Case) -> Case:
        session = None if case.session is None else name("session", case.session, of_subject[case.subject])
        subject = name("subject", case.subject, of_subject[case.subject])
        ids = {"id": name("case", case.id, own[case.id]), "subject": subject, "session": session}
        return case.model_copy(update=ids | {"split_key": case.split_key or case.subject})

    everything = hashlib.sha256("".join(sorted(own.values())).encode()).hexdigest()

    def hidden(finding: Finding) -> Finding:
        return replace(finding, case=finding.case and name("case", finding.case, own.get(finding.case, everything)))

    cases = sorted((hashed(case) for case in manifest.cases), key=lambda case: case.id)
    return manifest.model_copy(update={"cases": tuple(cases), "findings": tuple(map(hidden, manifest.findings))})
