"""``medae predict``: trained models on new scans, results in each scan's own space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from medae.artifact import load_artifact
from medae.config import Config, apply_overrides, digest, read_yaml, to_dict, validate
from medae.data.brain_masks import DOUBTFUL, MaskFile, masks_in
from medae.errors import ConfigError, DataError
from medae.export.at_work import AtWork, Given, Made, put_to_work
from medae.formats.endings import stem
from medae.inference.brainmask import extraction_of
from medae.plan import SpacePlan
from medae.preprocessing.brain import BrainExtraction
from medae.preprocessing.prepare import Change, Prepared, brain_mask_of
from medae.report.view import Backdrop
from medae.tracking.models import resolve_model
from pipelines.console import Screen, shown
from pipelines.data import DIGITS
from pipelines.files import source_digest, write_text
from pipelines.inputs import PLAIN, Inputs, Scan, find_inputs
from pipelines.networks import device_of
from pipelines.predict_output import WRITERS, Form, Writer
from pipelines.predict_report import Pictures, make_report, rank_of
from pipelines.work import Work, work_through

OF_FILES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm")
"""Endings that no folder of results should have."""

SEEN = "The model was trained with this scan, so the result says nothing about new ones."


class Options(Config):
    """Choices of a prediction. format: layout of the input. data: further keys of that layout, such as the channels of a
    DICOM tree. flips: average over mirror images, even if the model's own recipe does not. brain_mask: of a plain file,
    or a folder with those of plain files, for a model whose foreground is the brain; a file of the mask's name with
    ``_doubtful`` after it says where it is not sure; a data set's masks are among its targets. to: the form of the results.
    models: further segmenters, whose probabilities are averaged with the first's.
    codes: what segments are in DICOM, by label name, before the shipped table.
    anyway: predict scans that are refused because they are unlike the training scans. workers: threads that read scans
    while others are predicted. force: take the place of other results.
    """

    format: str = "auto"
    data: dict[str, Any] = Field(default_factory=dict)
    flips: bool = False
    brain_mask: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    to: Form = "nifti"
    models: tuple[str, ...] = ()
    codes: dict[str, Any] = Field(default_factory=dict)
    anyway: bool = False
    workers: int = Field(default=1, ge=1)
    force: bool = False


def run(
    model: str, source: Path, output: Path, options: Mapping[str, Any], overrides: Sequence[str] = (), as_json: bool = False
) -> dict[str, Any]:
    """Predict every scan that is not done yet. A scan that fails is listed at the end, and the others are done."""
    screen = Screen(as_json)
    choice = validate(Options, apply_overrides(options, overrides), where="--set")
    if choice.brain_mask is not None and not choice.brain_mask.exists():
        raise DataError("The brain mask does not exist.", where=choice.brain_mask, remedy="Check the path of --brain-mask.")
    addresses = [model, *choice.models]
    artifacts = [load_artifact(resolve_model(address)) for address in addresses]
    models = put_to_work(artifacts, addresses, device_of(choice.device), choice.flips)
    space = artifacts[0].meta.plan.space
    inputs = find_inputs(source, output, screen, choice.format, choice.data, space.channels)
    if not inputs.is_data_set and len(space.channels) != 1 and any(set(scan.files) == {PLAIN} for scan in inputs.scans):
        raise DataError(
            f"The model takes the channels {', '.join(space.channels)}; plain files have one.",
            where=source,
            remedy="Name the files NAME_0000, NAME_0001 and so on in this order, or lay the scans out as a data set.",
        )
    mask_of = _mask_of(inputs, space, choice.brain_mask)
    if not inputs.single and output.name.endswith(OF_FILES) and not output.is_dir():
        raise ConfigError(
            "The output is a folder, and its name is that of a file.",
            where=shown(output),
            remedy="Give a folder; of a single image also a name that ends in .nii.gz.",
        )
    if inputs.single and choice.to != "nifti":
        raise ConfigError("A single file is written as NIfTI.", where="--to", remedy="Give a folder for the results.")
    writer = WRITERS[choice.to](output, inputs.single, artifacts, choice.codes)
    work = _Predicting(models, choice, writer, mask_of)
    result = {
        "stage": "predict",
        "metrics": {},
        "kind": artifacts[0].meta.kind,
        "models": [each.digest for each in artifacts],
        "form": choice.to,
    }
    return work_through(inputs, output, screen, "Predicting", work, result, force=choice.force, readers=choice.workers)


def read_codes(path: Path) -> dict[str, Any]:
    """A user's table of codes: label name -> what it is. Raises ConfigError for what is none."""
    from medae.export.dicom.codes import SegmentCode  # which takes seconds to import

    return {name: to_dict(validate(SegmentCode, code, where=f"{path}: {name}")) for name, code in read_yaml(path).items()}


def _mask_of(inputs: Inputs, space: SpacePlan, brain_mask: Path | None) -> Callable[[Scan], MaskFile | None]:
    """The brain mask that a user gives for a scan. Raises ConfigError where one cannot have an effect, or is not enough."""
    if brain_mask is None:
        return lambda scan: None
    if space.foreground != "brain":
        raise ConfigError(
            f"The model's foreground is '{space.foreground}', so a brain mask has no effect.",
            where="--brain-mask",
            remedy="Leave it out.",
        )
    if inputs.is_data_set:
        raise ConfigError(
            "A data set's masks are among its targets, so a brain mask beside it has no effect.",
            where="--brain-mask",
            remedy="Leave it out, and keep the masks in the data set, or give the folder of images itself.",
        )
    if brain_mask.is_dir():
        return _mask_in(brain_mask)
    if len(inputs.scans) > 1:
        raise ConfigError(
            f"One brain mask is given for {len(inputs.scans)} scans.",
            where="--brain-mask",
            remedy="Give the folder of the masks, each with the name of its scan.",
        )
    given = MaskFile.of(brain_mask)
    return lambda scan: given


