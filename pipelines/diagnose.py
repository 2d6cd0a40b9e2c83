"""``medae diagnose``: what a detector can and cannot see, by lesions that are put into normal scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from medae.anomaly.detector import DETECTOR, Rows, Scoring, load_map
from medae.anomaly.diagnosis import DiagnosisConfig
from medae.anomaly.maps.base import AnomalyMap
from medae.anomaly.maps.intensity import IntensityMap
from medae.anomaly.maps.registry import learns
from medae.artifact import load_artifact
from medae.config import Config, apply_overrides, validate
from medae.data.case import Manifest
from medae.errors import ArtifactError, DataError
from medae.inference.brainmask import extraction_of
from medae.preprocessing.prepare import prepare_case
from medae.report.html import Report
from medae.tracking.models import resolve_model
from pipelines.console import Screen, shown
from pipelines.data import checked, open_folder, seen_cases
from pipelines.detect_diagnosis import describe, diagnosed, facts, run_diagnosis
from pipelines.detect_given import describe_unlike, unlike
from pipelines.detect_titles import title_of
from pipelines.files import write_json
from pipelines.networks import device_of


class Options(Config):
    """format, data: layout of the normal scans, and further keys of it. target: their label map of lesions, if there is one:
    scans with a lesion are left out. diagnosis: which lesions are put in.
    """

    format: str = "auto"
    data: dict[str, Any] = Field(default_factory=dict)
    target: str | None = None
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"


def run(
    model: str, source: Path, out: Path, options: Mapping[str, Any], overrides: Sequence[str] = (), as_json: bool = False
) -> dict[str, Any]:
    """Diagnose a detector on scans that it has not seen, beside the baselines that learn nothing or that are in its map."""
    screen = Screen(as_json)
    choice = validate(Options, apply_overrides(options, overrides), where="--set")
    artifact = load_artifact(resolve_model(model))
    if artifact.meta.kind != "detector":
        raise ArtifactError(
            f"This model is a {artifact.meta.kind}; a detector is diagnosed.",
            where=model,
            remedy="Make one with medae detect (--model takes a trained autoencoder).",
        )
    scoring = validate(Scoring, (artifact.meta.calibration or {}).get("scoring", {}), where=artifact.folder)
    device = device_of(choice.device)
    plan = artifact.meta.plan
    maps = maps_of(scoring, len(plan.space.channels), artifact.statistics())
    left_out = [title_of(row) for row in scoring.rows() if row not in maps]
    rows = Rows(maps, scoring, artifact.model().to(device), plan, device, artifact.meta.provenance.get("mirrored", ()))

    opened = _by_channel(open_folder(source, choice.format, choice.data), plan.space.channels)
    manifest = checked(opened, source, screen).usable
    seen = seen_cases(manifest, artifact)
    if seen:
        screen.note(f"{len(seen)} of {len(manifest.cases)} scans are left out: the detector has seen them.")
    unseen = manifest.select(lambda case: case.id not in seen)
    if not unseen.cases:
        raise DataError(
            "The detector has seen all of these scans.", where=source, remedy="Give normal scans that are new to it."
        )
    examined = diagnosed(unseen, choice.target, "lesion_free_scans")
    brain = extraction_of(plan.space)
    remarks = unlike(examined, artifact, lambda case: prepare_case(examined, case, plan.space, brain=brain), screen)
    found = run_diagnosis(examined, rows, choice.diagnosis, None, screen)

    said = {"diagnosis": facts(found)} | ({"remarks": remarks} if remarks else {})
    result = {"stage": "diagnose", "metrics": {}, "facts": said}
    page = Report("Diagnosis", "Lesions put into normal scans, and what is found of them")
    if left_out:
        names = ", ".join(left_out)
        note = f"Left out here: {names}. The model does not hold what they learn from normal scans; medae detect has them."
        page.note(note)
        screen.note(note)
    describe(page, out / "diagnosis.png", found, choice.diagnosis)
    describe_unlike(page, remarks)
    page.write(out / "report.html")
    write_json(out / "result.json", result)
    contrasts = sorted({cell.contrast for cell in found.lesions})
    screen.table(
        "Average precision, mean over sizes and edges",
        ["", *(f"{contrast:+g}" for contrast in contrasts)],
        [[title_of(row), *(found.mean(row, contrast) for contrast in contrasts)] for row in found.tallies],
    )
    screen.say(f"Report: {shown(out / 'report.html')}")
    screen.json(result)
    return result


def maps_of(scoring: Scoring, channels: int, statistics: Mapping[str, Tensor]) -> dict[str, AnomalyMap]:
    """The detector's map, and of the other rows those that learn nothing from normal scans or that are a part of the
    detector's map, as the voxel-wise baseline may be of a sum. statistics: what the detector's map has learnt."""
    found = {DETECTOR: load_map(scoring, channels, statistics)}
    learnt = [part for part in found[DETECTOR].modules() if isinstance(part, IntensityMap)]
    rows, plain = scoring.rows(), scoring.model_copy(update={"rarity": "none"}).build(channels)
    for row, each in plain.items():
        part = next((part for part in learnt if part.config == rows[row]), None)
        if row != DETECTOR and (part is not None or not (learns(each) or each.scales)):
            found[row] = each if part is None else part
    return found


def _by_channel(manifest: Manifest, channels: Sequence[str]) -> Manifest:
    """The scans under the plan's name of their channel, where both have one: plain files do not say what they show."""
    if len(channels) != 1 or len(manifest.channels) != 1 or manifest.channels == tuple(channels):
        return manifest
    renamed = [
        case.model_copy(update={"images": dict(zip(channels, case.images.values(), strict=True))}) for case in manifest.cases
    ]
    return manifest.model_copy(update={"cases": tuple(renamed), "channels": tuple(channels)})
