"""``medae predict``: a trained model on new scans, results in each scan's own space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medae.anomaly.detector import Scoring, load_map, scan_maps
from medae.anomaly.scan import Scan
from medae.artifact import Artifact, load_artifact
from medae.config import Config, apply_overrides, validate
from medae.data.case import Case, Manifest
from medae.data.sources import detect_format
from medae.errors import ArtifactError, ConfigError, DataError, MedaeError
from medae.export.nifti import write_native
from medae.formats.endings import NIFTI, image_files, stem
from medae.preprocessing.prepare import Prepared, prepare_case, prepare_files
from medae.tracking.models import resolve_model
from medae.tracking.privacy import public
from pipelines.console import Screen, shown
from pipelines.data import open_folder
from pipelines.detect_scoring import write_maps
from pipelines.files import write_json
from pipelines.networks import device_of
from pipelines.segmenting import segment

Named = tuple[str, Callable[[], Prepared]]


class Options(Config):
    """Choices of a prediction. format: layout of the input. data: further keys of that layout, such as the channels of a
    DICOM tree. flips: average over mirror images, even if the model's own recipe does not. brain_mask: of a plain file,
    or a folder with those of plain files, for a model whose foreground is the brain; a data set's masks are among its
    targets.
    """

    format: str = "auto"
    data: dict[str, Any] = Field(default_factory=dict)
    flips: bool = False
    brain_mask: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


def run(
    model: str, source: Path, output: Path, options: Mapping[str, Any], overrides: Sequence[str] = (), as_json: bool = False
) -> dict[str, Any]:
    """Predict every scan. A scan that fails is listed at the end, and the others are done."""
    screen = Screen(as_json)
    choice = validate(Options, apply_overrides(options, overrides), where="--set")
    artifact = load_artifact(resolve_model(model))
    if artifact.meta.kind == "autoencoder":
        raise ArtifactError(
            "A pretrained autoencoder segments nothing.",
            where=model,
            remedy="Fine-tune it (medae finetune), or score anomalies with it (medae detect --model).",
        )
    is_data_set = choice.format != "auto" or bool(choice.data) or _is_data_set(source)
    single = source.is_file() and not is_data_set and output.name.endswith(NIFTI)
    _refuse_overwriting(source.resolve(), output.resolve())
    scans, failed = _scans(source, artifact, choice, is_data_set, output.resolve(), screen)
    tool = _Segmenter if artifact.meta.kind == "segmenter" else _Detector
    work = tool(artifact, choice.flips, choice.device)
    if not single:
        output.mkdir(parents=True, exist_ok=True)
    cases: dict[str, Any] = {}
    total = len(scans) + len(failed)
    with screen.progress("Predicting") as report:
        for done, (name, load) in enumerate(scans, start=len(failed) + 1):
            try:
                cases[name] = work(load(), output if single else output / f"{name}.nii.gz")
            except MedaeError as error:
                failed[name] = str(public(str(error)))
            report(done, total)
    result = {"stage": "predict", "metrics": {}, "kind": artifact.meta.kind, "cases": cases, "failed": failed}
    # beside a single file may lie others' results
    write_json(output.with_name(f"{stem(output)}_result.json") if single else output / "result.json", result)
    screen.say(f"{len(cases)} of {total} scans done, in {shown(output.parent if single else output)}")
    screen.json(result)
    if failed:
        rows = "\n".join(f"    {name}: {reason}" for name, reason in failed.items())
        raise DataError(f"{len(failed)} of {total} scans failed:\n{rows}", remedy="The others are done; mend these.")
    return result


def _scans(
    source: Path, artifact: Artifact, choice: Options, is_data_set: bool, output: Path, screen: Screen
) -> tuple[list[Named], dict[str, str]]:
    """The scans of an input by name: one file, a data set of a known layout, or a folder of images.

    Also why the data set's own checks refused others, by case. output: where results go, which is no folder of scans.
    """
    space = artifact.meta.plan.space
    if not source.exists():
        raise DataError("The input does not exist.", where=source, remedy="Check the path.")
    brain_mask = choice.brain_mask
    if brain_mask is not None and space.foreground != "brain":
        raise ConfigError(
            f"The model's foreground is '{space.foreground}', so a brain mask has no effect.",
            where="--brain-mask",
            remedy="Leave it out.",
        )
    if is_data_set:
        if brain_mask is not None:
            raise ConfigError(
                "A data set's masks are among its targets, so a brain mask beside it has no effect.",
                where="--brain-mask",
                remedy="Leave it out, and keep the masks in the data set, or give the folder of images itself.",
            )
        manifest = open_folder(source, choice.format, choice.data)
        if any(path.resolve().parent == output for case in manifest.cases for path in _files(manifest, case)):
            raise _among_the_scans(output)
        for (problem, remedy), count in Counter((each.problem, each.remedy) for each in manifest.findings).items():
            screen.warn(f"{problem} ({count} x; medae check names them). {remedy}")
        return [(case.id, partial(prepare_case, manifest, case, space)) for case in manifest.cases], _refused(manifest)
    if source.is_dir():
        files = image_files(source)
        if not files:
            raise DataError("There is no image in the folder.", where=source, remedy="Give a folder of NIfTI files.")
    else:
        files = [source]
    if len(space.channels) != 1:
        raise DataError(
            f"The model takes the channels {', '.join(space.channels)}; plain files have one.",
            where=source,
            remedy="Lay the scans out as a data set (nnU-Net raw or BIDS) and give its folder.",
        )
    if len(files) > 1 and brain_mask is not None and not brain_mask.is_dir():
        raise ConfigError(
            f"One brain mask is given for {len(files)} scans.",
            where="--brain-mask",
            remedy="Give the folder of the masks, each with the name of its scan.",
        )
    channel = space.channels[0]

    def mask_of(file: Path) -> Path | None:
        return brain_mask / file.name if brain_mask is not None and brain_mask.is_dir() else brain_mask

    return [(stem(file), partial(prepare_files, {channel: [file]}, space, stem(file), mask_of(file))) for file in files], {}


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
    if output == source or (output.is_dir() and output == scans) or (source.is_dir() and output.is_relative_to(source)):
        raise _among_the_scans(output)


def _among_the_scans(output: Path) -> DataError:
    return DataError(
        "The output would be written among the scans.", where=output.name, remedy="Choose a folder apart from the input."
    )


def _is_data_set(source: Path) -> bool:
    """Whether it is a table of cases, or a folder of a layout with more to it than images."""
    try:
        return detect_format(source.expanduser().absolute()) != "folder"
    except DataError:
        return False


class _Segmenter:
    """Writes the label map; returns the volume of each label."""

    def __init__(self, artifact: Artifact, flips: bool, device: str) -> None:
        self.meta, self.device = artifact.meta, device_of(device)
        known = artifact.meta.provenance
        self.mirrored = known.get("mirrored", ()) if flips or known.get("flips") else ()
        if flips and not self.mirrored:
            raise ConfigError(
                "The model was shown no mirror images when it was trained, and would answer wrongly to them.",
                where="--flips",
                remedy="Leave it out, or fine-tune with augmentation.flip.",
            )
        self.model = artifact.model().to(self.device)

    def __call__(self, prepared: Prepared, path: Path) -> dict[str, Any]:
        labels = segment(self.model, prepared, self.meta.plan, self.device, self.mirrored)
        write_native(labels, prepared.native, path, labels=True)
        voxel_ml = float(abs(np.linalg.det(prepared.native.matrix()[:3, :3]))) / 1000.0
        names = {value: name for value, name in self.meta.labels.items() if value}
        return {"volume_ml": {name: int(np.count_nonzero(labels == value)) * voxel_ml for value, name in names.items()}}


class _Detector:
    """Writes heat map, flagged mask and the mask that was scored; returns the scan's score."""

    def __init__(self, artifact: Artifact, flips: bool, device: str) -> None:
        calibration = dict(artifact.meta.calibration or {})
        self.scoring = validate(Scoring, calibration.get("scoring", {}), where=artifact.folder)
        self.flips = flips or self.scoring.flips
        self.threshold = float(calibration["threshold"])
        self.plan, self.device = artifact.meta.plan, device_of(device)
        self.model = artifact.model().to(self.device)
        self.map = load_map(self.scoring, len(self.plan.space.channels), artifact.statistics())

    def __call__(self, prepared: Prepared, path: Path) -> dict[str, Any]:
        maps = scan_maps(Scan(prepared, self.plan, self.model, self.device, flips=self.flips), self.map, self.scoring)
        flagged = maps.flagged(self.threshold, self.scoring)
        write_maps(maps, flagged, prepared, path.with_name(stem(path)))
        return {
            "score": maps.score(self.scoring),
            "threshold": self.threshold,
            "flagged_ml": int(flagged.sum()) * maps.voxel_ml,
            "flagged_share": float(flagged.sum() / maps.mask.sum()),
        }