def _mask_in(folder: Path) -> Callable[[Scan], MaskFile]:
    """The mask of a scan in a folder: it has the name of the scan, or of one of its files, and any image's ending. Of a scan
    without one it is a file that is not there, which is an error of that scan once it is read."""
    files = masks_in(folder)

    def found(scan: Scan) -> MaskFile:
        names = [scan.name, *(stem(path) for path in scan.files.values())]
        mask = next((files[name] for name in names if name in files), None)
        if mask is None:
            return MaskFile(folder / f"{scan.name}.nii.gz")
        return MaskFile(mask, files.get(f"{stem(mask)}{DOUBTFUL}"))

    return found


@dataclass(frozen=True)
class Held:
    """What goes with a scan from step to step. backdrop: to be drawn."""

    given: Given
    backdrop: Backdrop


class _Predicting(Work[Held, tuple[Made, Backdrop]]):
    """Reads scans for models at work, and writes what they make of them. page: where the report goes."""

    def __init__(self, models: AtWork, choice: Options, writer: Writer, mask_of: Callable[[Scan], MaskFile | None]) -> None:
        self.models, self.choice, self.writer, self.mask_of = models, choice, writer, mask_of
        name = f"{stem(writer.output)}_" if writer.single else ""
        self.page: Path = writer.folder / f"{name}report.html"
        self.pictures = Pictures(writer.folder / f".{name}views")
        how = {key: value for key, value in to_dict(choice).items() if key in ("data", "flips", "to", "codes")}
        brains = [brain.name for each in models.artifacts if (brain := extraction_of(each.meta.plan.space)) is not None]
        how |= {"models": [each.digest for each in models.artifacts], "brains": brains, "program": source_digest()}
        self.key = digest(how)[:16]

    def files_of(self, scan: Scan) -> list[Path]:
        """Those of all layers, and the list of findings of a detector."""
        return self.writer.files(scan, self.models.layers)

    def beside(self) -> list[Path]:
        """The report, and what the form has for the folder."""
        return [self.page, *([] if self.writer.single else self.writer.beside())]

    def finish(self, cases: Mapping[str, Any], failed: Mapping[str, str]) -> None:
        """What a folder of results has beside them, and the report."""
        if not self.writer.single:
            self.writer.finish()
        self.pictures.keep(cases)
        make_report(self.models.artifacts, cases, failed, self.pictures).write(self.page)

    def input_of(self, scan: Scan) -> str:
        """The images, and the brain mask that is given with the scan or beside it, with what is doubtful of it."""
        mask = self.mask_of(scan)
        files = [path for path in (mask.mask, mask.doubtful) if path is not None and path.is_file()] if mask else []
        masks = [Scan("mask", files={PLAIN: file}).digests()[PLAIN] for file in files]
        if scan.case is not None:
            given = [brain_mask_of(scan.case, artifact.meta.plan.space) for artifact in self.models.artifacts]
            masks += [ref.identity() for ref in given if ref is not None]
        return digest({"images": super().input_of(scan), "masks": masks})[:16]

    def read(self, scan: Scan) -> Held:
        """Prepare the scan. Raises DataError if it is not of the kind that the models are for."""
        self.writer.check(scan)
        mask, drawn = self.mask_of(scan), list[Backdrop]()

        def prepare(space: SpacePlan, brain: BrainExtraction | None, look: Change) -> Prepared:
            def looked(raw: Tensor, inside: Tensor, affine: np.ndarray) -> Tensor:
                drawn.append(Backdrop.of(raw[0].numpy(), affine))
                return look(raw, inside, affine)

            return scan.prepare(space, brain, mask, looked)

        given = self.models.take(prepare, scan.modality(self.writer.channels), scan.name, self.choice.anyway)
        digests = {each[:DIGITS] for each in scan.digests().values()}
        seen = any(digests & set(artifact.meta.seen) for artifact in self.models.artifacts)
        return Held(Given(given.prepared, [*given.remarks, *([SEEN] if seen else [])]), drawn[0])

    def make(self, scan: Scan, held: Held) -> tuple[Made, Backdrop]:
        """Predict."""
        return self.models.apply(held.given, scan.name), held.backdrop

    def write(self, scan: Scan, result: tuple[Made, Backdrop]) -> dict[str, Any]:
        """Write all layers and draw them; returns what the summary says of the scan."""
        made, backdrop = result
        files, said = self.writer.write(scan, made.prepared.native, made.layers)
        if made.findings is not None:
            files.append(self.writer.path(scan, "findings", ".csv"))
            write_text(files[-1], made.findings.replace(",", "\t") if files[-1].suffix == ".tsv" else made.findings)
        names = [file.relative_to(self.writer.folder).as_posix() for file in files]
        case = {**made.said, "remarks": made.remarks, "notes": said, "files": names}
        self.pictures.add(scan.name, rank_of(case), backdrop, made.prepared.native, made.layers)
        return case
